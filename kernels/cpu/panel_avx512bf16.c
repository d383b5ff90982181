/* Weight decoders into panels of BF16 pairs. */
#include "kernels/cpu/panel_avx512.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_ggml.h"

enum { SEGMENT = 128 }; /* elements under one scale at least */

static inline __attribute__((always_inline)) __m512i decode32(nb_dtype dtype, const char *p,
                                                              __m512 scale)
{
    int64_t bytes = (int64_t)nb_dtype_bytes(dtype);
    __m512 low = _mm512_mul_ps(nb_load16(dtype, p), scale);
    __m512 high = _mm512_mul_ps(nb_load16(dtype, p + 16 * bytes), scale);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

static inline __attribute__((always_inline)) void decode_row(nb_dtype dtype, const nb_weight *w,
                                                             int64_t row, int64_t k0,
                                                             int64_t count, char *out,
                                                             int64_t stride)
{
    int64_t bytes = (int64_t)nb_dtype_bytes(dtype);
    const char *p = (const char *)w->data + (row * w->k + k0) * bytes;
    for (int64_t at = 0; at < count; at += SEGMENT) {
        __m512 scale = _mm512_set1_ps(nb_weight_scale_at(w, row, k0 + at));
        int64_t end = at + SEGMENT < count ? at + SEGMENT : count, k = at;
        for (; k + 32 <= end; k += 32, p += 32 * bytes, out += stride)
            _mm512_store_si512((void *)out, decode32(dtype, p, scale));
        if (k == end) continue;
        char tail[128] = {0}; /* the mapping may end with the row */
        memcpy(tail, p, (size_t)((end - k) * bytes));
        _mm512_store_si512((void *)out, decode32(dtype, tail, scale));
    }
}

/* Code i of 8 or 16 bytes in 16-bit lane i, whatever stands above its 4 bits. */
static inline __m512i spread_codes(__m128i codes, int high_first)
{
    const __m512i low = _mm512_setr_epi64(
        0x000c000800040000, 0x001c001800140010, 0x002c002800240020, 0x003c003800340030,
        0x000c000800040000, 0x001c001800140010, 0x002c002800240020, 0x003c003800340030);
    const __m512i high = _mm512_xor_si512(low, _mm512_set1_epi16(4));
    __m512i halves = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1),
                                              _mm512_castsi128_si512(codes));
    return _mm512_multishift_epi64_epi8(high_first ? high : low, halves);
}

/* 32 codes: the values of all codes under the scale of the first 16, and under that of the
 * others, are the two halves of a table. */
static inline __m512i decode_codes(__m128i codes, int high_first, float scale, float scale16)
{
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f,
                                         -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    __m512i table = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(values, _mm512_set1_ps(scale16)),
                                                 _mm512_mul_ps(values, _mm512_set1_ps(scale)));
    __m512i index = _mm512_ternarylogic_epi64(spread_codes(codes, high_first),
                                              _mm512_set1_epi16(15), second, 0xea); /* &, | */
    return _mm512_permutexvar_epi16(index, table);
}

static inline __attribute__((always_inline)) void decode_fp4(const nb_weight *w, int64_t row,
                                                             int64_t k0, int64_t count,
                                                             char *out, int64_t stride,
                                                             int high_first, int bits)
{
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    const float *values = w->scale_values;
    int64_t at = 0;
    for (; at + 32 <= count; at += 32, codes += 16, out += stride)
        _mm512_store_si512((void *)out, decode_codes(_mm_loadu_si128((const void *)codes),
                                                     high_first, values[scales[at >> bits]],
                                                     values[scales[(at + 16) >> bits]]));
    if (at < count) /* a last block of 16 */
        _mm512_store_si512(
            (void *)out, _mm512_maskz_mov_epi64(
                             0x0f, decode_codes(_mm_loadl_epi64((const void *)codes),
                                                high_first, values[scales[at >> bits]], 0.0f)));
}

static void decode_fp4_of(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                          int64_t stride)
{
    if (nb_weight_block_bits(w) == 5 && w->high_first)
        decode_fp4(w, row, k0, count, out, stride, 1, 5);
    else if (nb_weight_block_bits(w) == 5)
        decode_fp4(w, row, k0, count, out, stride, 0, 5);
    else if (w->high_first)
        decode_fp4(w, row, k0, count, out, stride, 1, 4);
    else
        decode_fp4(w, row, k0, count, out, stride, 0, 4);
}

/* BF16 without a scale needs no arithmetic. */
static void copy_row(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                     int64_t stride)
{
    const uint16_t *p = (const uint16_t *)w->data + row * w->k + k0;
    int64_t k = 0;
    for (; k + 32 <= count; k += 32, out += stride)
        _mm512_store_si512((void *)out, _mm512_loadu_si512(p + k));
    if (k < count)
        _mm512_store_si512((void *)out, _mm512_maskz_loadu_epi16(
                                            (__mmask32)((1ull << (count - k)) - 1), p + k));
}

#define DECODE(dtype)                                                                          \
    case NB_DTYPE_##dtype:                                                                     \
        decode_row(NB_DTYPE_##dtype, w, row, k0, count, out, stride);                          \
        break;

void nb_panel_bf16_avx512bf16(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                              void *out, int64_t stride)
{
    int is_plain = w->scale_kind == NB_SCALE_NONE && w->scale == 1.0f;
    if (w->dtype == NB_DTYPE_BF16 && is_plain) {
        copy_row(w, row, k0, count, out, stride);
        return;
    }
    switch (w->dtype) {
        DECODE(F32)
        DECODE(F16)
        DECODE(BF16)
        DECODE(F8_E4M3)
        DECODE(F8_E5M2)
    case NB_DTYPE_F4_E2M1X2:
        decode_fp4_of(w, row, k0, count, out, stride);
        break;
    default:
        nb_panel_ggml_bf16_avx512bf16(w, row, k0, count, out, stride);
    }
}
