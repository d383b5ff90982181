/* What FP4's bytes mean to 8-bit linears (kernels/a8.h), by tables of 128 bytes that one
 * instruction looks up 64 times. */
#ifndef NB_KERNELS_CPU_LINEAR_A8_AVX512_H
#define NB_KERNELS_CPU_LINEAR_A8_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/linear_a8.h"

enum { NB_A8_OFFSET = 128, NB_A8_PART = 64 /* blocks of one vector of scales */ };

/* A group of a row, rounded as by nb_a8_round_ref(); columns past the k-th are zeros. */
typedef struct nb_a8_rounded {
    _Alignas(64) int8_t q[NB_A8_GROUP];
    _Alignas(64) int32_t shifts[NB_A8_GROUP_BLOCKS];
    float scale;
} nb_a8_rounded;

void nb_a8_round_avx512(nb_a8_rounded *out, const float *x, int64_t k);

/* nb_a8_fp4_exponent() of an E4M3 without its sign. */
#define EXPONENTS(e) e, e, e, e + 1, e + 1, e + 1, e + 1, e + 1
static const _Alignas(64) uint8_t nb_a8_e4m3_exponents[128] = {0,
                                                               3,
                                                               4,
                                                               5,
                                                               5,
                                                               5,
                                                               6,
                                                               6,
                                                               EXPONENTS(6),
                                                               EXPONENTS(7),
                                                               EXPONENTS(8),
                                                               EXPONENTS(9),
                                                               EXPONENTS(10),
                                                               EXPONENTS(11),
                                                               EXPONENTS(12),
                                                               EXPONENTS(13),
                                                               EXPONENTS(14),
                                                               EXPONENTS(15),
                                                               EXPONENTS(16),
                                                               EXPONENTS(17),
                                                               EXPONENTS(18),
                                                               EXPONENTS(19),
                                                               20,
                                                               20,
                                                               20,
                                                               21,
                                                               21,
                                                               21,
                                                               21,
                                                               255};
#undef EXPONENTS

/* Where its codes begin in nb_a8_fp4_values: 16 times the mantissa. */
#define MANTISSAS 0, 16, 32, 48, 64, 80, 96, 112
static const _Alignas(64) uint8_t nb_a8_e4m3_rows[128] = {
    0,         0,         0,         64,        0,         32,        64,        96,
    MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS,
    MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS};
#undef MANTISSAS

/* q + NB_A8_OFFSET of 16 codes, for the mantissas 8 / 8 ... 15 / 8 of a block scale. */
#define CODES(a, b, c, d, e, f, g)                                                             \
    128, 128 + a, 128 + b, 128 + c, 128 + d, 128 + e, 128 + f, 128 + g, 128, 128 - a, 128 - b, \
        128 - c, 128 - d, 128 - e, 128 - f, 128 - g
static const _Alignas(64) uint8_t nb_a8_fp4_values[128] = {
    CODES(8, 16, 24, 32, 48, 64, 96),   CODES(9, 18, 27, 36, 54, 72, 108),
    CODES(10, 20, 30, 40, 60, 80, 120), CODES(6, 11, 16, 22, 33, 44, 66),
    CODES(6, 12, 18, 24, 36, 48, 72),   CODES(6, 13, 20, 26, 39, 52, 78),
    CODES(7, 14, 21, 28, 42, 56, 84),   CODES(8, 15, 22, 30, 45, 60, 90)};
#undef CODES

static inline __m512i nb_a8_look_up(__m512i index, const uint8_t table[128])
{
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), index,
                                    _mm512_load_si512(table + 64));
}

/* The scales of NB_A8_DECODED columns, all bytes of 64 blocks of 16 columns. */
typedef struct nb_a8_fp4_blocks {
    __m512i rows; /* what a code is xor-ed with for nb_a8_fp4_values */
    __m512i shifts;
    __m512i exponents; /* of the group */
    int are_plain;     /* no block's exponent is less than E or stands for a 0 or a NaN: else
                          nb_a8_round_fp4_ref() */
} nb_a8_fp4_blocks;

