/* Pixels and filters into F32 units, as they are or rounded to BF16. */
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

NB_ALWAYS_INLINE void pack_pixels(float *out, const nb_conv_source *source, int64_t n,
                                  int rounded)
{
    for (int64_t at = 0; at < n; at += 16) {
        __mmask16 mask = nb_first_lanes(n - at);
        __m512 u = nb_source16_avx512(source, 0, at, mask);
        _mm512_mask_storeu_ps(out + at, mask, rounded ? nb_round_bf16_avx512(u) : u);
    }
}

void nb_pack_pixels_f32_avx512(void *out, const nb_conv_source *source, int64_t n)
{
    pack_pixels(out, source, n, 0);
}

void nb_pack_pixels_rounded_avx512(void *out, const nb_conv_source *source, int64_t n)
{
    pack_pixels(out, source, n, 1);
}
