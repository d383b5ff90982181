#include <immintrin.h>

#include "kernels/cpu/roof.h"

enum { N = 16, LANES = 16 };

static void run_f32(const void *data, int64_t rounds)
{
    __m512 sum[N], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
    (void)data;
    for (int i = 0; i < N; i++) sum[i] = _mm512_set1_ps((float)i);
    for (; rounds > 0; rounds--)
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) sum[i] = _mm512_fmadd_ps(sum[i], a, b);
    for (int i = 0; i < N; i++) NB_ROOF_KEEP(sum[i]);
}

static void run_read(const void *data, int64_t rounds)
{
    enum { VECTORS = NB_ROOF_READ_BYTES / 64 };
    const __m512i *at = data;
    for (; rounds > 0; rounds--, at += VECTORS)
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            __m512i x = _mm512_load_si512(at + i);
            NB_ROOF_KEEP(x);
        }
}

const nb_roof_loop nb_roof_f32_avx512 = {"vfmadd, 512 bits", 2.0 * N *LANES, run_f32};
const nb_roof_loop nb_roof_read_avx512 = {"512 bits", NB_ROOF_READ_BYTES, run_read};