/* The largest of each 32 bytes, everywhere among them. */
static inline __m512i nb_a8_largest_of_32(__m512i x)
{
    const __m512i other = _mm512_set4_epi32(0x0e0f0c0d, 0x0a0b0809, 0x06070405, 0x02030001);
    x = _mm512_max_epu8(x, _mm512_shuffle_i32x4(x, x, 0xb1));
    x = _mm512_max_epu8(x, _mm512_shuffle_epi32(x, _MM_PERM_BADC));
    x = _mm512_max_epu8(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
    x = _mm512_max_epu8(x, _mm512_rol_epi32(x, 16));
    return _mm512_max_epu8(x, _mm512_shuffle_epi8(x, other));
}

/* n bytes and zeros after them. Half a vector where that is enough: whatever a masked load
 * leaves out, it waits for the cache line. */
NB_ALWAYS_INLINE __m512i nb_a8_load_bytes(const uint8_t *p, int64_t n)
{
    if (n == 64) return _mm512_loadu_si512(p);
    if (n > 32) return _mm512_maskz_loadu_epi8((1ull << n) - 1, p);
    __mmask32 there = n == 32 ? ~0u : (1u << n) - 1;
    return _mm512_zextsi256_si512(_mm256_maskz_loadu_epi8(there, p));
}

/* nb_a8_fp4_exponent() of n scale bytes, one for each 16 columns, and what codes of theirs are
 * xor-ed with for nb_a8_fp4_values. */
NB_ALWAYS_INLINE __m512i nb_a8_exponents(const uint8_t *scales, int64_t n, nb_scale_kind kind,
                                         __m512i *rows)
{
    __m512i codes = nb_a8_load_bytes(scales, n);
    if (kind == NB_SCALE_MXFP4) { /* one for two */
        const __m512i least = _mm512_set1_epi8(NB_A8_LEAST_FIELD);
        codes = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(codes));
        codes = _mm512_or_si512(codes, _mm512_slli_epi16(codes, 8));
        *rows = _mm512_setzero_si512();
        return _mm512_maskz_mov_epi8(_mm512_cmpge_epu8_mask(codes, least), codes);
    }
    *rows = nb_a8_look_up(codes, nb_a8_e4m3_rows);
    /* rows | (codes >> 4 & 8), the sign */
    *rows = _mm512_ternarylogic_epi32(*rows, _mm512_srli_epi16(codes, 4), _mm512_set1_epi8(8),
                                      0xf8);
    return nb_a8_look_up(codes, nb_a8_e4m3_exponents);
}

/* Of `count` columns from k0 on, at most NB_A8_DECODED. */
static inline nb_a8_fp4_blocks nb_a8_load_blocks(const nb_weight *w, int64_t row, int64_t k0,
                                                 int64_t count)
{
    const __m512i most = _mm512_set1_epi8(NB_A8_MOST_SHIFT);
    int bits = nb_weight_block_bits(w);
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    __mmask64 there = count < NB_A8_DECODED ? (1ull << count / NB_A8_BLOCK) - 1 : ~0ull;
    nb_a8_fp4_blocks b;
    __m512i exponents = nb_a8_exponents(scales, count >> bits, w->scale_kind, &b.rows);
    exponents = _mm512_maskz_mov_epi8(there, exponents);
    b.exponents = nb_a8_largest_of_32(exponents);
    __m512i less = _mm512_sub_epi8(b.exponents, exponents);
    b.shifts = _mm512_sub_epi8(most, less);
    /* 0 and NaN by one comparison: 255 and 254 are what they are less 1 */
    __m512i low = _mm512_subs_epu8(less, most);
    __m512i special = _mm512_subs_epu8(_mm512_add_epi8(exponents, _mm512_set1_epi8(-1)),
                                       _mm512_set1_epi8((char)253));
    b.are_plain = _mm512_mask_test_epi8_mask(there, _mm512_or_si512(low, special),
                                             _mm512_set1_epi8(-1)) == 0;
    return b;
}

#endif
