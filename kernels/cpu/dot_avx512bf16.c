#include "kernels/cpu/dot_avx512.h"
#include "kernels/cpu/panel_avx512.h"

NB_ALWAYS_INLINE __m512 multiply_add_bf16(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

void nb_dot_bf16_avx512bf16(float *lanes, const nb_dot_span *s)
{
    nb_dot_avx512(lanes, s, NB_CHUNK_BYTES, nb_dot_load_units_avx512, multiply_add_bf16);
}

/* Two times 16 floats times the row's scale, rounded: just what the decoder of panels makes. */
NB_ALWAYS_INLINE __m512 round_pair(__m512 low, __m512 high, float scale)
{
    __m512 by = _mm512_set1_ps(scale);
    return (__m512)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, by), _mm512_mul_ps(low, by));
}

#define LOAD_TYPED(name, type, bytes)                                                          \
    NB_ALWAYS_INLINE __m512 name(const nb_dot_span *s, int r, int64_t i)                       \
    {                                                                                          \
        const char *p = (const char *)s->w[r] + i * 32 * (bytes);                              \
        return round_pair(nb_load16(type, p), nb_load16(type, p + 16 * (bytes)),               \
                          s->row_scale[r]);                                                    \
    }
LOAD_TYPED(load_f32, NB_DTYPE_F32, 4)
LOAD_TYPED(load_f16, NB_DTYPE_F16, 2)
LOAD_TYPED(load_bf16, NB_DTYPE_BF16, 2)

/* E4M3's bits, shifted, are an F16 of 2^-8 times its value. */
NB_ALWAYS_INLINE __m512 load_f8(const nb_dot_span *s, int r, int64_t i)
{
    __m512i c = _mm512_cvtepi8_epi16(
        _mm256_loadu_si256((const void *)((const char *)s->w[r] + i * 32)));
    __mmask32 is_nan = _mm512_cmpeq_epi16_mask(_mm512_or_si512(c, _mm512_set1_epi16(-0x80)),
                                               _mm512_set1_epi16(-1));
    __m512i half = _mm512_and_si512(_mm512_slli_epi16(c, 7), _mm512_set1_epi16(-0x4001));
    half = _mm512_mask_mov_epi16(half, is_nan, _mm512_set1_epi16(0x7e00));
    return round_pair(_mm512_cvtph_ps(_mm512_castsi512_si256(half)),
                      _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)),
                      s->row_scale[r] * 256.0f);
}

void nb_dot_typed_bf16_avx512bf16(float *lanes, const nb_dot_span *s)
{
    switch (s->dtype) {
    case NB_DTYPE_F32:
        nb_dot_avx512(lanes, s, 128, load_f32, multiply_add_bf16);
        break;
    case NB_DTYPE_F16:
        nb_dot_avx512(lanes, s, 64, load_f16, multiply_add_bf16);
        break;
    case NB_DTYPE_BF16:
        nb_dot_avx512(lanes, s, 64, load_bf16, multiply_add_bf16);
        break;
    default:
        nb_dot_avx512(lanes, s, 32, load_f8, multiply_add_bf16);
    }
}

/* The values of codes without a sign are 128 words. */
NB_ALWAYS_INLINE __m512 look_up_f8(const nb_dot_span *s, int r, int64_t i)
{
    const __m512i *table = s->table;
    __m512i c = _mm512_cvtepi8_epi16(
        _mm256_loadu_si256((const void *)((const char *)s->w[r] + i * 32)));
    __m512i low = _mm512_permutex2var_epi16(table[0], c, table[1]);
    __m512i high = _mm512_permutex2var_epi16(table[2], c, table[3]);
    __mmask32 is_high = _mm512_test_epi16_mask(c, _mm512_set1_epi16(0x40));
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi64(_mm512_mask_mov_epi16(low, is_high, high), c,
                                  _mm512_set1_epi16(-0x8000), 0x78)); /* ^, & */
}

void nb_dot_f8_bf16_avx512bf16(float *lanes, const nb_dot_span *s)
{
    nb_dot_avx512(lanes, s, 32, look_up_f8, multiply_add_bf16);
}

/*
 * FP4, four chunks of 32 codes at a time. What bounds this is how many loads start in a clock,
 * then how many shuffles: codes and scales are loaded once for four chunks, codes are spread by
 * permutations of registers, and of the scales' bytes general registers make the offsets of
 * their values. The values of two blocks are looked up by one permutation.
 */
enum { QUAD = 4, QUAD_BYTES = 64, CHUNK_CODE_BYTES = 16 };

typedef enum block_kind { NVFP4, MXFP4 } block_kind;

/* The codes of a row's four chunks as bytes, even and odd ones, and their blocks' scales. */
struct quad {
    __m512i even, odd;
    uint64_t scales;
};

