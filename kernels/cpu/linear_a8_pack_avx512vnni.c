/* Rounding of x and W to 8 bits; x into lanes, W into panels. */
#include "kernels/cpu/linear_a8_avx512.h"
#include "kernels/cpu/panel_avx512.h"
#include "kernels/cpu/transpose_avx512.h"

enum { LANES = 16, UNITS = NB_A8_BLOCK / 4, BLOCKS = NB_A8_GROUP_BLOCKS };

/* The largest of the 16 lanes of each of 16 vectors, as one. */
static __m512i largest_of_each(__m512i r[16])
{
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2)
        r[i] = _mm512_max_epu32(_mm512_unpacklo_epi32(r[i], r[i + 1]),
                                _mm512_unpackhi_epi32(r[i], r[i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
        r[i] = _mm512_max_epu32(_mm512_unpacklo_epi64(r[i], r[i + 2]),
                                _mm512_unpackhi_epi64(r[i], r[i + 2]));
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += 8)
        r[i] = _mm512_max_epu32(_mm512_shuffle_i32x4(r[i], r[i + 4], 0x88),
                                _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd));
    return _mm512_max_epu32(_mm512_shuffle_i32x4(r[0], r[8], 0x88),
                            _mm512_shuffle_i32x4(r[0], r[8], 0xdd));
}

/* Exponents' fields of 16 blocks, a lane for each. */
static __m512i fields_of(const float *x)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_and_si512(_mm512_loadu_si512(x + i * NB_A8_BLOCK), magnitude);
    return _mm512_max_epi32(_mm512_srli_epi32(largest_of_each(r), 23),
                            _mm512_set1_epi32(NB_A8_LEAST_FIELD));
}

/* 4 blocks times their factors, as bytes. */
NB_ALWAYS_INLINE __m512i round4(const float *x, const float *ups)
{
    const __m512i in_order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        q[i] = _mm512_cvtps_epi32(
            _mm512_mul_ps(_mm512_loadu_ps(x + i * NB_A8_BLOCK), _mm512_set1_ps(ups[i])));
    __m512i bytes =
        _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    bytes = _mm512_max_epi8(bytes, _mm512_set1_epi8(-NB_A8_MOST));
    return _mm512_permutexvar_epi32(in_order, bytes);
}

/* Of NB_A8_GROUP columns. */
static void round_whole(nb_a8_rounded *out, const float *x)
{
    _Alignas(64) float ups[BLOCKS];
    __m512i fields[BLOCKS / 16] = {fields_of(x), fields_of(x + 16 * NB_A8_BLOCK)};
    int largest = _mm512_reduce_max_epi32(_mm512_max_epi32(fields[0], fields[1]));
    __m512i least = _mm512_set1_epi32(largest - NB_A8_MOST_SHIFT);
    for (int i = 0; i < BLOCKS / 16; i++) {
        __m512i field = _mm512_max_epi32(fields[i], least);
        __m512i up = _mm512_sub_epi32(_mm512_set1_epi32(260), field);
        _mm512_store_si512(ups + 16 * i, _mm512_slli_epi32(up, 23));
        _mm512_store_si512(out->shifts + 16 * i, _mm512_sub_epi32(field, least));
    }
    out->scale = nb_a8_scale(largest);
    if (largest == NB_A8_NAN_FIELD) {
        memset(out->q, 0, sizeof out->q);
        return;
    }
    for (int i = 0; i < BLOCKS; i += 4) {
        __m512i q = round4(x + i * NB_A8_BLOCK, ups + i);
        _mm512_store_si512(out->q + i * NB_A8_BLOCK, q);
    }
}

void nb_a8_round_avx512(nb_a8_rounded *out, const float *x, int64_t k)
{
    float padded[NB_A8_GROUP];
    if (k < NB_A8_GROUP) {
        memset(padded, 0, sizeof padded);
        x = memcpy(padded, x, (size_t)k * sizeof *x);
    }
    round_whole(out, x);
}

