#include <immintrin.h>

#include "kernels/cpu/roof.h"

enum { N = 12, LANES = 8 }; /* of 16 registers */

static void run_f32(const void *data, int64_t rounds)
{
    __m256 sum[N], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.0f);
    (void)data;
    for (int i = 0; i < N; i++) sum[i] = _mm256_set1_ps((float)i);
    for (; rounds > 0; rounds--)
#pragma GCC unroll 12
        for (int i = 0; i < N; i++) sum[i] = _mm256_fmadd_ps(sum[i], a, b);
    for (int i = 0; i < N; i++) NB_ROOF_KEEP(sum[i]);
}

static void run_read(const void *data, int64_t rounds)
{
    enum { VECTORS = NB_ROOF_READ_BYTES / 32 };
    const __m256i *at = data;
    for (; rounds > 0; rounds--, at += VECTORS)
#pragma GCC unroll 32
        for (int i = 0; i < VECTORS; i++) {
            __m256i x = _mm256_load_si256(at + i);
            NB_ROOF_KEEP(x);
        }
}

const nb_roof_loop nb_roof_f32_avx2 = {"vfmadd, 256 bits", 2.0 * N *LANES, run_f32};
const nb_roof_loop nb_roof_read_avx2 = {"256 bits", NB_ROOF_READ_BYTES, run_read};
