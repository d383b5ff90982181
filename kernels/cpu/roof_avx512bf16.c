#include <immintrin.h>

#include "kernels/cpu/roof.h"

enum { N = 16, PRODUCTS = 32 };

static void run_bf16(const void *data, int64_t rounds)
{
    __m512 sum[N];
    __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    (void)data;
    for (int i = 0; i < N; i++) sum[i] = _mm512_set1_ps((float)i);
    for (; rounds > 0; rounds--)
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) sum[i] = _mm512_dpbf16_ps(sum[i], ones, ones);
    for (int i = 0; i < N; i++) NB_ROOF_KEEP(sum[i]);
}

const nb_roof_loop nb_roof_bf16_avx512bf16 = {"vdpbf16ps, 512 bits", 2.0 * N *PRODUCTS,
                                              run_bf16};
