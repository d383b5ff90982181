#include "kernels/cpu/linear_few_avx512.h"

NB_ALWAYS_INLINE __m512 multiply_add_f32(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_fmadd_ps(w, x, sum);
}

void nb_few_f32_avx512(float *c, const nb_few_span *s)
{
    nb_few_avx512(c, s, multiply_add_f32);
}
