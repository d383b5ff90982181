#include "kernels/cpu/gemm_tile_avx512.h"

NB_ALWAYS_INLINE __m512 multiply_add_bf16(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

void nb_gemm_tile_bf16_full_avx512bf16(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_TILE_ROWS_AVX512, 2, multiply_add_bf16);
}

void nb_gemm_tile_bf16_half_avx512bf16(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_TILE_ROWS_AVX512, 1, multiply_add_bf16);
}

void nb_conv_tile_bf16_full_avx512bf16(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_CONV_ROWS_AVX512, 2, multiply_add_bf16);
}

void nb_conv_tile_bf16_half_avx512bf16(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_CONV_ROWS_AVX512, 1, multiply_add_bf16);
}
