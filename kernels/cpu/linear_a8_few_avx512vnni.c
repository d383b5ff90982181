/*
 * Few rows of x times rows of W as they lie in the file. 128 bytes of FP4 are 256 columns, 16
 * blocks, and a lane has one of them: a block's first and last 4 bytes, their low and high
 * halves, are 4 vectors, to which x is packed to match, and the blocks' shifts are one vector.
 * For 256 columns that is 15 instructions, and 8 for each row of x; lookups in one table make
 * codes and mantissas to integers, since q depends on nothing else (kernels/a8.h). What is
 * loaded of x serves two rows of W.
 *
 * A piece of x is [NB_A8_DECODED / 256][m] of 4 vectors of columns, 16 starts and 16 shifts,
 * then [m] the scales of its groups. The columns of a block: those of low halves in its first 4
 * bytes, of high ones, then of the last 4 bytes, so 0 2 4 6, 1 3 5 7, 8 10 12 14, 9 11 13 15
 * unless the high half comes first.
 */
#include "kernels/cpu/linear_a8_avx512.h"

enum {
    ROWS = 16, /* of W at a time */
    PAIR = 2,
    COLUMNS = 256, /* of a chunk */
    GROUP_CHUNKS = NB_A8_GROUP / COLUMNS,
    CHUNKS = NB_A8_DECODED / COLUMNS,
    CHUNK_BYTES = 6 * 64, /* of a row of x */
};

/* Products of a group, row of x and two rows of W, two of 4 lanes added. */
typedef __m512i sums[NB_A8_DECODED_GROUPS][NB_FEW_ROWS][ROWS / PAIR];

/* 256 columns of W: q plus NB_A8_OFFSET, and the blocks' shifts. */
typedef struct chunk {
    __m512i q[4], shifts;
} chunk;

/* A row of W as FP4: its codes, and for each block what a code is xor-ed with plus a shift. */
typedef struct coded {
    const uint8_t *codes;
    _Alignas(64) uint8_t blocks[NB_A8_PART];
} coded;

/* A row of W that was decoded. */
typedef struct decoded {
    _Alignas(64) uint8_t q[NB_A8_DECODED];
    _Alignas(64) int32_t shifts[NB_A8_DECODED_BLOCKS];
} decoded;

NB_ALWAYS_INLINE chunk load_coded(const coded *from, int64_t at)
{
    const __m512i of_4 =
        _mm512_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505,
                          0x06060606, 0x07070707, 0x08080808, 0x09090909, 0x0a0a0a0a,
                          0x0b0b0b0b, 0x0c0c0c0c, 0x0d0d0d0d, 0x0e0e0e0e, 0x0f0f0f0f);
    const __m512i first =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i last =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const __m512i code = _mm512_set1_epi8(15), row = _mm512_set1_epi8(0x78);
    const uint8_t *codes = from->codes + at / 2;
    __m512i a = _mm512_loadu_si512(codes), b = _mm512_loadu_si512(codes + 64);
    __m512i halves[2] = {_mm512_permutex2var_epi32(a, first, b),
                         _mm512_permutex2var_epi32(a, last, b)};
    __m512i blocks =
        _mm512_broadcast_i32x4(_mm_load_si128((const void *)(from->blocks + at / NB_A8_BLOCK)));
    blocks = _mm512_shuffle_epi8(blocks, of_4);
    __m512i rows = _mm512_and_si512(blocks, row);
    chunk c = {.shifts = _mm512_and_si512(blocks, _mm512_set1_epi32(7))};
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) { /* (codes & code) ^ rows */
        __m512i low = _mm512_ternarylogic_epi32(halves[i], code, rows, 0x6a);
        __m512i high = _mm512_srli_epi16(halves[i], 4);
        high = _mm512_ternarylogic_epi32(high, code, rows, 0x6a);
        c.q[2 * i] = nb_a8_look_up(low, nb_a8_fp4_values);
        c.q[2 * i + 1] = nb_a8_look_up(high, nb_a8_fp4_values);
    }
    return c;
}