/* The compiler would load it twice, or store it to load it shifted. */
#define IN_REGISTER(x) __asm__("" : "+v"(x))

/* NVFP4: bit 5 is set in the second block of a chunk. */
NB_ALWAYS_INLINE struct quad split_codes(__m512i codes, uint64_t scales, block_kind kind)
{
    const long long bits = 0x2020202020202020;
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i second = kind == NVFP4 ? _mm512_set_epi64(bits, 0, bits, 0, bits, 0, bits, 0)
                                         : _mm512_setzero_si512();
    __m512i high = _mm512_srli_epi16(codes, 4);
    IN_REGISTER(high);
    return (struct quad){_mm512_ternarylogic_epi64(codes, low, second, 0xea), /* &, | */
                         _mm512_ternarylogic_epi64(high, low, second, 0xea), scales};
}

NB_ALWAYS_INLINE struct quad load_quad(const char *codes, const uint8_t *scales,
                                       block_kind kind)
{
    __m512i c = _mm512_loadu_si512(codes);
    uint64_t bytes = 0;
    IN_REGISTER(c);
    __builtin_memcpy(&bytes, scales, kind == NVFP4 ? 8 : 4);
    return split_codes(c, bytes, kind);
}

/* The last codes of a row: nothing beyond them is read. */
NB_ALWAYS_INLINE struct quad load_last(const char *codes, const uint8_t *scales, int n_bytes,
                                       block_kind kind)
{
    int n_scales = kind == NVFP4 ? n_bytes / 8 : n_bytes / 16;
    __m512i c = _mm512_maskz_loadu_epi8(n_bytes < 64 ? (1ull << n_bytes) - 1 : ~0ull, codes);
    __m128i bytes = _mm_maskz_loadu_epi8((__mmask16)((1u << n_scales) - 1), scales);
    return split_codes(c, (uint64_t)_mm_cvtsi128_si64(bytes), kind);
}

/* For each 16-bit lane of a chunk the byte of its code, odd codes from 64 on. */
NB_ALWAYS_INLINE __m512i places(int chunk, int high_first)
{
    const __m512i units =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int step = 0x01010101, odd = high_first ? 0x00004040 : 0x40400000;
    __m512i first = _mm512_mullo_epi32(units, _mm512_set1_epi32(step));
    return _mm512_add_epi32(first, _mm512_set1_epi32(chunk * CHUNK_CODE_BYTES * step + odd));
}

/* Where the values of the scale in byte i lie: NB_CHUNK_BYTES for each. A multiple of 8, as
 * addresses may have it. */
NB_ALWAYS_INLINE const char *values_at(const char *table, uint64_t scales, int i)
{
    uint64_t eighths = i ? scales >> (8 * i - 3) & 0x7f8 : (scales & 0xff) * 8;
    return table + eighths * 8;
}

/* 32 bytes into any register; whole vectors would keep other loads waiting. */
NB_ALWAYS_INLINE __m512i load_lower(const char *p)
{
    __m512i x;
    __asm__("vmovdqa64 %1, %t0" : "=v"(x) : "m"(*(const __m256i *)(const void *)p));
    return x;
}

/* Chunk c of a quad; lanes that are not of the row are 0. */
NB_ALWAYS_INLINE __m512 values_of(const char *table, const struct quad *q, __m512i place, int c,
                                  __mmask32 lanes, block_kind kind)
{
    __m512i index = _mm512_permutex2var_epi8(q->even, place, q->odd);
    if (kind == MXFP4)
        return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(
            lanes, index, _mm512_load_si512(values_at(table, q->scales, c))));
    __m512i first = load_lower(values_at(table, q->scales, 2 * c));
    __m512i second = _mm512_load_si512(values_at(table, q->scales, 2 * c + 1));
    return _mm512_castsi512_ps(_mm512_maskz_permutex2var_epi16(lanes, first, index, second));
}

/* A place in the rows. */
struct cursor {
    const char *codes, *x;
    const uint8_t *scales;
};

/* Chunk c of some rows times x, whose vectors stay in registers. */
NB_ALWAYS_INLINE void multiply_each(__m512 *sum, const nb_dot_span *s, const struct quad *q,
                                    __m512i place, int c, const char *x, int rows, int m,
                                    __mmask32 lanes, block_kind kind)
{
    __m512 xv[NB_FEW_ROWS];
#pragma GCC unroll 8
    for (int k = 0; k < m; k++)
        xv[k] = _mm512_load_ps(x + k * s->x_stride + c * NB_CHUNK_BYTES);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        __m512 w = values_of(s->table, &q[r], place, c, lanes, kind);
#pragma GCC unroll 8
        for (int k = 0; k < m; k++)
            sum[r * m + k] = multiply_add_bf16(sum[r * m + k], w, xv[k]);
    }
}

