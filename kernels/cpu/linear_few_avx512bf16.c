#include "kernels/cpu/linear_few_avx512.h"

NB_ALWAYS_INLINE __m512 multiply_add_bf16(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

void nb_few_bf16_avx512bf16(float *c, const nb_few_span *s)
{
    nb_few_avx512(c, s, multiply_add_bf16);
}
