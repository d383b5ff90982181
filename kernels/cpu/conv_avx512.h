/* What the packers of F32 units and of BF16 pairs share. */
#ifndef NB_KERNELS_CPU_CONV_AVX512_H
#define NB_KERNELS_CPU_CONV_AVX512_H

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_avx512.h"

/*
 * x / (1 + exp(-x)) within 3e-7 of its value for x > -10 and 2e-6 below, NaN where x is NaN.
 * exp(-x) = 2^n 2^f, |f| <= 1/2, 2^f a minimax polynomial (7e-8); the quotient is an estimate
 * of 14 bits and one step of Newton's. Below -87 the result is 0 but for 1e-36.
 */
static inline __m512 nb_silu_avx512(__m512 x)
{
    const __m512 log2_e = _mm512_set1_ps(-1.44269504f);
    __m512 t = _mm512_max_ps(_mm512_set1_ps(-87.0f), x); /* NaN: the second operand */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(t, log2_e),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_fmsub_ps(t, log2_e, n);
    __m512 p = _mm512_set1_ps(1.32764294e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.67554189e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55071346e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40221202e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93146944e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    __m512 d = _mm512_add_ps(_mm512_scalef_ps(p, n), _mm512_set1_ps(1.0f));
    __m512 r = _mm512_rcp14_ps(d);
    r = _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.0f)));
    return _mm512_mul_ps(x, r);
}

/* u of pixels at ... at+15 of channel `i` of a unit, of which `n` are wanted. Options are
 * constants where this is used. */
static inline __attribute__((always_inline)) __m512 nb_source16_avx512(const nb_conv_source *s,
                                                                       int i, int64_t at,
                                                                       int64_t n, int affine,
                                                                       int silu, int upsample)
{
    if (!s->x[i]) return _mm512_setzero_ps();
    const float *x = s->x[i] + (upsample ? at / 2 : at);
    if (upsample) n = ((n > 16 ? 16 : n) + s->odd + 1) / 2;
    __m512 u = n >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(nb_first_lanes(n), x);
    if (affine) u = _mm512_fmadd_ps(u, _mm512_set1_ps(s->mul[i]), _mm512_set1_ps(s->add[i]));
    if (silu) u = nb_silu_avx512(u);
    if (!upsample) return u;
    __m512i t = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    t = _mm512_srli_epi32(_mm512_add_epi32(t, _mm512_set1_epi32(s->odd)), 1);
    return _mm512_permutexvar_ps(t, u);
}

typedef void nb_store16_avx512(void *out, __m512 low, __m512 high, __mmask16 mask);

static inline __attribute__((always_inline)) void
nb_pack_some_avx512(char *out, const nb_conv_source *s, int64_t n, nb_store16_avx512 *store,
                    int affine, int silu, int upsample, int channels)
{
    __m512 high = _mm512_setzero_ps();
    for (int64_t at = 0; at < n; at += 16) {
        __m512 low = nb_source16_avx512(s, 0, at, n - at, affine, silu, upsample);
        if (channels > 1) high = nb_source16_avx512(s, 1, at, n - at, affine, silu, upsample);
        store(out + at * 4, low, high, nb_first_lanes(n - at));
    }
}

/* nb_pack_pixels_fn with `store` for the units of 16 pixels. */
static inline __attribute__((always_inline)) void
nb_pack_pixels_avx512(char *out, const nb_conv_source *s, int64_t n, nb_store16_avx512 *store,
                      int channels)
{
    if (s->upsample)
        nb_pack_some_avx512(out, s, n, store, s->affine, s->silu, 1, channels);
    else if (s->affine && s->silu)
        nb_pack_some_avx512(out, s, n, store, 1, 1, 0, channels);
    else
        nb_pack_some_avx512(out, s, n, store, s->affine, s->silu, 0, channels);
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
