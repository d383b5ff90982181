#include "kernels/cpu/dot_avx512.h"

/* Each quarter of a vector holds 4 codes of one block and 4 of the next. */
const int32_t nb_fp4_order_bf16_avx512bf16[16] = {0, 1, 4, 5, 8,  9,  12, 13,
                                                  2, 3, 6, 7, 10, 11, 14, 15};

NB_ALWAYS_INLINE __m512 multiply_add_bf16(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

/* 32 codes, all of them in each quarter of a vector: every 16-bit lane takes its own, whatever
 * stands above its 4 bits. */
NB_ALWAYS_INLINE __m512i spread_codes(__m128i codes, int high_first)
{
    const __m512i low = _mm512_setr_epi64(
        0x000c000800040000, 0x000c000800040000, 0x001c001800140010, 0x001c001800140010,
        0x002c002800240020, 0x002c002800240020, 0x003c003800340030, 0x003c003800340030);
    const __m512i high = _mm512_xor_si512(low, _mm512_set1_epi16(4));
    return _mm512_multishift_epi64_epi8(high_first ? high : low, _mm512_broadcast_i32x4(codes));
}

/* Two blocks of 16, whose values are the two halves of a table. */
NB_ALWAYS_INLINE __m512 load_nvfp4(const nb_dot_span *s, int r, int64_t i, int high_first)
{
    const __m512i second = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0010001000100010, 0));
    const uint8_t *scales = s->scales[r] + 2 * i;
    const char *table = s->table;
    __m512i index = spread_codes(
        _mm_loadu_si128((const void *)((const char *)s->w[r] + i * 16)), high_first);
    index = _mm512_ternarylogic_epi64(index, _mm512_set1_epi16(15), second, 0xea); /* &, | */
    __m512i values = _mm512_inserti64x4(
        _mm512_castsi256_si512(
            _mm256_load_si256((const void *)(table + (size_t)scales[0] * 32))),
        _mm256_load_si256((const void *)(table + (size_t)scales[1] * 32)), 1);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(index, values));
}

/* A block of 32: its values twice, so that bit 4 of an index does not matter. */
NB_ALWAYS_INLINE __m512 load_mxfp4(const nb_dot_span *s, int r, int64_t i, int high_first)
{
    const char *table = s->table;
    __m512i index = spread_codes(
        _mm_loadu_si128((const void *)((const char *)s->w[r] + i * 16)), high_first);
    __m512i values = _mm512_broadcast_i64x4(
        _mm256_load_si256((const void *)(table + (size_t)s->scales[r][i] * 32)));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(index, values));
}

/* One block of 16 at the end of a row, zeros after it. */
NB_ALWAYS_INLINE __m512 load_half(const nb_dot_span *s, int r, int64_t i, int high_first)
{
    const char *table = s->table;
    __m128i codes = _mm_loadl_epi64((const void *)((const char *)s->w[r] + i * 16));
    __m512i values = _mm512_broadcast_i64x4(
        _mm256_load_si256((const void *)(table + s->scales[r][2 * i] * 32)));
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0x0f0f0f0f, spread_codes(codes, high_first), values));
}

#define LOAD_FP4(name, load, high_first)                                                       \
    NB_ALWAYS_INLINE __m512 name(const nb_dot_span *s, int r, int64_t i)                       \
    {                                                                                          \
        return load(s, r, i, high_first);                                                      \
    }
LOAD_FP4(load_nvfp4_low, load_nvfp4, 0)
LOAD_FP4(load_nvfp4_high, load_nvfp4, 1)
LOAD_FP4(load_mxfp4_low, load_mxfp4, 0)
LOAD_FP4(load_mxfp4_high, load_mxfp4, 1)
LOAD_FP4(load_half_low, load_half, 0)
LOAD_FP4(load_half_high, load_half, 1)

void nb_dot_bf16_avx512bf16(float *lanes, const nb_dot_span *s)
{
    nb_dot_avx512(lanes, s, 0, nb_dot_load_units_avx512, nb_dot_load_units_avx512,
                  multiply_add_bf16);
}

void nb_dot_fp4_bf16_avx512bf16(float *lanes, const nb_dot_span *s)
{
    if (s->block_bits == 5 && s->high_first)
        nb_dot_avx512(lanes, s, 32, load_mxfp4_high, load_mxfp4_high, multiply_add_bf16);
    else if (s->block_bits == 5)
        nb_dot_avx512(lanes, s, 32, load_mxfp4_low, load_mxfp4_low, multiply_add_bf16);
    else if (s->high_first)
        nb_dot_avx512(lanes, s, 32, load_nvfp4_high, load_half_high, multiply_add_bf16);
    else
        nb_dot_avx512(lanes, s, 32, load_nvfp4_low, load_half_low, multiply_add_bf16);
}