/* 256 bytes of 16 blocks in the order of FP4's. */
static void turn_blocks(__m512i q[4], const void *bytes, int high_first)
{
    const __m512i order = _mm512_set4_epi32(0x0f0d0b09, 0x0e0c0a08, 0x07050301, 0x06040200);
    const __m512i first =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    __m512i v[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm512_shuffle_epi8(_mm512_loadu_si512((const char *)bytes + 64 * i), order);
    for (int i = 0; i < 2; i++) { /* dwords 0 and 1 of all blocks, then 2 and 3 */
        __m512i index = i ? last : first;
        __m512i low = _mm512_permutex2var_epi32(v[0], index, v[1]);
        __m512i high = _mm512_permutex2var_epi32(v[2], index, v[3]);
        q[2 * i + high_first] = _mm512_shuffle_i64x2(low, high, 0x44);
        q[2 * i + !high_first] = _mm512_shuffle_i64x2(low, high, 0xee);
    }
}

static chunk load_decoded(const decoded *from, int64_t at, int high_first)
{
    chunk c = {.shifts = _mm512_load_si512(from->shifts + at / NB_A8_BLOCK)};
    turn_blocks(c.q, from->q + at, high_first);
    return c;
}

/* A chunk of x: 256 columns of q and their shifts. */
static void pack_chunk(char *out, const int8_t *q, const int32_t *shifts, int high_first)
{
    const __m512i offset = _mm512_set1_epi8(-NB_A8_OFFSET);
    __m512i columns[4], sum = _mm512_setzero_si512();
    turn_blocks(columns, q, high_first != 0);
    for (int i = 0; i < 4; i++) {
        _mm512_store_si512(out + 64 * i, columns[i]);
        sum = _mm512_dpbusd_epi32(sum, offset, columns[i]);
    }
    _mm512_store_si512(out + 256, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
    _mm512_store_si512(out + 320, _mm512_load_si512(shifts));
}

/* The scales of a row of a piece of m. */
NB_ALWAYS_INLINE const void *scales_of(const char *piece, int m, int row)
{
    return piece + m * CHUNKS * CHUNK_BYTES + row * (int)sizeof(float[NB_A8_DECODED_GROUPS]);
}

void nb_a8_pack_few_avx512vnni(void *out, int m, int row, const float *x, int64_t k,
                               int high_first)
{
    char *piece = out;
    for (int64_t k0 = 0; k0 < k; k0 += NB_A8_DECODED, piece += m * NB_A8_FEW_BYTES) {
        float scales[NB_A8_DECODED_GROUPS];
        for (int i = 0; i < CHUNKS; i++) {
            nb_a8_rounded rounded;
            int group = i / GROUP_CHUNKS, in_group = i % GROUP_CHUNKS * COLUMNS;
            int64_t at = k0 + group * NB_A8_GROUP, left = k - at > 0 ? k - at : 0;
            if (in_group == 0)
                nb_a8_round_avx512(&rounded, left ? x + at : x,
                                   left < NB_A8_GROUP ? left : NB_A8_GROUP);
            scales[group] = rounded.scale;
            pack_chunk(piece + (i * m + row) * CHUNK_BYTES, rounded.q + in_group,
                       rounded.shifts + in_group / NB_A8_BLOCK, high_first);
        }
        memcpy((void *)scales_of(piece, m, row), scales, sizeof scales);
    }
}

/* Into a register, which the compiler would not spend on what two instructions can load. */
NB_ALWAYS_INLINE __m512i load(const void *p)
{
    __m512i vector = _mm512_load_si512(p);
    __asm__("" : "+v"(vector));
    return vector;
}

/* t[i] += products of two rows of W with a chunk of each of the m rows of x. */
NB_ALWAYS_INLINE void add_chunk(__m512i t[][PAIR], const chunk w[PAIR], const char *x, int m)
{
#pragma GCC unroll 8
    for (int i = 0; i < m; i++, x += CHUNK_BYTES) {
        __m512i sum[PAIR], shift;
        sum[0] = sum[1] = load(x + 256);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i columns = load(x + 64 * j);
            sum[0] = _mm512_dpbusd_epi32(sum[0], w[0].q[j], columns);
            sum[1] = _mm512_dpbusd_epi32(sum[1], w[1].q[j], columns);
        }
        shift = load(x + 320);
#pragma GCC unroll 2
        for (int j = 0; j < PAIR; j++) {
            sum[j] = _mm512_sllv_epi32(sum[j], _mm512_add_epi32(w[j].shifts, shift));
            t[i][j] = _mm512_add_epi32(t[i][j], sum[j]);
        }
    }
}

/* Two rows of W from `r` on times m rows of x. */
NB_ALWAYS_INLINE void multiply(sums out, const coded rows[PAIR], const nb_a8_few_span *s, int r,
                               int m)
{
    const char *x = s->x;
    for (int group = 0; group < NB_A8_DECODED_GROUPS; group++) {
        __m512i t[NB_FEW_ROWS][PAIR];
        for (int i = 0; i < m; i++) t[i][0] = t[i][1] = _mm512_setzero_si512();
#pragma GCC unroll 2
        for (int i = 0; i < GROUP_CHUNKS; i++, x += m * CHUNK_BYTES) {
            int64_t k = group * NB_A8_GROUP + i * COLUMNS;
            chunk w[PAIR] = {load_coded(&rows[0], k), load_coded(&rows[1], k)};
            add_chunk(t, w, x, m);
        }
        for (int i = 0; i < m; i++)
            out[group][i][r / PAIR] = _mm512_add_epi32(_mm512_unpacklo_epi32(t[i][0], t[i][1]),
                                                       _mm512_unpackhi_epi32(t[i][0], t[i][1]));
    }
}

/* The same of two rows that were decoded. */
NB_ALWAYS_INLINE void multiply_pair(sums out, const decoded rows[PAIR], const nb_a8_few_span *s,
                                    int r, int m)
{
    const int high_first = s->w->high_first != 0;
    const char *x = s->x;
    for (int group = 0; group * NB_A8_GROUP < s->count; group++) {
        __m512i t[NB_FEW_ROWS][PAIR];
        for (int i = 0; i < m; i++) t[i][0] = t[i][1] = _mm512_setzero_si512();
        for (int i = 0; i < GROUP_CHUNKS; i++, x += m * CHUNK_BYTES) {
            int64_t k = group * NB_A8_GROUP + i * COLUMNS;
            chunk w[PAIR] = {load_decoded(&rows[0], k, high_first),
                             load_decoded(&rows[1], k, high_first)};
            add_chunk(t, w, x, m);
        }
        for (int i = 0; i < m; i++)
            out[group][i][r / PAIR] = _mm512_add_epi32(_mm512_unpacklo_epi32(t[i][0], t[i][1]),
                                                       _mm512_unpackhi_epi32(t[i][0], t[i][1]));
    }
}

/* Rows that are decoded before: what tables do not hold. Of rows that are not there the last
 * one takes the place. */
static void multiply_decoded(sums out, float scales[][ROWS], const nb_a8_few_span *s, int r)
{
    decoded rows[PAIR];
    for (int j = 0; j < PAIR; j++) {
        float of_groups[NB_A8_DECODED_GROUPS] = {0};
        nb_a8_decoded to = {.chunks = rows[j].q,
                            .chunk_stride = NB_CHUNK_BYTES,
                            .scales = of_groups,
                            .shifts = rows[j].shifts};
        int row = r + j < s->n_rows ? r + j : s->n_rows - 1;
        if (s->count < NB_A8_DECODED) memset(&rows[j], 0, sizeof rows[j]);
        nb_a8_decode_avx512vnni(s->w, s->row + row, s->k0, s->count, &to);
        for (int i = 0; i < NB_A8_DECODED_GROUPS; i++) scales[i][r + j] = of_groups[i];
    }
    if (s->m == 1)
        multiply_pair(out, rows, s, r, 1);
    else
        multiply_pair(out, rows, s, r, s->m);
}

/* The largest of each half of 4 vectors of bytes, in turn in the 4 dwords of its quarters. */
NB_ALWAYS_INLINE __m512i largest_of_halves(const __m512i v[4])
{
    const __m512i other = _mm512_set4_epi32(0x0e0f0c0d, 0x0a0b0809, 0x06070405, 0x02030001);
    __m512 a = _mm512_castsi512_ps(
        _mm512_max_epu8(_mm512_unpacklo_epi64(v[0], v[1]), _mm512_unpackhi_epi64(v[0], v[1])));
    __m512 b = _mm512_castsi512_ps(
        _mm512_max_epu8(_mm512_unpacklo_epi64(v[2], v[3]), _mm512_unpackhi_epi64(v[2], v[3])));
    __m512i x = _mm512_max_epu8(_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88)),
                                _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd)));
    x = _mm512_max_epu8(x, _mm512_shuffle_i32x4(x, x, 0xb1));
    x = _mm512_max_epu8(x, _mm512_rol_epi32(x, 16));
    return _mm512_max_epu8(x, _mm512_shuffle_epi8(x, other));
}

