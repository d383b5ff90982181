/* Pixels and filters into pairs of BF16: two channels of a pixel or of a tap. */
#include "kernels/cpu/conv_avx512.h"

/* Elements i of the low and the high vector become pair i. */
static __m512i pair_up(__m512 low, __m512 high)
{
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, both);
}

void nb_pack_filter_bf16_avx512bf16(void *out, int64_t chunk_stride, const float *row,
                                    int64_t c0, int64_t n, int taps)
{
    char *to = out;
    for (int tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < n; c += 2 * NB_CHUNK_UNITS, to += chunk_stride) {
            const float *w = row + (c0 + c) * taps + tap;
            __m512 low = nb_filter16_avx512(w, taps, 2, (n - c + 1) / 2);
            __m512 high = nb_filter16_avx512(w + taps, taps, 2, (n - c) / 2);
            _mm512_store_si512(to, pair_up(low, high));
        }
}

NB_ALWAYS_INLINE void store_pairs(void *out, __m512 low, __m512 high, __mmask16 mask)
{
    _mm512_mask_storeu_epi32(out, mask, pair_up(low, high));
}

void nb_pack_pixels_bf16_avx512bf16(void *out, const nb_conv_source *source, int64_t n)
{
    nb_pack_pixels_avx512(out, source, n, store_pairs, 2);
}
