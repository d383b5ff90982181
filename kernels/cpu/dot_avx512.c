#include "kernels/cpu/dot_avx512.h"

#include "kernels/cpu/panel_avx512.h"
#include "kernels/cpu/transpose_avx512.h"

/* The low halves of a vector hold codes 0 ... 7 of a block, the high ones 8 ... 15. */
const int32_t nb_fp4_order_f32_avx512[16] = {0, 2, 4, 6, 8, 10, 12, 14,
                                             1, 3, 5, 7, 9, 11, 13, 15};

NB_ALWAYS_INLINE __m512 multiply_add_f32(__m512 sum, __m512 w, __m512 x)
{
    return _mm512_fmadd_ps(w, x, sum);
}

/* A chunk is a block of 16, all of whose codes are in each pair of lanes and are shifted into
 * place; the permutation looks at 4 bits. */
NB_ALWAYS_INLINE __m512 load_fp4(const nb_dot_span *s, int r, int64_t i, int block_bits,
                                 int high_first)
{
    const __m512i low =
        _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    const __m512i shifts = high_first ? _mm512_xor_si512(low, _mm512_set1_epi32(4)) : low;
    long long codes;
    __builtin_memcpy(&codes, (const char *)s->w[r] + i * 8, sizeof codes);
    const uint8_t *scales = s->scales + r * s->scales_stride;
    const float *values = (const float *)s->table + scales[i >> (block_bits - 4)] * 16;
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64(codes), shifts),
                                 _mm512_load_ps(values));
}

#define LOAD_FP4(name, bits, high_first)                                                       \
    NB_ALWAYS_INLINE __m512 name(const nb_dot_span *s, int r, int64_t i)                       \
    {                                                                                          \
        return load_fp4(s, r, i, bits, high_first);                                            \
    }
LOAD_FP4(load_nvfp4_low, 4, 0)
LOAD_FP4(load_nvfp4_high, 4, 1)
LOAD_FP4(load_mxfp4_low, 5, 0)
LOAD_FP4(load_mxfp4_high, 5, 1)

void nb_dot_f32_avx512(float *lanes, const nb_dot_span *s)
{
    nb_dot_avx512(lanes, s, NB_CHUNK_BYTES, nb_dot_load_units_avx512, multiply_add_f32);
}

void nb_dot_fp4_f32_avx512(float *lanes, const nb_dot_span *s)
{
    if (s->block_bits == 5 && s->high_first)
        nb_dot_avx512(lanes, s, 8, load_mxfp4_high, multiply_add_f32);
    else if (s->block_bits == 5)
        nb_dot_avx512(lanes, s, 8, load_mxfp4_low, multiply_add_f32);
    else if (s->high_first)
        nb_dot_avx512(lanes, s, 8, load_nvfp4_high, multiply_add_f32);
    else
        nb_dot_avx512(lanes, s, 8, load_nvfp4_low, multiply_add_f32);
}

/* 16 elements times the row's scale, as the decoder of panels makes them. */
#define LOAD_TYPED(name, type, bytes)                                                          \
    NB_ALWAYS_INLINE __m512 name(const nb_dot_span *s, int r, int64_t i)                       \
    {                                                                                          \
        return _mm512_mul_ps(nb_load16(type, (const char *)s->w[r] + i * 16 * (bytes)),        \
                             _mm512_set1_ps(s->row_scale[r]));                                 \
    }
LOAD_TYPED(load_f32, NB_DTYPE_F32, 4)
LOAD_TYPED(load_f16, NB_DTYPE_F16, 2)
LOAD_TYPED(load_bf16, NB_DTYPE_BF16, 2)
LOAD_TYPED(load_f8, NB_DTYPE_F8_E4M3, 1)

void nb_dot_typed_f32_avx512(float *lanes, const nb_dot_span *s)
{
    switch (s->dtype) {
    case NB_DTYPE_F32:
        nb_dot_avx512(lanes, s, 64, load_f32, multiply_add_f32);
        break;
    case NB_DTYPE_F16:
        nb_dot_avx512(lanes, s, 32, load_f16, multiply_add_f32);
        break;
    case NB_DTYPE_BF16:
        nb_dot_avx512(lanes, s, 32, load_bf16, multiply_add_f32);
        break;
    default:
        nb_dot_avx512(lanes, s, 16, load_f8, multiply_add_f32);
    }
}

void nb_fold_avx512(float *c, const float *lanes, int m, const int32_t order[16],
                    int accumulate)
{
    __m512i lane_of = order ? _mm512_loadu_si512(order) : _mm512_setzero_si512();
    for (int j = 0; j < m; j++, c += 16) {
        __m512 r[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = _mm512_load_ps(lanes + (i * m + j) * 16);
        if (order)
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) r[i] = _mm512_permutexvar_ps(lane_of, r[i]);
        nb_transpose16_avx512(r);
        __m512 sum = accumulate ? _mm512_add_ps(_mm512_load_ps(c), r[0]) : r[0];
#pragma GCC unroll 16
        for (int i = 1; i < 16; i++) sum = _mm512_add_ps(sum, r[i]);
        _mm512_store_ps(c, sum);
    }
}