/* -NB_A8_OFFSET times the sum of 4 bytes, added to `sum`. */
static __m512i start_of(__m512i sum, __m512i bytes)
{
    const __m512i offset = _mm512_set1_epi8(-NB_A8_OFFSET);
    return _mm512_sub_epi32(sum, _mm512_dpbusd_epi32(_mm512_setzero_si512(), offset, bytes));
}

/* Blocks of 16 rows into lanes `lane` ... of `lanes`. */
static void turn_group(char *out, int lanes, int lane, const nb_a8_rounded rows[LANES],
                       int n_blocks)
{
    __m512 q[16], shifts[16];
    for (int block = 0; block < n_blocks; block += 4) {
        if (block % 16 == 0) {
            for (int i = 0; i < LANES; i++) shifts[i] = _mm512_load_ps(rows[i].shifts + block);
            nb_transpose16_avx512(shifts);
        }
        for (int i = 0; i < LANES; i++) q[i] = _mm512_load_ps(rows[i].q + block * NB_A8_BLOCK);
        nb_transpose16_avx512(q);
        for (int b = 0; b < 4; b++, out += (UNITS + 2) * lanes * 4) {
            char *to = out + lane * 4;
            __m512i start = _mm512_setzero_si512();
            for (int u = 0; u < UNITS; u++) {
                __m512i unit = _mm512_castps_si512(q[b * UNITS + u]);
                start = start_of(start, unit);
                _mm512_storeu_si512(to + u * lanes * 4, unit);
            }
            _mm512_storeu_si512(to + UNITS * lanes * 4, start);
            _mm512_storeu_ps(to + (UNITS + 1) * lanes * 4, shifts[block % 16 + b]);
        }
    }
}

void nb_a8_pack_avx512vnni(void *out, int lanes, const float *x, int64_t stride, int64_t n_rows,
                           int64_t k)
{
    nb_a8_rounded rows[LANES];
    char *to = out;
    for (int64_t k0 = 0; k0 < k; k0 += NB_A8_GROUP) {
        int64_t count = k - k0 < NB_A8_GROUP ? k - k0 : NB_A8_GROUP;
        int n_blocks = (int)nb_a8_blocks(count);
        for (int lane = 0; lane < lanes; lane += LANES) {
            float *scales = (float *)(void *)to + lane;
            for (int i = 0; i < LANES; i++) {
                int is_row = lane + i < n_rows;
                nb_a8_round_avx512(&rows[i], is_row ? x + (lane + i) * stride + k0 : x,
                                   is_row ? count : 0);
                scales[i] = rows[i].scale;
            }
            turn_group(to + lanes * 4, lanes, lane, rows, n_blocks);
        }
        to += lanes * (4 + n_blocks * (NB_A8_BLOCK + 8));
    }
}

/* --- W --- */

static void decode_floats(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                          const nb_a8_decoded *out)
{
    _Alignas(64) float x[NB_A8_DECODED];
    nb_a8_rounded rounded;
    nb_panel_f32_avx512(w, row, k0, count, x, LANES * sizeof *x);
    for (int64_t at = 0; at < count; at += NB_A8_GROUP) {
        int64_t k = count - at < NB_A8_GROUP ? count - at : NB_A8_GROUP;
        nb_a8_round_avx512(&rounded, x + at, k);
        out->scales[at / NB_A8_GROUP] = rounded.scale;
        for (int64_t i = 0; i < nb_a8_blocks(k); i++)
            out->shifts[at / NB_A8_BLOCK + i] = rounded.shifts[i];
        for (int64_t i = 0; i < k; i += NB_A8_STEP) {
            __m512i q = _mm512_load_si512(rounded.q + i);
            _mm512_store_si512((char *)out->chunks + (at + i) / NB_A8_STEP * out->chunk_stride,
                               _mm512_xor_si512(q, _mm512_set1_epi8(-NB_A8_OFFSET)));
        }
    }
}

