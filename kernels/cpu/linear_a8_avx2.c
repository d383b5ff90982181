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

enum { ROWS = 6, UNITS = NB_A8_BLOCK / 2, VECTOR_BYTES = 32, CHUNK_BLOCKS = 2 };

static inline __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* t += shifted products of a block. */
NB_ALWAYS_INLINE void add_block(int32_t *t, const char *w, const int32_t *w_shifts,
                                const char *x, int vectors)
{
    const char *x_shifts = x + (UNITS + 1) * vectors * VECTOR_BYTES;
    __m256i sum[ROWS][2], xv[2];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++)
        sum[i / vectors][i % vectors] = _mm256_setzero_si256();
#pragma GCC unroll 8
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
        int r = i / vectors, v = i % vectors;
        __m256i shift = _mm256_add_epi32(_mm256_set1_epi32(w_shifts[r * NB_A8_DEPTH_BLOCKS]),
                                         load(x_shifts + v * VECTOR_BYTES));
        __m256i product = _mm256_sllv_epi32(sum[r][v], shift);
        _mm256_store_si256((void *)(t + i * LANES),
                           _mm256_add_epi32(product, load(t + i * LANES)));
    }
}

NB_ALWAYS_INLINE void run_tile(float *c, const nb_a8_span *s, int vectors)
{
    const char *w = s->w, *x = s->x;
    const float *w_scales = s->w_scales;
    const int32_t *w_shifts = s->w_shifts;
    for (int first = 0; first < s->blocks; first += NB_A8_GROUP_BLOCKS, w_scales++) {
        int end =
            s->blocks - first < NB_A8_GROUP_BLOCKS ? s->blocks : first + NB_A8_GROUP_BLOCKS;
        int keep = s->accumulate || first > 0;
        const float *x_scales = (const float *)(const void *)x;
        _Alignas(32) int32_t t[ROWS * 2 * LANES] = {0};
        x += vectors * VECTOR_BYTES;
        for (int block = first; block < end; block++) {
            add_block(t, w + block % CHUNK_BLOCKS * VECTOR_BYTES, w_shifts, x, vectors);
            if (block % CHUNK_BLOCKS == CHUNK_BLOCKS - 1) w += ROWS * NB_CHUNK_BYTES;
            w_shifts++;
            x += (UNITS + 2) * vectors * VECTOR_BYTES;
        }
        for (int i = 0; i < ROWS * vectors; i++) {
            vec before = keep ? vec_load(c + i * LANES) : vec_zero();
            vec sum = vec_mul(_mm256_cvtepi32_ps(load(t + i * LANES)),
                              vec_load(x_scales + i % vectors * LANES));
            vec_store(
                c + i * LANES,
                vec_fma(sum, vec_all(w_scales[i / vectors * NB_A8_DEPTH_GROUPS]), before));
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

/* A group of a row, rounded: 16 bits each. */
typedef struct group {
    _Alignas(32) int16_t q[NB_A8_GROUP];
    uint8_t shifts[NB_A8_GROUP_BLOCKS];
    float scale;
} group;

/* nb_a8_field() of 16 floats. */
static int field_of(const float *x)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_max_epu32(_mm256_and_si256(load(x), magnitude),
                                    _mm256_and_si256(load(x + LANES), magnitude));
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return nb_a8_field((uint32_t)_mm_cvtsi128_si32(m));
}

/* 16 floats as integers of at most 127. */
static __m256i round16(const float *x, float up)
{
    __m256i low = _mm256_cvtps_epi32(vec_mul(vec_load(x), vec_all(up)));
    __m256i high = _mm256_cvtps_epi32(vec_mul(vec_load(x + LANES), vec_all(up)));
    __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    q = _mm256_min_epi16(q, _mm256_set1_epi16(NB_A8_MOST));
    return _mm256_max_epi16(q, _mm256_set1_epi16(-NB_A8_MOST));
}

/* nb_a8_round_ref() of NB_A8_GROUP floats. */
static void round_group(group *out, const float *x)
{
    int fields[NB_A8_GROUP_BLOCKS], largest = 0;
    for (int i = 0; i < NB_A8_GROUP_BLOCKS; i++) {
        fields[i] = field_of(x + i * NB_A8_BLOCK);
        largest = fields[i] > largest ? fields[i] : largest;
    }
    out->scale = nb_a8_scale(largest);
    for (int i = 0; i < NB_A8_GROUP_BLOCKS; i++) {
        int least = largest - NB_A8_MOST_SHIFT, field = fields[i] > least ? fields[i] : least;
        __m256i q = _mm256_setzero_si256();
        if (largest < NB_A8_NAN_FIELD)
            q = round16(x + i * NB_A8_BLOCK, nb_a8_power(133 - field));
        out->shifts[i] = (uint8_t)(field - least);
        _mm256_store_si256((void *)(out->q + i * NB_A8_BLOCK), q);
    }
}

/* A row's blocks into lane `lane` of `lanes`. */
static void pack_lane(char *out, int lanes, int lane, const group *row, int n_blocks)
{
    memcpy(out + lane * 4, &row->scale, sizeof row->scale);
    for (int block = 0; block < n_blocks; block++) {
        const int16_t *q = row->q + block * NB_A8_BLOCK;
        char *to = out + lanes * 4 * (1 + block * (UNITS + 2)) + lane * 4;
        int32_t start = 0, shift = row->shifts[block];
        for (int u = 0; u < UNITS; u++) memcpy(to + u * lanes * 4, q + 2 * u, 4);
        memcpy(to + UNITS * lanes * 4, &start, sizeof start);
        memcpy(to + (UNITS + 1) * lanes * 4, &shift, sizeof shift);
    }
}

void nb_a8_pack_avx2(void *out, int lanes, const float *x, int64_t stride, int64_t n_rows,
                     int64_t k)
{
    char *to = out;
    for (int64_t k0 = 0; k0 < k; k0 += NB_A8_GROUP) {
        int64_t count = k - k0 < NB_A8_GROUP ? k - k0 : NB_A8_GROUP;
        int n_blocks = (int)nb_a8_blocks(count);
        for (int lane = 0; lane < lanes; lane++) {
            float row[NB_A8_GROUP] = {0};
            group rounded;
            if (lane < n_rows) memcpy(row, x + lane * stride + k0, (size_t)count * sizeof *row);
            round_group(&rounded, row);
            pack_lane(to, lanes, lane, &rounded, n_blocks);
        }
        to += lanes * (4 + n_blocks * (NB_A8_BLOCK * 2 + 8));
    }
}

/* --- W --- */

/* 16 codes out of 8 bytes as integers, for the values of a block's codes. */
static __m256i look_up_codes(const uint8_t *p, __m128i values, int high_first)
{
    __m128i c = _mm_loadl_epi64((const void *)p), half = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(c, half), high = _mm_and_si128(_mm_srli_epi16(c, 4), half);
    c = high_first ? _mm_unpacklo_epi8(high, low) : _mm_unpacklo_epi8(low, high);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(values, c));
}

/* q of the 16 codes of a block whose scale / 2^(e of the block) this is. */
static __m128i values_of(float scale)
{
    const __m256 halves = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(halves, _mm256_set1_ps(scale)));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    return _mm_packs_epi16(words, _mm_sub_epi16(_mm_setzero_si128(), words));
}

