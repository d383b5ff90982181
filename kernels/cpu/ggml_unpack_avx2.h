/* nb_block_unpack_ref() with the 32-byte vectors that AVX2 and all above it have. */
#ifndef NB_KERNELS_CPU_GGML_UNPACK_AVX2_H
#define NB_KERNELS_CPU_GGML_UNPACK_AVX2_H

#include <immintrin.h>

#include "kernels/cpu/gemm.h"
#include "kernels/ggml_blocks.h"

NB_ALWAYS_INLINE __m256i nb_load32(const void *p)
{
    return _mm256_loadu_si256(p);
}

NB_ALWAYS_INLINE void nb_store_q(nb_block_values *out, int at, __m256i q)
{
    _mm256_storeu_si256((void *)(out->q + at), q);
}

/* Bits of every byte, moved right by `shift` (left where it is negative); both constants. */
NB_ALWAYS_INLINE __m256i nb_bits(__m256i bytes, int shift, int mask)
{
    __m256i moved =
        shift >= 0 ? _mm256_srli_epi16(bytes, shift) : _mm256_slli_epi16(bytes, -shift);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}

NB_ALWAYS_INLINE __m256i nb_subtract(__m256i q, int n)
{
    return _mm256_sub_epi8(q, _mm256_set1_epi8((char)n));
}

/* The halves of 16 bytes, low ones first. */
NB_ALWAYS_INLINE __m256i nb_halves(const uint8_t *qs)
{
    __m128i bytes = _mm_loadu_si128((const void *)qs), mask = _mm_set1_epi8(15);
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
    return _mm256_set_m128i(high, _mm_and_si128(bytes, mask));
}

/* 16 in each byte whose bit of 32 is set. */
NB_ALWAYS_INLINE __m256i nb_fifth_bits(const uint8_t *qh)
{
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                             2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit_of = _mm256_set1_epi64x((long long)0x8040201008040201u);
    int32_t bits;
    memcpy(&bits, qh, sizeof bits);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of);
    __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
    return _mm256_and_si256(is_set, _mm256_set1_epi8(16));
}

NB_ALWAYS_INLINE void nb_fill_steps(nb_block_values *out, float step, float offset)
{
    out->step[0] = out->step[1] = step;
    out->offset[0] = out->offset[1] = offset;
}

/* 16 small integers times a number. */
NB_ALWAYS_INLINE void nb_scale16(float *out, __m128i integers, float d)
{
    __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(integers));
    __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(integers, 8)));
    _mm256_storeu_ps(out, _mm256_mul_ps(low, _mm256_set1_ps(d)));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(high, _mm256_set1_ps(d)));
}

NB_ALWAYS_INLINE void nb_no_offsets(nb_block_values *out)
{
    _mm256_storeu_ps(out->offset, _mm256_set1_ps(-0.0f));
    _mm256_storeu_ps(out->offset + 8, _mm256_set1_ps(-0.0f));
}

/* ---- blocks of 32 ---- */

NB_ALWAYS_INLINE void nb_unpack_q4_0(const nb_block_q4_0 *b, nb_block_values *out)
{
    nb_store_q(out, 0, nb_subtract(nb_halves(b->qs), 8));
    nb_fill_steps(out, _cvtsh_ss(b->d), -0.0f);
}

NB_ALWAYS_INLINE void nb_unpack_q4_1(const nb_block_q4_1 *b, nb_block_values *out)
{
    nb_store_q(out, 0, nb_halves(b->qs));
    nb_fill_steps(out, _cvtsh_ss(b->d), _cvtsh_ss(b->m));
}

NB_ALWAYS_INLINE void nb_unpack_q5_0(const nb_block_q5_0 *b, nb_block_values *out)
{
    __m256i q = _mm256_or_si256(nb_halves(b->qs), nb_fifth_bits(b->qh));
    nb_store_q(out, 0, nb_subtract(q, 16));
    nb_fill_steps(out, _cvtsh_ss(b->d), -0.0f);
}

