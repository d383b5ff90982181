/*
 * Elementary functions of 16 floats, for files with the suffix _avx512 or higher. Relative
 * error at most 2e-7 (about 2 ulp) over the whole range, infinities and NaNs as in libm;
 * results below the smallest normal number may lose bits.
 */
#ifndef NB_KERNELS_CPU_VEC_MATH_AVX512_H
#define NB_KERNELS_CPU_VEC_MATH_AVX512_H

#include <immintrin.h>

#include "kernels/linear.h"

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; the polynomial is Cephes' expf. */
static inline __m512 nb_exp_avx512(__m512 x)
{
    /* The second operand comes through where x is NaN; the limits keep n finite. */
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-110.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r);
    return _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f)), n);
}

/* t * sigmoid(x) */
static inline __m512 nb_gate_avx512(__m512 t, __m512 x)
{
    __m512 e = nb_exp_avx512(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(t, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* 1 - erf(z) for z >= 0: Numerical Recipes' erfcc, a fit in 2 / (2 + z). */
static inline __m512 nb_erfc_positive_avx512(__m512 z)
{
    static const float c[] = {0.17087277f,  -0.82215223f, 1.48851587f,
                              -1.13520398f, 0.27886807f,  -0.18628806f,
                              0.09678418f,  0.37409196f,  1.00002368f};
    __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(half, z, one));
    __m512 p = _mm512_set1_ps(c[0]);
    for (int i = 1; i < 9; i++) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(c[i]));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.26551223f));
    return _mm512_mul_ps(t, nb_exp_avx512(_mm512_fnmadd_ps(z, z, p)));
}

static inline __m512 nb_gelu_avx512(__m512 t)
{
    __m512 half_t = _mm512_mul_ps(t, _mm512_set1_ps(0.5f));
    __m512 e =
        nb_erfc_positive_avx512(_mm512_mul_ps(_mm512_abs_ps(t), _mm512_set1_ps(0.70710678f)));
    __mmask16 positive = _mm512_cmp_ps_mask(t, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mul_ps(half_t, _mm512_mask_sub_ps(e, positive, _mm512_set1_ps(2.0f), e));
}

static inline __m512 nb_act_avx512(nb_act act, __m512 t)
{
    __m512 u;
    switch (act) {
    case NB_ACT_GELU_TANH: /* (1 + tanh(u)) / 2 = sigmoid(2 u) */
        u = _mm512_mul_ps(_mm512_mul_ps(t, t), _mm512_set1_ps(2 * 0.79788456f * 0.044715f));
        return nb_gate_avx512(
            t, _mm512_mul_ps(t, _mm512_add_ps(u, _mm512_set1_ps(2 * 0.79788456f))));
    case NB_ACT_GELU:
        return nb_gelu_avx512(t);
    case NB_ACT_QUICK_GELU:
        return nb_gate_avx512(t, _mm512_mul_ps(t, _mm512_set1_ps(1.702f)));
    case NB_ACT_SILU:
        return nb_gate_avx512(t, t);
    case NB_ACT_RELU: /* NaN comes through as the second operand */
        return _mm512_max_ps(_mm512_setzero_ps(), t);
    default:
        return t;
    }
}

#endif
