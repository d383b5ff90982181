/* Pixels and filters into F32 units, as they are or rounded to BF16; sums into pixels. */
#include "kernels/cpu/act_avx2.h"
#include "kernels/cpu/gemm.h"

static float *float_at(void *p, int64_t i)
{
    return (float *)p + i;
}

/* Weights of a tap lie `taps` floats from each other. */
NB_ALWAYS_INLINE void pack_filter(char *out, int64_t stride, const float *row, int64_t c0,
                                  int64_t n, int taps, int rounded)
{
    for (int tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < n; c += NB_CHUNK_UNITS, out += stride)
            for (int i = 0; i < NB_CHUNK_UNITS; i++) {
                float w = c + i < n ? row[(c0 + c + i) * taps + tap] : 0.0f;
                *float_at(out, i) = rounded ? nb_round_bf16(w) : w;
            }
}

void nb_pack_filter_f32_avx2(void *out, int64_t chunk_stride, const float *row, int64_t c0,
                             int64_t n, int taps)
{
    pack_filter(out, chunk_stride, row, c0, n, taps, 0);
}

void nb_pack_filter_rounded_avx2(void *out, int64_t chunk_stride, const float *row, int64_t c0,
                                 int64_t n, int taps)
{
    pack_filter(out, chunk_stride, row, c0, n, taps, 1);
}

NB_ALWAYS_INLINE void pack_pixels(float *out, const nb_conv_source *s, int64_t n, int rounded)
{
    const __m256i order = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(s->odd)),
        1);
    for (int64_t at = 0; at < n; at += LANES) {
        int64_t wanted = n - at < LANES ? n - at : LANES;
        vec u = s->upsample ? vec_load_n(s->x[0] + at / 2, (wanted + s->odd + 1) / 2)
                            : vec_load_n(s->x[0] + at, wanted);
        if (s->affine) u = vec_fma(u, vec_all(s->mul[0]), vec_all(s->add[0]));
        if (s->silu) u = nb_gate_avx2(u, u);
        if (s->upsample) u = _mm256_permutevar8x32_ps(u, order);
        vec_store_n(out + at, rounded ? vec_round_bf16(u) : u, wanted);
    }
}

void nb_pack_pixels_f32_avx2(void *out, const nb_conv_source *source, int64_t n)
{
    pack_pixels(out, source, n, 0);
}

void nb_pack_pixels_rounded_avx2(void *out, const nb_conv_source *source, int64_t n)
{
    pack_pixels(out, source, n, 1);
}

void nb_finish_pixels_avx2(const nb_conv_piece *piece)
{
    const nb_conv_piece c = *piece;
    for (int64_t r = 0; r < c.rows; r++)
        for (int64_t i = 0; i < c.n; i += LANES) {
            int64_t at = r * c.plane + i;
            vec sum = vec_load_n(c.sums + r * c.lanes + i, c.n - i);
            sum = vec_add(sum, vec_all(c.bias ? c.bias[r] : 0.0f));
            if (c.residual) sum = vec_add(sum, vec_load_n(c.residual + at, c.n - i));
            vec_store_n(c.y + at, sum, c.n - i);
        }
}