NB_ALWAYS_INLINE void nb_unpack_q5_1(const nb_block_q5_1 *b, nb_block_values *out)
{
    nb_store_q(out, 0, _mm256_or_si256(nb_halves(b->qs), nb_fifth_bits(b->qh)));
    nb_fill_steps(out, _cvtsh_ss(b->d), _cvtsh_ss(b->m));
}

NB_ALWAYS_INLINE void nb_unpack_q8_0(const nb_block_q8_0 *b, nb_block_values *out)
{
    nb_store_q(out, 0, nb_load32(b->qs));
    nb_fill_steps(out, _cvtsh_ss(b->d), -0.0f);
}

/* Of each of 32 codes what the table of 16 says. */
NB_ALWAYS_INLINE __m256i nb_table(__m128i values, __m256i codes)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), codes);
}

NB_ALWAYS_INLINE void nb_unpack_iq4_nl(const nb_block_iq4_nl *b, nb_block_values *out)
{
    nb_store_q(out, 0, nb_table(_mm_setr_epi8(NB_IQ4_VALUES), nb_halves(b->qs)));
    nb_fill_steps(out, _cvtsh_ss(b->d), -0.0f);
}

NB_ALWAYS_INLINE void nb_unpack_mxfp4(const nb_block_mxfp4 *b, nb_block_values *out)
{
    nb_store_q(out, 0, nb_table(_mm_setr_epi8(NB_E2M1_VALUES), nb_halves(b->qs)));
    nb_fill_steps(out, nb_mxfp4_step(b->e), -0.0f);
}

NB_ALWAYS_INLINE void nb_unpack_nvfp4(const nb_block_nvfp4 *b, nb_block_values *out)
{
    const __m128i values = _mm_setr_epi8(NB_E2M1_VALUES), mask = _mm_set1_epi8(15);
    for (int i = 0; i < 2; i++) {
        __m128i bytes = _mm_loadu_si128((const void *)(b->qs + 16 * i));
        __m128i low = _mm_and_si128(bytes, mask);
        __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
        __m256i codes =
            _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
        nb_store_q(out, 32 * i, nb_table(values, codes));
    }
    for (int i = 0; i < 4; i++) {
        out->step[i] = nb_nvfp4_step(b->scales[i]);
        out->offset[i] = -0.0f;
    }
}

/* ---- blocks of 256 ---- */

NB_ALWAYS_INLINE void nb_unpack_iq4_xs(const nb_block_iq4_xs *b, nb_block_values *out)
{
    const __m128i values = _mm_setr_epi8(NB_IQ4_VALUES);
    uint32_t low;
    uint16_t high;
    int8_t scales[NB_BLOCK_STEPS];
    memcpy(&low, b->scales_l, sizeof low);
    memcpy(&high, b->scales_h, sizeof high);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        uint32_t scale = (low >> 4 * i & 15) | ((uint32_t)high >> 2 * i & 3) << 4;
        scales[2 * i] = scales[2 * i + 1] = (int8_t)((int)scale - 32);
        nb_store_q(out, 32 * i, nb_table(values, nb_halves(b->qs + 16 * i)));
    }
    nb_scale16(out->step, _mm_loadu_si128((const void *)scales), _cvtsh_ss(b->d));
    nb_no_offsets(out);
}

NB_ALWAYS_INLINE void nb_unpack_q2_k(const nb_block_q2_k *b, nb_block_values *out)
{
    __m128i scales = _mm_loadu_si128((const void *)b->scales), mask = _mm_set1_epi8(15);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        nb_store_q(out, 32 * j, nb_bits(nb_load32(b->qs + j / 4 * 32), j % 4 * 2, 3));
    nb_scale16(out->step, _mm_and_si128(scales, mask), _cvtsh_ss(b->d));
    scales = _mm_and_si128(_mm_srli_epi16(scales, 4), mask);
    nb_scale16(out->offset, scales, -_cvtsh_ss(b->dmin));
}

