/* What the packers of F32 units and of BF16 pairs share. */
#ifndef NB_KERNELS_CPU_CONV_AVX512_H
#define NB_KERNELS_CPU_CONV_AVX512_H

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

/* u of 16 pixels of channel `i` of a unit. */
static inline __m512 nb_source16_avx512(const nb_conv_source *s, int i, int64_t at,
                                        __mmask16 mask)
{
    if (!s->x[i]) return _mm512_setzero_ps();
    __m512 u = _mm512_maskz_loadu_ps(mask, s->x[i] + at);
    if (s->affine) u = _mm512_fmadd_ps(u, _mm512_set1_ps(s->mul[i]), _mm512_set1_ps(s->add[i]));
    return s->silu ? nb_gate_avx512(u, u) : u;
}

/* Weights of one tap for 16 channels, `step` channels from each other. */
static inline __m512 nb_filter16_avx512(const float *w, int taps, int step, int64_t n)
{
    __m512i index = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32(taps * step));
    __mmask16 mask = n > 0 ? nb_first_lanes(n) : 0;
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, w, 4);
}

#endif
