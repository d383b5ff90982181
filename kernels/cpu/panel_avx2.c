/* Weight decoders into panels of F32 units, as they are or rounded to BF16. */
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_ggml.h"
#include "kernels/cpu/vec_avx2.h"

enum { SEGMENT = 128 }; /* elements under one scale at least */

static __m128i load_bytes8(const void *p)
{
    return _mm_cvtepu8_epi16(_mm_loadl_epi64(p));
}

/* By way of F16: an E4M3's bits, shifted, are an F16 of 2^-8 times its value. */
static vec load8_e4m3(const void *p)
{
    __m128i c = load_bytes8(p), magnitude = _mm_and_si128(c, _mm_set1_epi16(0x7f));
    __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    __m128i sign = _mm_slli_epi16(_mm_and_si128(c, _mm_set1_epi16(0x80)), 8);
    __m128i half = _mm_or_si128(sign, _mm_slli_epi16(magnitude, 7));
    half = _mm_or_si128(half, _mm_and_si128(is_nan, _mm_set1_epi16(0x7e00)));
    return vec_mul(_mm256_cvtph_ps(half), vec_all(256.0f));
}

/* 8 elements of a type as F32, at any alignment. */
NB_ALWAYS_INLINE vec load8(nb_dtype dtype, const void *p)
{
    switch (dtype) {
    case NB_DTYPE_F16:
        return _mm256_cvtph_ps(_mm_loadu_si128(p));
    case NB_DTYPE_BF16:
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
    case NB_DTYPE_F8_E4M3:
        return load8_e4m3(p);
    case NB_DTYPE_F8_E5M2: /* the upper half of an F16 */
        return _mm256_cvtph_ps(_mm_slli_epi16(load_bytes8(p), 8));
    default:
        return _mm256_loadu_ps(p);
    }
}

/* A chunk: 16 units. */
NB_ALWAYS_INLINE void decode16(nb_dtype dtype, int rounded, const char *p, vec scale, char *out)
{
    int64_t bytes = (int64_t)nb_dtype_bytes(dtype);
    vec low = vec_mul(load8(dtype, p), scale),
        high = vec_mul(load8(dtype, p + 8 * bytes), scale);
    vec_store((float *)(void *)out, rounded ? vec_round_bf16(low) : low);
    vec_store((float *)(void *)out + 8, rounded ? vec_round_bf16(high) : high);
}

NB_ALWAYS_INLINE void decode_row(nb_dtype dtype, int rounded, const nb_weight *w, int64_t row,
                                 int64_t k0, int64_t count, char *out, int64_t stride)
{
    int64_t bytes = (int64_t)nb_dtype_bytes(dtype);
    const char *p = (const char *)w->data + (row * w->k + k0) * bytes;
    for (int64_t at = 0; at < count; at += SEGMENT) {
        vec scale = vec_all(nb_weight_scale_at(w, row, k0 + at));
        int64_t end = at + SEGMENT < count ? at + SEGMENT : count, k = at;
        for (; k + 16 <= end; k += 16, p += 16 * bytes, out += stride)
            decode16(dtype, rounded, p, scale, out);
        if (k == end) continue;
        char tail[64] = {0}; /* the mapping may end with the row */
        memcpy(tail, p, (size_t)((end - k) * bytes));
        decode16(dtype, rounded, tail, scale, out);
    }
}

/* 8 E2M1 codes out of 4 bytes, times their scale. */
static vec load8_e2m1(const uint8_t *p, int high_first, vec scale)
{
    const vec magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    __m128i c = _mm_cvtsi32_si128(bytes), half = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(c, half), high = _mm_and_si128(_mm_srli_epi16(c, 4), half);
    c = high_first ? _mm_unpacklo_epi8(high, low) : _mm_unpacklo_epi8(low, high);
    __m256i codes = _mm256_cvtepu8_epi32(c); /* the permutation looks at 3 bits */
    __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(codes, 3), 31);
    vec magnitude = _mm256_permutevar8x32_ps(magnitudes, codes);
    return vec_mul(_mm256_xor_ps(magnitude, _mm256_castsi256_ps(sign)), scale);
}

NB_ALWAYS_INLINE void decode_fp4(int rounded, const nb_weight *w, int64_t row, int64_t k0,
                                 int64_t count, char *out, int64_t stride)
{
    int bits = nb_weight_block_bits(w);
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    for (int64_t at = 0; at < count; at += 16, codes += 8, out += stride) {
        vec scale = vec_all(w->scale_values[scales[at >> bits]]);
        vec low = load8_e2m1(codes, w->high_first, scale);
        vec high = load8_e2m1(codes + 4, w->high_first, scale);
        vec_store((float *)(void *)out, rounded ? vec_round_bf16(low) : low);
        vec_store((float *)(void *)out + 8, rounded ? vec_round_bf16(high) : high);
    }
}

#define DECODE(dtype, rounded)                                                                 \
    case NB_DTYPE_##dtype:                                                                     \
        decode_row(NB_DTYPE_##dtype, rounded, w, row, k0, count, out, stride);                 \
        break;

void nb_panel_f32_avx2(const nb_weight *w, int64_t row, int64_t k0, int64_t count, void *out,
                       int64_t stride)
{
    switch (w->dtype) {
        DECODE(F32, 0)
        DECODE(F16, 0)
        DECODE(BF16, 0)
        DECODE(F8_E4M3, 0)
        DECODE(F8_E5M2, 0)
    case NB_DTYPE_F4_E2M1X2:
        decode_fp4(0, w, row, k0, count, out, stride);
        break;
    default:
        nb_panel_ggml_f32_avx2(w, row, k0, count, out, stride);
    }
}

void nb_panel_rounded_avx2(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                           void *out, int64_t stride)
{
    switch (w->dtype) {
        DECODE(F32, 1)
        DECODE(F16, 1)
        DECODE(BF16, 1)
        DECODE(F8_E4M3, 1)
        DECODE(F8_E5M2, 1)
    case NB_DTYPE_F4_E2M1X2:
        decode_fp4(1, w, row, k0, count, out, stride);
        break;
    default:
        nb_panel_ggml_rounded_avx2(w, row, k0, count, out, stride);
    }
}
