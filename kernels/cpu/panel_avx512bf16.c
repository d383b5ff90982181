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

static void decode_fp4(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                       int64_t stride)
{
    int bits = nb_weight_block_bits(w);
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    for (int64_t at = 0; at < count; at += 32, codes += 16, out += stride) {
        __m512 low = nb_load16_e2m1(codes, w->high_first, w->scale_values[scales[at >> bits]]);
        __m512 high = _mm512_setzero_ps();
        if (at + 16 < count)
            high = nb_load16_e2m1(codes + 8, w->high_first,
                                  w->scale_values[scales[(at + 16) >> bits]]);
        _mm512_store_si512((void *)out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
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
        decode_fp4(w, row, k0, count, out, stride);
        break;
    default:
        nb_panel_ggml_bf16_avx512bf16(w, row, k0, count, out, stride);
    }
}
