/* Activations of 8 floats, as in vec_math_avx512.h. */
#ifndef NB_KERNELS_CPU_ACT_AVX2_H
#define NB_KERNELS_CPU_ACT_AVX2_H

#include "kernels/cpu/vec_avx2.h"
#include "kernels/linear.h"

/* t * sigmoid(x) */
static inline vec nb_gate_avx2(vec t, vec x)
{
    return vec_div(t, vec_add(vec_all(1.0f), vec_exp(vec_sub(vec_zero(), x))));
}

/* 1 - erf(z) for z >= 0: Numerical Recipes' erfcc, a fit in 2 / (2 + z). */
static inline vec nb_erfc_positive_avx2(vec z)
{
    static const float c[] = {0.17087277f,  -0.82215223f, 1.48851587f,
                              -1.13520398f, 0.27886807f,  -0.18628806f,
                              0.09678418f,  0.37409196f,  1.00002368f};
    vec t = vec_div(vec_all(1.0f), vec_fma(vec_all(0.5f), z, vec_all(1.0f))), p = vec_all(c[0]);
    for (int i = 1; i < 9; i++) p = vec_fma(p, t, vec_all(c[i]));
    p = vec_fma(p, t, vec_all(-1.26551223f));
    return vec_mul(t, vec_exp(_mm256_fnmadd_ps(z, z, p)));
}

static inline vec nb_gelu_avx2(vec t)
{
    vec magnitude = _mm256_andnot_ps(vec_all(-0.0f), t);
    vec e = nb_erfc_positive_avx2(vec_mul(magnitude, vec_all(0.70710678f)));
    vec positive = _mm256_cmp_ps(t, vec_zero(), _CMP_GT_OQ);
    e = _mm256_blendv_ps(e, vec_sub(vec_all(2.0f), e), positive);
    return vec_mul(vec_mul(t, vec_all(0.5f)), e);
}

static inline vec nb_act_avx2(nb_act act, vec t)
{
    vec u;
    switch (act) {
    case NB_ACT_GELU_TANH: /* (1 + tanh(u)) / 2 = sigmoid(2 u) */
        u = vec_mul(vec_mul(t, t), vec_all(2 * 0.79788456f * 0.044715f));
        return nb_gate_avx2(t, vec_mul(t, vec_add(u, vec_all(2 * 0.79788456f))));
    case NB_ACT_GELU:
        return nb_gelu_avx2(t);
    case NB_ACT_QUICK_GELU:
        return nb_gate_avx2(t, vec_mul(t, vec_all(1.702f)));
    case NB_ACT_SILU:
        return nb_gate_avx2(t, t);
    case NB_ACT_RELU: /* NaN comes through as the second operand */
        return vec_max(vec_zero(), t);
    default:
        return t;
    }
}

#endif
