/* The register tile of up to 12 weight rows times 16 or 32 lanes: 24 sums, 2 vectors of x and
 * a broadcast in the 32 registers, 14 loads for 24 multiply-adds. A linear has 12 rows; a
 * convolution 8, of which the usual numbers of channels are multiples. */
#ifndef NB_KERNELS_CPU_GEMM_TILE_AVX512_H
#define NB_KERNELS_CPU_GEMM_TILE_AVX512_H

#include <immintrin.h>

#include "kernels/cpu/gemm.h"

enum { NB_TILE_ROWS_AVX512 = 12, NB_CONV_ROWS_AVX512 = 8 };

typedef __m512 nb_multiply_add_avx512(__m512 sum, __m512 w, __m512 x);

/* `rows`, `vectors` and `multiply_add` are constants where this is used, so all loops over the
 * tile are unrolled and the sums live in registers. */
NB_ALWAYS_INLINE void nb_tile_avx512(float *c, const nb_gemm_span *s, int rows, int vectors,
                                     nb_multiply_add_avx512 *multiply_add)
{
    __m512 sum[NB_TILE_ROWS_AVX512][2], xv[2];
    const char *w = s->w, *ahead = s->ahead;
#pragma GCC unroll 24
    for (int i = 0; i < rows * vectors; i++)
        sum[i / vectors][i % vectors] = s->accumulate == NB_SUMS_CONTINUE
                                            ? _mm512_load_ps(c + i * 16)
                                            : _mm512_setzero_ps();
    for (int tap = 0; tap < s->n_taps; tap++) {
        const char *x = (const char *)s->x + s->taps[tap];
        for (int left = s->units; left > 0; left -= NB_CHUNK_UNITS) {
            int n = left < NB_CHUNK_UNITS ? left : NB_CHUNK_UNITS;
            for (int u = 0; u < n; u++, x += s->x_stride, ahead += s->ahead_step) {
                _mm_prefetch(ahead, _MM_HINT_T0);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++)
                    xv[v] = _mm512_loadu_ps(x + v * NB_CHUNK_BYTES);
#pragma GCC unroll 12
                for (int r = 0; r < rows; r++) {
                    const char *at = w + r * NB_CHUNK_BYTES + u * 4;
                    __m512 b =
                        _mm512_broadcastss_ps(_mm_load_ss((const float *)(const void *)at));
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; v++)
                        sum[r][v] = multiply_add(sum[r][v], b, xv[v]);
                }
            }
            w += rows * NB_CHUNK_BYTES;
        }
    }
    if (s->accumulate == NB_SUMS_ADD)
#pragma GCC unroll 24
        for (int i = 0; i < rows * vectors; i++)
            sum[i / vectors][i % vectors] =
                _mm512_add_ps(sum[i / vectors][i % vectors], _mm512_load_ps(c + i * 16));
#pragma GCC unroll 24
    for (int i = 0; i < rows * vectors; i++)
        _mm512_store_ps(c + i * 16, sum[i / vectors][i % vectors]);
}

#endif
