/* Few rows of x times weight rows as they lie in their file: a chain is a lane. */
#ifndef NB_KERNELS_CPU_DOT_AVX512_H
#define NB_KERNELS_CPU_DOT_AVX512_H

#include <immintrin.h>

#include "kernels/cpu/gemm.h"

typedef __m512 nb_dot_multiply_add_avx512(__m512 sum, __m512 w, __m512 x);

/* Chunk i of row r, in the order of x. */
typedef __m512 nb_dot_load_avx512(const nb_dot_span *s, int r, int64_t i);

NB_ALWAYS_INLINE __m512 nb_dot_load_units_avx512(const nb_dot_span *s, int r, int64_t i)
{
    return _mm512_loadu_ps((const char *)s->w[r] + i * NB_CHUNK_BYTES);
}

/* Rows are too short for the processor to see a pattern in eight of them: asks for the lines
 * that are read next in the place of chunk i, of which W has `bytes`. */
NB_ALWAYS_INLINE void nb_dot_ask_ahead_avx512(const nb_dot_span *s, int r, int64_t i, int bytes)
{
    for (int at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)s->w[r] + s->ahead + i * bytes + at, _MM_HINT_T0);
    if (s->scales && i * bytes % 256 == 0)
        _mm_prefetch((const char *)s->scales + r * s->scales_stride + s->scales_ahead +
                         (i * bytes * 2 >> s->block_bits),
                     _MM_HINT_T0);
}

NB_ALWAYS_INLINE void nb_dot_chunk_avx512(__m512 *sum, const nb_dot_span *s, int64_t i,
                                          int rows, int m, nb_dot_load_avx512 *load,
                                          nb_dot_multiply_add_avx512 *multiply_add)
{
    const char *x = (const char *)s->x + i * NB_CHUNK_BYTES;
    __m512 xv[NB_FEW_ROWS];
#pragma GCC unroll 8
    for (int j = 0; j < m; j++) xv[j] = _mm512_load_ps(x + j * s->x_stride);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        __m512 w = load(s, r, i);
#pragma GCC unroll 8
        for (int j = 0; j < m; j++) sum[r * m + j] = multiply_add(sum[r * m + j], w, xv[j]);
    }
}

/* All but lanes and s are constants where this is used; W has `bytes` for a chunk. */
NB_ALWAYS_INLINE void nb_dot_rows_avx512(float *lanes, const nb_dot_span *s, int rows, int m,
                                         int bytes, nb_dot_load_avx512 *load,
                                         nb_dot_multiply_add_avx512 *multiply_add)
{
    const int asks =
        m > 2 || bytes != NB_CHUNK_BYTES; /* long rows, and many of them: no need */
    __m512 sum[16];
#pragma GCC unroll 16
    for (int j = 0; j < rows * m; j++)
        sum[j] = s->accumulate ? _mm512_load_ps(lanes + j * 16) : _mm512_setzero_ps();
    for (int64_t i = 0; i < s->chunks; i++) {
        if (asks && s->ahead && i * bytes % 64 == 0)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) nb_dot_ask_ahead_avx512(s, r, i, bytes);
        nb_dot_chunk_avx512(sum, s, i, rows, m, load, multiply_add);
    }
#pragma GCC unroll 16
    for (int j = 0; j < rows * m; j++) _mm512_store_ps(lanes + j * 16, sum[j]);
}

NB_ALWAYS_INLINE void nb_dot_avx512(float *lanes, const nb_dot_span *s, int bytes,
                                    nb_dot_load_avx512 *load,
                                    nb_dot_multiply_add_avx512 *multiply_add)
{
    switch (s->m) {
    case 1:
        nb_dot_rows_avx512(lanes, s, 8, 1, bytes, load, multiply_add);
        break;
    case 2:
        nb_dot_rows_avx512(lanes, s, 8, 2, bytes, load, multiply_add);
        break;
    case 3:
        nb_dot_rows_avx512(lanes, s, 4, 3, bytes, load, multiply_add);
        break;
    case 4:
        nb_dot_rows_avx512(lanes, s, 4, 4, bytes, load, multiply_add);
        break;
    case 5:
        nb_dot_rows_avx512(lanes, s, 2, 5, bytes, load, multiply_add);
        break;
    case 6:
        nb_dot_rows_avx512(lanes, s, 2, 6, bytes, load, multiply_add);
        break;
    case 7:
        nb_dot_rows_avx512(lanes, s, 2, 7, bytes, load, multiply_add);
        break;
    default:
        nb_dot_rows_avx512(lanes, s, 2, NB_FEW_ROWS, bytes, load, multiply_add);
    }
}

#endif
