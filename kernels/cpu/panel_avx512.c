/* Weight decoders into panels of F32 units, as they are or rounded to BF16. */
#include "kernels/cpu/panel_avx512.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_ggml.h"
#include "kernels/cpu/transpose_avx512.h"

enum { SEGMENT = 128 }; /* elements under one scale at least */

static inline __attribute__((always_inline)) __m512 decode16(nb_dtype dtype, int rounded,
                                                             const void *p, __m512 scale)
{
    __m512 v = _mm512_mul_ps(nb_load16(dtype, p), scale);
    return rounded ? nb_round_bf16_avx512(v) : v;
}

static inline __attribute__((always_inline)) void decode_row(nb_dtype dtype, int rounded,
                                                             const nb_weight *w, int64_t row,
                                                             int64_t k0, int64_t count,
                                                             char *out, int64_t stride)
{
    int64_t bytes = (int64_t)nb_dtype_bytes(dtype);
    const char *p = (const char *)w->data + (row * w->k + k0) * bytes;
    for (int64_t at = 0; at < count; at += SEGMENT) {
        __m512 scale = _mm512_set1_ps(nb_weight_scale_at(w, row, k0 + at));
        int64_t end = at + SEGMENT < count ? at + SEGMENT : count, k = at;
        for (; k + 16 <= end; k += 16, p += 16 * bytes, out += stride)
            _mm512_store_ps(out, decode16(dtype, rounded, p, scale));
        if (k == end) continue;
        char tail[64] = {0}; /* the mapping may end with the row */
        memcpy(tail, p, (size_t)((end - k) * bytes));
        _mm512_store_ps(out, decode16(dtype, rounded, tail, scale));
    }
}

static inline __attribute__((always_inline)) void decode_fp4(int rounded, const nb_weight *w,
                                                             int64_t row, int64_t k0,
                                                             int64_t count, char *out,
                                                             int64_t stride)
{
    int bits = nb_weight_block_bits(w);
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    for (int64_t at = 0; at < count; at += 16, codes += 8, out += stride) {
        __m512 v = nb_load16_e2m1(codes, w->high_first, w->scale_values[scales[at >> bits]]);
        _mm512_store_ps(out, rounded ? nb_round_bf16_avx512(v) : v);
    }
}

#define DECODE(dtype, rounded)                                                                 \
    case NB_DTYPE_##dtype:                                                                     \
        decode_row(NB_DTYPE_##dtype, rounded, w, row, k0, count, out, stride);                 \
        break;

void nb_panel_f32_avx512(const nb_weight *w, int64_t row, int64_t k0, int64_t count, void *out,
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
        nb_panel_ggml_f32_avx512(w, row, k0, count, out, stride);
    }
}

void nb_panel_rounded_avx512(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
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
        nb_panel_ggml_rounded_avx512(w, row, k0, count, out, stride);
    }
}

void nb_panel_spread_avx512(void *out, int64_t chain_stride, int64_t chunk_stride,
                            const void *chunks, int64_t n_chunks)
{
    const char *from = chunks;
    char *to = out;
    for (int64_t c = 0; c < n_chunks;
         c += 16, from += 16 * NB_CHUNK_BYTES, to += chunk_stride) {
        __m512 r[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = _mm512_load_ps(from + i * NB_CHUNK_BYTES);
        nb_transpose16_avx512(r);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm512_store_ps(to + i * chain_stride, r[i]);
    }
}
