/*
 * 8-bit linears without VNNI. The instruction that multiplies bytes adds pairs of them with
 * saturation, and what avoids that costs as much as it gains: integers are widened to 16 bits
 * when they are packed, where one instruction multiplies and adds pairs exactly. The register
 * tile is 6 weight rows times 8 or 16 lanes: 12 sums, 2 vectors of x, a broadcast and a product
 * in the 16 registers; sums of floats are in L1.
 */
#include <string.h>

#include "kernels/cpu/linear_a8.h"
#include "kernels/cpu/vec_avx2.h"

enum {
    ROWS = 6,
    UNITS = NB_A8_GROUP / 2,
    VECTOR_BYTES = 32,
    BLOCK = 16, /* columns of one multiplier */
    GROUP_BLOCKS = NB_A8_WEIGHT_GROUP / BLOCK,
};

static inline __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* t += products of a group of x times its scale. */
NB_ALWAYS_INLINE void add_group(float *t, const char *w, const char *x, int vectors)
{
    const char *scales = x + UNITS * vectors * VECTOR_BYTES;
    __m256i sum[ROWS][2], xv[2];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++)
        sum[i / vectors][i % vectors] = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int u = 0; u < UNITS; u++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) xv[v] = load(x + (u * vectors + v) * VECTOR_BYTES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            const void *at = w + r * NB_CHUNK_BYTES + u * 4;
            __m256i b = _mm256_set1_epi32(*(const int *)at);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(b, xv[v]));
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++) {
        vec scale = vec_load((const float *)(const void *)scales + i % vectors * LANES);
        vec product = _mm256_cvtepi32_ps(sum[i / vectors][i % vectors]);
        vec_store(t + i * LANES, vec_fma(product, scale, vec_load(t + i * LANES)));
    }
}

NB_ALWAYS_INLINE void run_tile(float *c, const nb_a8_span *s, int vectors)
{
    const char *w = s->w, *x = s->x;
    const float *w_scales = s->w_scales;
    const int group_bytes = UNITS * vectors * VECTOR_BYTES + vectors * LANES * NB_A8_SUMS_BYTES;
    const int groups_in_one = NB_A8_WEIGHT_GROUP / NB_A8_GROUP;
    for (int group = 0; group < s->groups; group += groups_in_one, w_scales += ROWS) {
        int end = s->groups - group < groups_in_one ? s->groups : group + groups_in_one;
        int keep = s->accumulate || group > 0;
        float t[ROWS * 2 * LANES] = {0};
        for (int g = group; g < end; g++, w += ROWS * NB_CHUNK_BYTES, x += group_bytes)
            add_group(t, w, x, vectors);
        for (int i = 0; i < ROWS * vectors; i++) {
            vec before = keep ? vec_load(c + i * LANES) : vec_zero();
            vec scale = vec_all(w_scales[i / vectors]);
            vec_store(c + i * LANES, vec_fma(vec_load(t + i * LANES), scale, before));
        }
    }
}

void nb_a8_tile_full_avx2(float *c, const nb_a8_span *s)
{
    run_tile(c, s, 2);
}

void nb_a8_tile_half_avx2(float *c, const nb_a8_span *s)
{
    run_tile(c, s, 1);
}

/* --- rounding --- */

/* The largest magnitude of n floats, a multiple of 8; NaN is the largest of all. */
static float largest_of(const float *x, int64_t n)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    uint32_t bits[LANES], largest = 0;
    for (int64_t i = 0; i < n; i += LANES)
        most = _mm256_max_epu32(most, _mm256_and_si256(load(x + i), magnitude));
    _mm256_storeu_si256((void *)bits, most);
    for (int i = 0; i < LANES; i++) largest = bits[i] > largest ? bits[i] : largest;
    return nb_f32_from_bits(largest);
}

