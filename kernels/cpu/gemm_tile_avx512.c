#include "kernels/cpu/gemm_tile_avx512.h"

NB_ALWAYS_INLINE __m512 multiply_add_f32(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_fmadd_ps(w, x, sum);
}

void nb_gemm_tile_f32_full_avx512(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_TILE_ROWS_AVX512, 2, multiply_add_f32);
}

void nb_gemm_tile_f32_half_avx512(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_TILE_ROWS_AVX512, 1, multiply_add_f32);
}

void nb_conv_tile_f32_full_avx512(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_CONV_ROWS_AVX512, 2, multiply_add_f32);
}

void nb_conv_tile_f32_half_avx512(float *c, const nb_gemm_span *s)
{
    nb_tile_avx512(c, s, NB_CONV_ROWS_AVX512, 1, multiply_add_f32);
}