/* nb_a8_fp4_scale() of rows r ... r + 3, whose largest exponents are given as above. */
NB_ALWAYS_INLINE void store_scales(float scales[][ROWS], const nb_weight *w, int r,
                                   __m512i exponents)
{
    __m512i field = _mm512_and_si512(exponents, _mm512_set1_epi32(255));
    field = _mm512_add_epi32(field, _mm512_set1_epi32(nb_a8_fp4_field(w, 0)));
    __m512 scale = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(field, 23)),
                                 _mm512_set1_ps(nb_a8_fp4_one(w)));
    _mm_store_ps(scales[0] + r, _mm512_castps512_ps128(scale));
    _mm_store_ps(scales[1] + r, _mm512_extractf32x4_ps(scale, 2));
}

/* Readies rows r ... r + 3 of FP4; returns whether tables hold all of them. */
NB_ALWAYS_INLINE int load_rows(coded *out, float scales[][ROWS], const nb_a8_few_span *s, int r,
                               nb_scale_kind kind)
{
    const int bits = kind == NB_SCALE_MXFP4 ? 5 : 4;
    const __m512i most = _mm512_set1_epi8(NB_A8_MOST_SHIFT);
    const nb_weight *w = s->w;
    __m512i exponents[4], rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int64_t row = s->row + (r + i < s->n_rows ? r + i : s->n_rows - 1);
        const uint8_t *codes = (const uint8_t *)w->scales + ((row * w->k + s->k0) >> bits);
        exponents[i] = nb_a8_exponents(codes, NB_A8_DECODED >> bits, kind, &rows[i]);
        out[r + i].codes = (const uint8_t *)w->data + (row * w->k + s->k0) / 2;
    }
    __m512i largest = largest_of_halves(exponents), least = _mm512_sub_epi8(largest, most);
    __m512i of_row[4] = {
        _mm512_shuffle_epi32(least, _MM_PERM_AAAA), _mm512_shuffle_epi32(least, _MM_PERM_BBBB),
        _mm512_shuffle_epi32(least, _MM_PERM_CCCC), _mm512_shuffle_epi32(least, _MM_PERM_DDDD)};
    /* Zeros are less than `least`, but for those of a group of hardly more, which is no plain
     * one; NaNs are the largest. */
    __m512i rare = _mm512_subs_epu8(_mm512_add_epi8(largest, _mm512_set1_epi8(-5)),
                                    _mm512_set1_epi8((char)(NB_A8_NAN_FIELD - 6)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i shifts = _mm512_sub_epi8(exponents[i], of_row[i]);
        rare = _mm512_or_si512(rare, _mm512_subs_epu8(shifts, most));
        _mm512_store_si512(out[r + i].blocks, _mm512_or_si512(rows[i], shifts));
    }
    store_scales(scales, w, r, largest);
    return _mm512_test_epi8_mask(rare, rare) == 0;
}