/* What tables do not hold. */
static void decode_rare(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                        const nb_a8_decoded *out)
{
    _Alignas(64) int8_t q[NB_A8_GROUP];
    uint8_t shifts[BLOCKS];
    for (int64_t at = 0; at < count; at += NB_A8_GROUP) {
        int64_t k = count - at < NB_A8_GROUP ? count - at : NB_A8_GROUP;
        memset(q, 0, sizeof q);
        memset(shifts, 0, sizeof shifts);
        out->scales[at / NB_A8_GROUP] = nb_a8_round_fp4_ref(w, row, k0 + at, k, q, shifts);
        for (int64_t i = 0; i < nb_a8_blocks(k); i++)
            out->shifts[at / NB_A8_BLOCK + i] = shifts[i];
        for (int64_t i = 0; i < k; i += NB_A8_STEP)
            _mm512_store_si512(
                (char *)out->chunks + (at + i) / NB_A8_STEP * out->chunk_stride,
                _mm512_xor_si512(_mm512_load_si512(q + i), _mm512_set1_epi8(-NB_A8_OFFSET)));
    }
}

/* 64 columns out of `bytes` that hold two codes each; rows of their 4 blocks. */
static __m512i look_up_codes(__m256i bytes, const uint8_t *rows, int high_first)
{
    const __m512i half = _mm512_set1_epi16(0x0f0f);
    const __m512i of_16 = _mm512_setr_epi32(
        0, 0, 0, 0, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x02020202, 0x02020202,
        0x02020202, 0x02020202, 0x03030303, 0x03030303, 0x03030303, 0x03030303);
    int four;
    memcpy(&four, rows, sizeof four);
    __m512i row = _mm512_shuffle_epi8(_mm512_set1_epi32(four), of_16);
    __m512i words = _mm512_cvtepu8_epi16(bytes), codes;
    if (high_first)
        codes = _mm512_or_si512(_mm512_slli_epi16(words, 8), _mm512_srli_epi16(words, 4));
    else
        codes = _mm512_or_si512(words, _mm512_slli_epi16(words, 4));
    /* (codes & half) ^ row */
    return nb_a8_look_up(_mm512_ternarylogic_epi32(codes, half, row, 0x6a), nb_a8_fp4_values);
}

static void decode_fp4(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                       const nb_a8_decoded *out)
{
    _Alignas(64) uint8_t rows[NB_A8_PART], shifts[NB_A8_PART], exponents[NB_A8_PART];
    nb_a8_fp4_blocks blocks = nb_a8_load_blocks(w, row, k0, count);
    if (!blocks.are_plain) {
        decode_rare(w, row, k0, count, out);
        return;
    }
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    char *to = out->chunks;
    _mm512_store_si512(rows, blocks.rows);
    _mm512_store_si512(shifts, blocks.shifts);
    _mm512_store_si512(exponents, blocks.exponents);
    for (int64_t at = 0; at < count; at += NB_A8_STEP, to += out->chunk_stride) {
        __mmask32 there =
            count - at >= NB_A8_STEP ? ~0u : (1u << (uint32_t)((count - at) / 2)) - 1;
        __m256i bytes = _mm256_maskz_loadu_epi8(there, codes + at / 2);
        _mm512_store_si512(to, look_up_codes(bytes, rows + at / NB_A8_BLOCK, w->high_first));
    }
    for (int64_t i = 0; i < nb_a8_blocks(count); i += LANES) {
        __m128i bytes = _mm_load_si128((const void *)(shifts + i));
        _mm512_mask_storeu_epi32(out->shifts + i, nb_first_lanes(nb_a8_blocks(count) - i),
                                 _mm512_cvtepu8_epi32(bytes));
    }
    for (int64_t i = 0; i * NB_A8_GROUP < count; i++)
        out->scales[i] = nb_a8_fp4_scale(w, exponents[i * BLOCKS]);
}

void nb_a8_decode_avx512vnni(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                             const nb_a8_decoded *out)
{
    if (w->dtype == NB_DTYPE_F4_E2M1X2)
        decode_fp4(w, row, k0, count, out);
    else
        decode_floats(w, row, k0, count, out);
}
