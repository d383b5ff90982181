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

/* `rows`, `m` and the functions are constants where this is used; `last`, if any, loads the
 * last chunk. */
NB_ALWAYS_INLINE void nb_dot_rows_avx512(float *lanes, const nb_dot_span *s, int rows, int m,
                                         nb_dot_load_avx512 *load, nb_dot_load_avx512 *last,
                                         nb_dot_multiply_add_avx512 *multiply_add)
{
    __m512 sum[16];
    int64_t n = s->chunks - s->half;
#pragma GCC unroll 16
    for (int i = 0; i < rows * m; i++)
        sum[i] = s->accumulate ? _mm512_load_ps(lanes + i * 16) : _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i++) nb_dot_chunk_avx512(sum, s, i, rows, m, load, multiply_add);
    if (s->half) nb_dot_chunk_avx512(sum, s, n, rows, m, last, multiply_add);
#pragma GCC unroll 16
    for (int i = 0; i < rows * m; i++) _mm512_store_ps(lanes + i * 16, sum[i]);
}

NB_ALWAYS_INLINE void nb_dot_avx512(float *lanes, const nb_dot_span *s,
                                    nb_dot_load_avx512 *load, nb_dot_load_avx512 *last,
                                    nb_dot_multiply_add_avx512 *multiply_add)
{
    switch (s->m) {
    case 1:
        nb_dot_rows_avx512(lanes, s, 8, 1, load, last, multiply_add);
        break;
    case 2:
        nb_dot_rows_avx512(lanes, s, 8, 2, load, last, multiply_add);
        break;
    case 3:
        nb_dot_rows_avx512(lanes, s, 4, 3, load, last, multiply_add);
        break;
    case 4:
        nb_dot_rows_avx512(lanes, s, 4, 4, load, last, multiply_add);
        break;
    case 5:
        nb_dot_rows_avx512(lanes, s, 2, 5, load, last, multiply_add);
        break;
    case 6:
        nb_dot_rows_avx512(lanes, s, 2, 6, load, last, multiply_add);
        break;
    case 7:
        nb_dot_rows_avx512(lanes, s, 2, 7, load, last, multiply_add);
        break;
    default:
        nb_dot_rows_avx512(lanes, s, 2, NB_FEW_ROWS, load, last, multiply_add);
    }
}

#endif