/* Scales of 6 bits: their lower four in bytes 0 to 7, their upper two in bytes 8 to 11. */
NB_ALWAYS_INLINE __m128i nb_scales_q3_k(const uint8_t *scales)
{
    const uint32_t four = 0x0f0f0f0f, two = 0x03030303;
    uint32_t s[3];
    memcpy(s, scales, sizeof s);
    return _mm_setr_epi32((int)((s[0] & four) | (s[2] & two) << 4),
                          (int)((s[1] & four) | (s[2] >> 2 & two) << 4),
                          (int)((s[0] >> 4 & four) | (s[2] >> 4 & two) << 4),
                          (int)((s[1] >> 4 & four) | (s[2] >> 6 & two) << 4));
}

NB_ALWAYS_INLINE void nb_unpack_q3_k(const nb_block_q3_k *b, nb_block_values *out)
{
    __m256i third = nb_load32(b->hmask);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i low = nb_bits(nb_load32(b->qs + j / 4 * 32), j % 4 * 2, 3);
        __m256i q = _mm256_or_si256(low, nb_bits(third, j - 2, 4));
        nb_store_q(out, 32 * j, nb_subtract(q, 4));
    }
    __m128i scales = _mm_sub_epi8(nb_scales_q3_k(b->scales), _mm_set1_epi8(32));
    nb_scale16(out->step, scales, _cvtsh_ss(b->d));
    nb_no_offsets(out);
}

/* Eight scales and eight mins of 6 bits, each for 32 elements. */
NB_ALWAYS_INLINE void nb_steps_q4_k(const uint8_t *scales, float d, float dmin,
                                    nb_block_values *out)
{
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    uint32_t s[3];
    memcpy(s, scales, sizeof s);
    __m128i all =
        _mm_setr_epi32((int)(s[0] & six), (int)((s[2] & four) | (s[0] >> 6 & two) << 4),
                       (int)(s[1] & six), (int)((s[2] >> 4 & four) | (s[1] >> 6 & two) << 4));
    nb_scale16(out->step, _mm_unpacklo_epi8(all, all), d);
    nb_scale16(out->offset, _mm_unpackhi_epi8(all, all), -dmin);
}

NB_ALWAYS_INLINE void nb_unpack_q4_k(const nb_block_q4_k *b, nb_block_values *out)
{
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        nb_store_q(out, 32 * j, nb_bits(nb_load32(b->qs + j / 2 * 32), j % 2 * 4, 15));
    nb_steps_q4_k(b->scales, _cvtsh_ss(b->d), _cvtsh_ss(b->dmin), out);
}

NB_ALWAYS_INLINE void nb_unpack_q5_k(const nb_block_q5_k *b, nb_block_values *out)
{
    __m256i fifth = nb_load32(b->qh);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i low = nb_bits(nb_load32(b->qs + j / 2 * 32), j % 2 * 4, 15);
        nb_store_q(out, 32 * j, _mm256_or_si256(low, nb_bits(fifth, j - 4, 16)));
    }
    nb_steps_q4_k(b->scales, _cvtsh_ss(b->d), _cvtsh_ss(b->dmin), out);
}

NB_ALWAYS_INLINE void nb_unpack_q6_k(const nb_block_q6_k *b, nb_block_values *out)
{
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i low = nb_bits(nb_load32(b->ql + j / 4 * 64 + j % 2 * 32), j % 4 / 2 * 4, 15);
        __m256i high = nb_bits(nb_load32(b->qh + j / 4 * 32), j % 4 * 2 - 4, 48);
        nb_store_q(out, 32 * j, nb_subtract(_mm256_or_si256(low, high), 32));
    }
    nb_scale16(out->step, _mm_loadu_si128((const void *)b->scales), _cvtsh_ss(b->d));
    nb_no_offsets(out);
}

#endif
