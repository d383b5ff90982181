/* Loads and roundings that weight decoders, packers and epilogues share. */
#ifndef NB_KERNELS_CPU_PANEL_AVX512_H
#define NB_KERNELS_CPU_PANEL_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "kernels/weight.h"

static inline __mmask16 nb_first_lanes(int64_t n)
{
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u);
}

/* F8 by way of F16: an E4M3's bits, shifted, are an F16 of 2^-8 times its value. */
static inline __m512 nb_load16_e4m3(const void *p)
{
    __m256i c = _mm256_cvtepu8_epi16(_mm_loadu_si128(p));
    __m256i magnitude = _mm256_and_si256(c, _mm256_set1_epi16(0x7f));
    __mmask16 is_nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    __m256i sign = _mm256_slli_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0x80)), 8);
    __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
    half = _mm256_mask_mov_epi16(half, is_nan, _mm256_set1_epi16(0x7e00));
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}

/* 16 elements of a type as F32, at any alignment. `dtype` is a constant where this is used. */
static inline __attribute__((always_inline)) __m512 nb_load16(nb_dtype dtype, const void *p)
{
    switch (dtype) {
    case NB_DTYPE_F16:
        return _mm512_cvtph_ps(_mm256_loadu_si256(p));
    case NB_DTYPE_BF16:
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
    case NB_DTYPE_F8_E4M3:
        return nb_load16_e4m3(p);
    case NB_DTYPE_F8_E5M2: /* the upper half of an F16 */
        return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(p)), 8));
    default:
        return _mm512_loadu_ps(p);
    }
}

/* 16 E2M1 codes out of 8 bytes, times their scale. */
static inline __m512 nb_load16_e2m1(const uint8_t *p, int high_first, float scale)
{
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f,
                                         -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    __m128i c = _mm_loadl_epi64((const void *)p), half = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(c, half), high = _mm_and_si128(_mm_srli_epi16(c, 4), half);
    c = high_first ? _mm_unpacklo_epi8(high, low) : _mm_unpacklo_epi8(low, high);
    return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(c), values),
                         _mm512_set1_ps(scale));
}

/* nb_round_bf16 of 16 floats. */
static inline __m512 nb_round_bf16_avx512(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    sum = _mm512_mask_mov_epi32(sum, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits);
    return _mm512_castsi512_ps(_mm512_and_si512(sum, _mm512_set1_epi32(-0x10000)));
}

#endif