/* The same of two rows and so many of x that there are not registers for all of them. */
NB_ALWAYS_INLINE void multiply_pair(__m512 *sum, const nb_dot_span *s, const struct quad *q,
                                    __m512i place, int c, const char *x, int m, __mmask32 lanes,
                                    block_kind kind)
{
    __m512 w0 = values_of(s->table, &q[0], place, c, lanes, kind);
    __m512 w1 = values_of(s->table, &q[1], place, c, lanes, kind);
#pragma GCC unroll 8
    for (int k = 0; k < m; k++) {
        __m512 xv = _mm512_load_ps(x + k * s->x_stride + c * NB_CHUNK_BYTES);
        IN_REGISTER(xv);
        sum[k] = multiply_add_bf16(sum[k], w0, xv);
        sum[m + k] = multiply_add_bf16(sum[m + k], w1, xv);
    }
}

/* Four chunks, or at the end `left` of them, of `rows` rows side by side, so that a sum's
 * additions do not wait for each other. */
NB_ALWAYS_INLINE void dot_quad(__m512 *sum, const nb_dot_span *s, const __m512i *place,
                               struct cursor *rows_at, int rows, int m, int left,
                               block_kind kind)
{
    struct quad q[4];
    struct cursor at = *rows_at;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        q[r] = left
                   ? load_last(at.codes, at.scales, left * CHUNK_CODE_BYTES - s->half * 8, kind)
                   : load_quad(at.codes, at.scales, kind);
        if (!left) _mm_prefetch(at.codes + s->ahead, _MM_HINT_T0);
        at.codes += s->stride;
        at.scales += s->scales_stride;
        __asm__("" : "+r"(at.codes), "+r"(at.scales)); /* no register for each row */
    }
    *rows_at = at;
#pragma GCC unroll 4
    for (int c = 0; c < QUAD; c++) {
        if (left && c >= left) break;
        __mmask32 lanes = left && s->half && c == left - 1 ? 0x0000ffff : 0xffffffff;
        if (m <= 4)
            multiply_each(sum, s, q, place[c], c, at.x, rows, m, lanes, kind);
        else
            multiply_pair(sum, s, q, place[c], c, at.x, m, lanes, kind);
    }
}

/* All but s and lanes are constants where this is used. */
NB_ALWAYS_INLINE void dot_rows(float *lanes, const nb_dot_span *s, int rows, int m,
                               block_kind kind)
{
    const int side = m == 1 ? 4 : 2;
    int64_t i = 0;
    struct cursor at = {s->w[0], s->x, s->scales};
    __m512i place[QUAD];
    __m512 sum[16];
#pragma GCC unroll 4
    for (int c = 0; c < QUAD; c++) {
        place[c] = places(c, s->high_first);
        IN_REGISTER(place[c]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < rows * m; j++)
        sum[j] = s->accumulate ? _mm512_load_ps(lanes + j * 16) : _mm512_setzero_ps();
    for (; i + QUAD <= s->chunks - s->half; i += QUAD) {
        struct cursor row = at;
        if (i % (kind == NVFP4 ? 32 : 64) == 0)
#pragma GCC unroll 1
            for (int r = 0; r < rows; r++)
                _mm_prefetch(at.scales + r * s->scales_stride + s->scales_ahead, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r += side)
            dot_quad(sum + r * m, s, place, &row, side, m, 0, kind);
        at.codes += QUAD_BYTES;
        at.scales += kind == NVFP4 ? 2 * QUAD : QUAD;
        at.x += QUAD * NB_CHUNK_BYTES;
    }
    if (i < s->chunks)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r += side)
            dot_quad(sum + r * m, s, place, &at, side, m, (int)(s->chunks - i), kind);
#pragma GCC unroll 16
    for (int j = 0; j < rows * m; j++) _mm512_store_ps(lanes + j * 16, sum[j]);
}

NB_ALWAYS_INLINE void dot_fp4(float *lanes, const nb_dot_span *s, block_kind kind)
{
    switch (s->m) {
    case 1:
        dot_rows(lanes, s, 8, 1, kind);
        break;
    case 2:
        dot_rows(lanes, s, 8, 2, kind);
        break;
    case 3:
        dot_rows(lanes, s, 4, 3, kind);
        break;
    case 4:
        dot_rows(lanes, s, 4, 4, kind);
        break;
    case 5:
        dot_rows(lanes, s, 2, 5, kind);
        break;
    case 6:
        dot_rows(lanes, s, 2, 6, kind);
        break;
    case 7:
        dot_rows(lanes, s, 2, 7, kind);
        break;
    default:
        dot_rows(lanes, s, 2, NB_FEW_ROWS, kind);
    }
}

void nb_dot_fp4_bf16_avx512bf16(float *lanes, const nb_dot_span *s)
{
    if (s->block_bits == 5)
        dot_fp4(lanes, s, MXFP4);
    else
        dot_fp4(lanes, s, NVFP4);
}
