#include <immintrin.h>

#include "kernels/cpu/roof.h"

enum { N = 16, PRODUCTS = 64 };

static void run_int8(const void *data, int64_t rounds)
{
    __m512i sum[N], ones = _mm512_set1_epi8(1);
    (void)data;
    for (int i = 0; i < N; i++) sum[i] = _mm512_set1_epi32(i);
    for (; rounds > 0; rounds--)
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], ones, ones);
    for (int i = 0; i < N; i++) NB_ROOF_KEEP(sum[i]);
}

const nb_roof_loop nb_roof_int8_avx512vnni = {"vpdpbusd, 512 bits", 2.0 * N *PRODUCTS,
                                              run_int8};
