/*
 * Vectors of floats by one set of names, so that the body of an operation (the *_body.h files)
 * is written once and compiled for each instruction set: vec_avx512.h and vec_avx2.h are alike.
 * For files with the suffix _avx512 or higher. Of two operands, max gives the second where one
 * is NaN.
 */
#ifndef NB_KERNELS_CPU_VEC_AVX512_H
#define NB_KERNELS_CPU_VEC_AVX512_H

#include <stdint.h>

#include "kernels/cpu/transpose_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

typedef __m512 vec;
enum { LANES = 16 };

/* The name of this instruction set's variant of an operation. */
#define VARIANT(op) nb_##op##_avx512

static inline vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vec vec_all(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void vec_store(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}

static inline __mmask16 vec_mask(int64_t n)
{
    return n >= LANES ? (__mmask16)0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1u);
}

/* The first n lanes, any n; the others are 0, memory behind them is not touched. */
static inline vec vec_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(vec_mask(n), p);
}

static inline void vec_store_n(float *p, vec x, int64_t n)
{
    _mm512_mask_storeu_ps(p, vec_mask(n), x);
}

static inline void vec_store_halves(float *low, float *high, vec x)
{
    _mm256_storeu_ps(low, _mm512_castps512_ps256(x));
    _mm256_storeu_ps(high, _mm512_extractf32x8_ps(x, 1));
}

static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

/* a >= b ? x : y */
static inline vec vec_select_ge(vec a, vec b, vec x, vec y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), y, x);
}

static inline vec vec_iota(void)
{
    return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}

/* x[1], x[0], x[3], x[2] ... */
static inline vec vec_swap_pairs(vec x)
{
    return _mm512_permute_ps(x, 0xb1);
}

/* x[0], x[0], x[1], x[1] ... of LANES / 2 floats in memory, the first n of them. */
static inline vec vec_load_twice(const float *p, int64_t n)
{
    const __m512i index = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __mmask8 mask = n >= LANES / 2 ? (__mmask8)0xff : (__mmask8)vec_mask(n);
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(mask, p)));
}

/* a * b - c in even lanes, a * b + c in odd ones. */
static inline vec vec_fmaddsub(vec a, vec b, vec c)
{
    return _mm512_fmaddsub_ps(a, b, c);
}

static inline vec vec_exp(vec x)
{
    return nb_exp_avx512(x);
}

/* Nearest even. */
static inline vec vec_round_bf16(vec x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    bits = _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000u));
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_blend_ps(is_nan, _mm512_castsi512_ps(bits), x);
}

/* A running sum in double precision. */
typedef struct wide {
    __m512d low, high;
} wide;

static inline wide wide_zero(void)
{
    return (wide){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

static inline wide wide_add(wide sum, vec x)
{
    sum.low = _mm512_add_pd(sum.low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
    sum.high = _mm512_add_pd(sum.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
    return sum;
}

/* Always in the same order. */
static inline double wide_sum(wide sum)
{
    return _mm512_reduce_add_pd(_mm512_add_pd(sum.low, sum.high));
}

static inline float vec_sum(vec x)
{
    return _mm512_reduce_add_ps(x);
}

static inline void vec_transpose(vec r[LANES])
{
    nb_transpose16_avx512(r);
}

#endif
