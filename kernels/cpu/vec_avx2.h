/* As vec_avx512.h, for files with the suffix _avx2 (which implies FMA and F16C). */
#ifndef NB_KERNELS_CPU_VEC_AVX2_H
#define NB_KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

typedef __m256 vec;
enum { LANES = 8 };

/* The name of this instruction set's variant of an operation. */
#define VARIANT(op) nb_##op##_avx2

static inline vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vec vec_all(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void vec_store(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}

static inline __m256i vec_mask(int64_t n)
{
    int count = n >= LANES ? LANES : n <= 0 ? 0 : (int)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count),
                              _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

static inline vec vec_load_n(const float *p, int64_t n)
{
    return n >= LANES ? vec_load(p) : _mm256_maskload_ps(p, vec_mask(n));
}

static inline void vec_store_n(float *p, vec x, int64_t n)
{
    if (n >= LANES)
        vec_store(p, x);
    else
        _mm256_maskstore_ps(p, vec_mask(n), x);
}

static inline void vec_store_halves(float *low, float *high, vec x)
{
    _mm_storeu_ps(low, _mm256_castps256_ps128(x));
    _mm_storeu_ps(high, _mm256_extractf128_ps(x, 1));
}

static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline vec vec_select_ge(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GE_OQ));
}

static inline vec vec_iota(void)
{
    return _mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0);
}

static inline vec vec_swap_pairs(vec x)
{
    return _mm256_permute_ps(x, 0xb1);
}

static inline vec vec_load_twice(const float *p, int64_t n)
{
    const __m256i index = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    __m128 x = n >= LANES / 2 ? _mm_loadu_ps(p)
                              : _mm_maskload_ps(p, _mm256_castsi256_si128(vec_mask(n)));
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(x), index);
}

static inline vec vec_fmaddsub(vec a, vec b, vec c)
{
    return _mm256_fmaddsub_ps(a, b, c);
}

/* 2^n for integers n, -126 <= n <= 127. */
static inline vec vec_power_of_2(__m256i n)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* As nb_exp_avx512(); 2^n is put on in two halves, so that it ends in infinity and in zero. */
static inline vec vec_exp(vec x)
{
    x = _mm256_min_ps(vec_all(89.0f), _mm256_max_ps(vec_all(-110.0f), x));
    vec n = _mm256_round_ps(vec_mul(x, vec_all(1.44269504f)),
                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = _mm256_fnmadd_ps(n, vec_all(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, vec_all(-2.12194440e-4f), r);
    vec p = vec_all(1.9875691500e-4f);
    p = vec_fma(p, r, vec_all(1.3981999507e-3f));
    p = vec_fma(p, r, vec_all(8.3334519073e-3f));
    p = vec_fma(p, r, vec_all(4.1665795894e-2f));
    p = vec_fma(p, r, vec_all(1.6666665459e-1f));
    p = vec_fma(p, r, vec_all(5.0000001201e-1f));
    p = vec_add(vec_fma(vec_mul(p, r), r, r), vec_all(1.0f));
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    p = vec_mul(p, vec_power_of_2(half));
    return vec_mul(p, vec_power_of_2(_mm256_sub_epi32(whole, half)));
}

static inline vec vec_round_bf16(vec x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    bits = _mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000u));
    return _mm256_blendv_ps(_mm256_castsi256_ps(bits), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

static inline void vec_transpose(vec r[LANES])
{
    vec t[LANES];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) { /* r[i + j]: columns j and j + 4 of 4 rows */
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < LANES; i++) r[i] = t[i];
}

/* A running sum in double precision. */
typedef struct wide {
    __m256d low, high;
} wide;

static inline wide wide_zero(void)
{
    return (wide){_mm256_setzero_pd(), _mm256_setzero_pd()};
}

static inline wide wide_add(wide sum, vec x)
{
    sum.low = _mm256_add_pd(sum.low, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
    sum.high = _mm256_add_pd(sum.high, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
    return sum;
}

/* Always in the same order. */
static inline double wide_sum(wide sum)
{
    double x[4];
    _mm256_storeu_pd(x, _mm256_add_pd(sum.low, sum.high));
    return (x[0] + x[2]) + (x[1] + x[3]);
}

static inline float vec_sum(vec x)
{
    return (float)wide_sum(wide_add(wide_zero(), x));
}

#endif
