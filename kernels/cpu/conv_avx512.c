/* Pixels and filters into F32 units, as they are or rounded to BF16; sums into pixels. */
#include "kernels/cpu/conv_avx512.h"

NB_ALWAYS_INLINE void pack_filter(char *out, int64_t stride, const float *row, int64_t c0,
                                  int64_t n, int taps, int rounded)
{
    for (int tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < n; c += NB_CHUNK_UNITS, out += stride) {
            __m512 w = nb_filter16_avx512(row + (c0 + c) * taps + tap, taps, 1, n - c);
            _mm512_store_ps(out, rounded ? nb_round_bf16_avx512(w) : w);
        }
}

void nb_pack_filter_f32_avx512(void *out, int64_t chunk_stride, const float *row, int64_t c0,
                               int64_t n, int taps)
{
    pack_filter(out, chunk_stride, row, c0, n, taps, 0);
}

void nb_pack_filter_rounded_avx512(void *out, int64_t chunk_stride, const float *row,
                                   int64_t c0, int64_t n, int taps)
{
    pack_filter(out, chunk_stride, row, c0, n, taps, 1);
}

NB_ALWAYS_INLINE void store_f32(void *out, __m512 low, __m512 high, __mmask16 mask)
{
    (void)high;
    _mm512_mask_storeu_ps(out, mask, low);
}

NB_ALWAYS_INLINE void store_rounded(void *out, __m512 low, __m512 high, __mmask16 mask)
{
    (void)high;
    _mm512_mask_storeu_ps(out, mask, nb_round_bf16_avx512(low));
}

void nb_pack_pixels_f32_avx512(void *out, const nb_conv_source *source, int64_t n)
{
    nb_pack_pixels_avx512(out, source, n, store_f32, 1);
}

void nb_pack_pixels_rounded_avx512(void *out, const nb_conv_source *source, int64_t n)
{
    nb_pack_pixels_avx512(out, source, n, store_rounded, 1);
}

void nb_finish_pixels_avx512(const nb_conv_piece *piece)
{
    const nb_conv_piece c = *piece;
    for (int64_t r = 0; r < c.rows; r++) {
        __m512 bias = _mm512_set1_ps(c.bias ? c.bias[r] : 0.0f);
        for (int64_t i = 0; i < c.n; i += 16) {
            __mmask16 mask = nb_first_lanes(c.n - i);
            int64_t at = r * c.plane + i;
            __m512 sum = _mm512_maskz_loadu_ps(mask, c.sums + r * c.lanes + i);
            sum = _mm512_add_ps(sum, bias);
            if (c.residual)
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, c.residual + at));
            _mm512_mask_storeu_ps(c.y + at, mask, sum);
        }
    }
}