/* What comes in the place of these rows. */
typedef struct next {
    const char *codes, *scales;
    int64_t code_bytes, scale_bytes; /* of a row */
    int64_t rows;
} next;

NB_ALWAYS_INLINE next next_rows(const nb_a8_few_span *s, nb_scale_kind kind)
{
    const nb_weight *w = s->w;
    const int bits = kind == NB_SCALE_MXFP4 ? 5 : 4;
    int64_t at = s->next_row * w->k + s->next_k0;
    return (next){.codes = (const char *)w->data + at / 2,
                  .scales = (const char *)w->scales + (at >> bits),
                  .code_bytes = w->k / 2,
                  .scale_bytes = w->k >> bits,
                  .rows = w->n - s->next_row};
}

NB_ALWAYS_INLINE void prefetch(const next *n, int r)
{
    const char *codes = n->codes + r * n->code_bytes;
    if (r >= n->rows) return;
#pragma GCC unroll 8
    for (int i = 0; i < NB_A8_DECODED / 2; i += 64) __builtin_prefetch(codes + i, 0, 3);
    __builtin_prefetch(n->scales + r * n->scale_bytes, 0, 3);
}

/* The 16 rows' sums of a group and row of x. */
NB_ALWAYS_INLINE __m512i add_lanes(const __m512i v[ROWS / PAIR])
{
    __m512i r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        r[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]));
    __m512i a = _mm512_add_epi32(_mm512_shuffle_i32x4(r[0], r[1], 0x88),
                                 _mm512_shuffle_i32x4(r[0], r[1], 0xdd));
    __m512i b = _mm512_add_epi32(_mm512_shuffle_i32x4(r[2], r[3], 0x88),
                                 _mm512_shuffle_i32x4(r[2], r[3], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* Adds sums to c. */
NB_ALWAYS_INLINE void finish(float *c, sums t, float scales[][ROWS], const nb_a8_few_span *s,
                             int m)
{
    for (int group = 0; group * NB_A8_GROUP < s->count; group++) {
        __m512 scale = _mm512_load_ps(scales[group]);
        for (int i = 0; i < m; i++) {
            const void *x_scales = scales_of(s->x, m, i);
            __m512 x_scale = _mm512_set1_ps(((const float *)x_scales)[group]);
            __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(add_lanes(t[group][i])), x_scale);
            sum = _mm512_fmadd_ps(sum, scale, _mm512_load_ps(c + i * 16));
            _mm512_store_ps(c + i * 16, sum);
        }
    }
}

/* A whole piece of FP4. */
NB_ALWAYS_INLINE void run(float *c, const nb_a8_few_span *s, int m, nb_scale_kind kind)
{
    _Alignas(64) float scales[NB_A8_DECODED_GROUPS][ROWS];
    const next ahead = next_rows(s, kind);
    coded rows[ROWS];
    int are_plain[ROWS / 4];
    sums t;
    for (int i = 0; i < ROWS / 4; i++) are_plain[i] = load_rows(rows, scales, s, 4 * i, kind);
    for (int r = 0; r < ROWS; r += PAIR) {
        prefetch(&ahead, r);
        prefetch(&ahead, r + 1);
        if (are_plain[r / 4])
            multiply(t, rows + r, s, r, m);
        else
            multiply_decoded(t, scales, s, r);
    }
    finish(c, t, scales, s, m);
}

static void run_decoded(float *c, const nb_a8_few_span *s)
{
    _Alignas(64) float scales[NB_A8_DECODED_GROUPS][ROWS];
    sums t;
    for (int r = 0; r < ROWS; r += PAIR) {
        for (int i = r; i < r + PAIR && s->next_row + i < s->w->n; i++)
            nb_a8_prefetch(s->w, s->next_row + i, s->next_k0, NB_A8_DECODED);
        multiply_decoded(t, scales, s, r);
    }
    finish(c, t, scales, s, s->m);
}

/* As many rows of x as there are, each its own loops, whose sums are then in registers. */
#define RUN(m)                                                                                 \
    static void run_nvfp4_##m(float *c, const nb_a8_few_span *s)                               \
    {                                                                                          \
        run(c, s, m, NB_SCALE_NVFP4);                                                          \
    }                                                                                          \
    static void run_mxfp4_##m(float *c, const nb_a8_few_span *s)                               \
    {                                                                                          \
        run(c, s, m, NB_SCALE_MXFP4);                                                          \
    }
RUN(1)
RUN(2)
RUN(3)
RUN(4)
RUN(5)
RUN(6)
RUN(7)
RUN(8)
#undef RUN

void nb_a8_few_avx512vnni(float *c, const nb_a8_few_span *s)
{
    static nb_a8_few_fn *const runs[2][NB_FEW_ROWS] = {
        {run_nvfp4_1, run_nvfp4_2, run_nvfp4_3, run_nvfp4_4, run_nvfp4_5, run_nvfp4_6,
         run_nvfp4_7, run_nvfp4_8},
        {run_mxfp4_1, run_mxfp4_2, run_mxfp4_3, run_mxfp4_4, run_mxfp4_5, run_mxfp4_6,
         run_mxfp4_7, run_mxfp4_8}};
    if (s->w->dtype != NB_DTYPE_F4_E2M1X2 || s->count < NB_A8_DECODED)
        run_decoded(c, s);
    else
        runs[s->w->scale_kind == NB_SCALE_MXFP4][s->m - 1](c, s);
}
