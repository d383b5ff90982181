/* The few-row product: 16 weight rows are the lanes, transposed in registers, and x is the
 * broadcast operand, so a sum is the same chain over k as in the tile of many rows. */
#ifndef NB_KERNELS_CPU_LINEAR_FEW_AVX512_H
#define NB_KERNELS_CPU_LINEAR_FEW_AVX512_H

#include <immintrin.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/transpose_avx512.h"

typedef __m512 nb_few_multiply_add_avx512(__m512 sum, __m512 w, __m512 x);

/* The first n of 16 units; `m` and, but for the last units of a row, `n` are constants. */
NB_ALWAYS_INLINE void nb_few_units_avx512(__m512 *sum, const char *w, const char *x, int n,
                                          int m, nb_few_multiply_add_avx512 *multiply_add)
{
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_load_ps(w + i * NB_CHUNK_BYTES);
    nb_transpose16_avx512(r);
#pragma GCC unroll 16
    for (int u = 0; u < 16; u++) {
        if (u >= n) continue;
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            const char *at = x + i * NB_BLOCK_UNITS * 4 + u * 4;
            sum[i] =
                multiply_add(sum[i], r[u], _mm512_set1_ps(*(const float *)(const void *)at));
        }
    }
}

/* `groups` of 16 weight rows go side by side so that few rows of x still are enough chains to
 * hide the latency of an addition. */
NB_ALWAYS_INLINE void nb_few_groups_avx512(float *c, const nb_few_span *s, int groups, int m,
                                           nb_few_multiply_add_avx512 *multiply_add)
{
    __m512 sum[2][NB_FEW_ROWS];
    const char *w = s->w, *x = s->x;
#pragma GCC unroll 16
    for (int i = 0; i < groups * m; i++)
        sum[i / m][i % m] = _mm512_load_ps(c + (i / m * NB_FEW_ROWS + i % m) * 16);
    int left = s->units;
    for (; left >= NB_CHUNK_UNITS; left -= NB_CHUNK_UNITS) {
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++)
            nb_few_units_avx512(sum[g], w + g * 16 * NB_CHUNK_BYTES, x, NB_CHUNK_UNITS, m,
                                multiply_add);
        w += NB_FEW_LANES * NB_CHUNK_BYTES;
        x += NB_CHUNK_UNITS * 4;
    }
    if (left > 0)
        for (int g = 0; g < groups; g++)
            nb_few_units_avx512(sum[g], w + g * 16 * NB_CHUNK_BYTES, x, left, m, multiply_add);
#pragma GCC unroll 16
    for (int i = 0; i < groups * m; i++)
        _mm512_store_ps(c + (i / m * NB_FEW_ROWS + i % m) * 16, sum[i / m][i % m]);
}

NB_ALWAYS_INLINE void nb_few_halves_avx512(float *c, const nb_few_span *s, int m,
                                           nb_few_multiply_add_avx512 *multiply_add)
{
    nb_few_span second = *s;
    second.w = (const char *)s->w + 16 * NB_CHUNK_BYTES;
    nb_few_groups_avx512(c, s, 1, m, multiply_add);
    nb_few_groups_avx512(c + NB_FEW_ROWS * 16, &second, 1, m, multiply_add);
}

NB_ALWAYS_INLINE void nb_few_avx512(float *c, const nb_few_span *s,
                                    nb_few_multiply_add_avx512 *multiply_add)
{
    switch (s->rows) {
    case 1:
        nb_few_groups_avx512(c, s, 2, 1, multiply_add);
        break;
    case 2:
        nb_few_groups_avx512(c, s, 2, 2, multiply_add);
        break;
    case 3:
        nb_few_groups_avx512(c, s, 2, 3, multiply_add);
        break;
    case 4:
        nb_few_halves_avx512(c, s, 4, multiply_add);
        break;
    case 5:
        nb_few_halves_avx512(c, s, 5, multiply_add);
        break;
    case 6:
        nb_few_halves_avx512(c, s, 6, multiply_add);
        break;
    case 7:
        nb_few_halves_avx512(c, s, 7, multiply_add);
        break;
    default:
        nb_few_halves_avx512(c, s, NB_FEW_ROWS, multiply_add);
    }
}

#endif