/* 16 floats as integers of 16 bits. */
static __m256i round16(const float *x, float up)
{
    if (!(up > 0.0f)) return _mm256_setzero_si256();
    __m256i low = _mm256_cvtps_epi32(vec_mul(vec_load(x), vec_all(up)));
    __m256i high = _mm256_cvtps_epi32(vec_mul(vec_load(x + LANES), vec_all(up)));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

static void pack_group(char *out, int lanes, int lane, const float *x)
{
    nb_a8_scale scale = nb_a8_scale_of(largest_of(x, NB_A8_GROUP));
    int units[UNITS], zero = 0;
    for (int i = 0; i < NB_A8_GROUP; i += 16)
        _mm256_storeu_si256((void *)(units + i / 2), round16(x + i, scale.up));
    for (int u = 0; u < UNITS; u++)
        memcpy(out + (u * lanes + lane) * 4, &units[u], sizeof units[u]);
    out += UNITS * lanes * 4;
    memcpy(out + lane * 4, &scale.down, sizeof scale.down);
    memcpy(out + (lanes + lane) * 4, &zero, sizeof zero);
}

void nb_a8_pack_avx2(void *out, int lanes, const float *x, int64_t stride, int64_t n_rows,
                     int64_t k)
{
    char *to = out;
    int64_t padded = (k + NB_A8_STEP - 1) / NB_A8_STEP * NB_A8_STEP;
    for (int64_t at = 0; at < padded; at += NB_A8_GROUP) {
        for (int lane = 0; lane < lanes; lane++) {
            float row[NB_A8_GROUP] = {0};
            int64_t n = lane < n_rows ? k - at : 0;
            if (n > NB_A8_GROUP) n = NB_A8_GROUP;
            if (n > 0) memcpy(row, x + lane * stride + at, (size_t)n * sizeof *row);
            pack_group(to, lanes, lane, row);
        }
        to += lanes * (NB_A8_GROUP * 2 + NB_A8_SUMS_BYTES);
    }
}

/* --- W --- */

static void decode_floats(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                          int64_t stride, float *scales, int64_t scale_stride)
{
    _Alignas(64) float x[NB_A8_BLOCK];
    int64_t whole = count / NB_A8_STEP * NB_A8_STEP;
    if (whole < count) memset(x + whole, 0, NB_A8_STEP * sizeof *x);
    nb_panel_f32_avx2(w, row, k0, count, x, NB_CHUNK_BYTES);
    for (int64_t at = 0; at < count; at += NB_A8_WEIGHT_GROUP, scales += scale_stride) {
        int64_t k = count - at < NB_A8_WEIGHT_GROUP ? count - at : NB_A8_WEIGHT_GROUP;
        k = (k + NB_A8_STEP - 1) / NB_A8_STEP * NB_A8_STEP;
        nb_a8_scale scale = nb_a8_scale_of(largest_of(x + at, k));
        *scales = scale.down;
        for (int64_t i = 0; i < k; i += NB_A8_GROUP, out += stride)
            for (int64_t j = 0; j < NB_A8_GROUP; j += 16)
                _mm256_storeu_si256((void *)(out + 2 * j), round16(x + at + i + j, scale.up));
    }
}

/* E4M3 times 2^-8 of 8 bytes that hold no NaN. */
static vec load_e4m3(const uint8_t *codes)
{
    __m128i c = _mm_cvtepu8_epi16(_mm_loadl_epi64((const void *)codes));
    __m128i sign = _mm_slli_epi16(_mm_and_si128(c, _mm_set1_epi16(0x80)), 8);
    __m128i half = _mm_slli_epi16(_mm_and_si128(c, _mm_set1_epi16(0x7f)), 7);
    return _mm256_cvtph_ps(_mm_or_si128(sign, half));
}

/* What nb_a8_multiplier() says for the blocks of a group, `n` of them there, as often as there
 * are 16 columns. Returns the largest scale. */
static uint8_t multipliers_of(nb_scale_kind kind, const uint8_t *scales, int64_t n,
                              int16_t m[GROUP_BLOCKS])
{
    uint8_t codes[GROUP_BLOCKS] = {0}, mosts[LANES], largest = 0;
    for (int64_t i = 0; i < n; i++) {
        uint8_t magnitude = nb_a8_scale_magnitude(kind, scales[i]);
        codes[i] = scales[i];
        largest = magnitude > largest ? magnitude : largest;
    }
    memset(m, 0, GROUP_BLOCKS * sizeof *m);
    for (int64_t i = 0; kind == NB_SCALE_MXFP4 && i < n; i++)
        m[2 * i] = m[2 * i + 1] = (int16_t)nb_a8_multiplier(kind, scales[i], largest);
    if (kind == NB_SCALE_MXFP4 || largest == 0) return largest;
    memset(mosts, largest, sizeof mosts);
    vec factor = vec_div(vec_all(NB_A8_MULTIPLIER), load_e4m3(mosts));
    __m256i low = _mm256_cvtps_epi32(vec_mul(load_e4m3(codes), factor));
    __m256i high = _mm256_cvtps_epi32(vec_mul(load_e4m3(codes + 8), factor));
    _mm256_storeu_si256((void *)m,
                        _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8));
    return largest;
}

/* 16 columns out of 8 bytes of two codes each. */
static __m256i round_codes(const uint8_t *p, int16_t m, int high_first)
{
    const __m128i values =
        _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    __m128i c = _mm_loadl_epi64((const void *)p), half = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(c, half), high = _mm_and_si128(_mm_srli_epi16(c, 4), half);
    c = high_first ? _mm_unpacklo_epi8(high, low) : _mm_unpacklo_epi8(low, high);
    __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_shuffle_epi8(values, c)), 4);
    return _mm256_mulhrs_epi16(words, _mm256_set1_epi16(m));
}

static void decode_fp4(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                       int64_t stride, float *scales, int64_t scale_stride)
{
    int bits = nb_weight_block_bits(w);
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *block_scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    int64_t padded = (count + NB_A8_STEP - 1) / NB_A8_STEP * NB_A8_STEP;
    for (int64_t at = 0; at < count; at += NB_A8_WEIGHT_GROUP, scales += scale_stride) {
        int16_t m[GROUP_BLOCKS];
        int64_t k = count - at < NB_A8_WEIGHT_GROUP ? count - at : NB_A8_WEIGHT_GROUP;
        *scales = nb_a8_fp4_scale(
            w, multipliers_of(w->scale_kind, block_scales + (at >> bits), k >> bits, m));
        for (int64_t j = at; j < at + NB_A8_WEIGHT_GROUP && j < padded; j += BLOCK) {
            __m256i q = _mm256_setzero_si256();
            if (j < count) q = round_codes(codes + j / 2, m[(j - at) / BLOCK], w->high_first);
            _mm256_storeu_si256((void *)(out + j / NB_A8_GROUP * stride + j % NB_A8_GROUP * 2),
                                q);
        }
    }
}

void nb_a8_decode_avx2(const nb_weight *w, int64_t row, int64_t k0, int64_t count, void *out,
                       int64_t stride, float *scales, int64_t scale_stride)
{
    if (w->dtype == NB_DTYPE_F4_E2M1X2)
        decode_fp4(w, row, k0, count, out, stride, scales, scale_stride);
    else
        decode_floats(w, row, k0, count, out, stride, scales, scale_stride);
}