/* Columns k0 ... k0+count of a row, with zeros after them. */
static void round_fp4(group *out, const nb_weight *w, int64_t row, int64_t k0, int64_t count)
{
    int bits = nb_weight_block_bits(w), is_mx = w->scale_kind == NB_SCALE_MXFP4;
    int bias = is_mx ? NB_A8_MXFP4_BIAS : NB_A8_NVFP4_BIAS;
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    int exponents[NB_A8_GROUP_BLOCKS], largest = 0;
    for (int i = 0; i < count / NB_A8_BLOCK; i++) {
        exponents[i] = nb_a8_fp4_exponent(w->scale_kind, scales[i >> (bits - 4)]);
        largest = exponents[i] > largest ? exponents[i] : largest;
    }
    int least = largest - NB_A8_MOST_SHIFT;
    out->scale = nb_a8_fp4_scale(w, largest);
    memset(out->q, 0, sizeof out->q);
    memset(out->shifts, 0, sizeof out->shifts);
    for (int i = 0; i < count / NB_A8_BLOCK; i++) {
        int e = exponents[i] > least ? exponents[i] : least;
        uint8_t code = scales[i >> (bits - 4)];
        out->shifts[i] = (uint8_t)(e - least);
        if (exponents[i] == 0 || largest == NB_A8_NAN_FIELD) continue;
        float scale = is_mx ? nb_f32_from_e8m0(code) : nb_f32_from_e4m3(code);
        __m128i values = values_of(scale * nb_a8_power(bias - e));
        _mm256_store_si256((void *)(out->q + i * NB_A8_BLOCK),
                           look_up_codes(codes + i * NB_A8_BLOCK / 2, values, w->high_first));
    }
}

void nb_a8_decode_avx2(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                       const nb_a8_decoded *out)
{
    _Alignas(64) float x[NB_A8_DECODED];
    group rounded;
    int is_fp4 = w->dtype == NB_DTYPE_F4_E2M1X2;
    memset(x, 0, sizeof x);
    if (!is_fp4) nb_panel_f32_avx2(w, row, k0, count, x, NB_CHUNK_BYTES);
    for (int64_t at = 0; at < count; at += NB_A8_GROUP) {
        int64_t k = count - at < NB_A8_GROUP ? count - at : NB_A8_GROUP;
        if (is_fp4)
            round_fp4(&rounded, w, row, k0 + at, k);
        else
            round_group(&rounded, x + at);
        out->scales[at / NB_A8_GROUP] = rounded.scale;
        for (int64_t i = 0; i < nb_a8_blocks(k); i++) {
            int64_t block = at / NB_A8_BLOCK + i;
            char *to = (char *)out->chunks + block / CHUNK_BLOCKS * out->chunk_stride;
            out->shifts[block] = rounded.shifts[i];
            memcpy(to + block % CHUNK_BLOCKS * VECTOR_BYTES, rounded.q + i * NB_A8_BLOCK,
                   VECTOR_BYTES);
        }
    }
}
