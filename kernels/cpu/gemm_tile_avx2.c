/* The register tile of 6 weight rows times 8 or 16 lanes: 12 sums, 2 vectors of x and a
 * broadcast in the 16 registers. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vec_avx2.h"

enum { ROWS = 6 };

/* `vectors` is a constant where this is used: the sums live in registers. */
NB_ALWAYS_INLINE void run_tile(float *c, const nb_gemm_span *s, int vectors)
{
    vec sum[ROWS][2], xv[2];
    const char *w = s->w, *ahead = s->ahead;
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++)
        sum[i / vectors][i % vectors] = s->accumulate ? vec_load(c + i * LANES) : vec_zero();
    for (int tap = 0; tap < s->n_taps; tap++) {
        const char *x = (const char *)s->x + s->taps[tap];
        for (int left = s->units; left > 0; left -= NB_CHUNK_UNITS) {
            int n = left < NB_CHUNK_UNITS ? left : NB_CHUNK_UNITS;
            for (int u = 0; u < n; u++, x += s->x_stride, ahead += s->ahead_step) {
                _mm_prefetch(ahead, _MM_HINT_T0);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++)
                    xv[v] = vec_load((const float *)(const void *)x + v * LANES);
#pragma GCC unroll 6
                for (int r = 0; r < ROWS; r++) {
                    const char *at = w + r * NB_CHUNK_BYTES + u * 4;
                    vec b = _mm256_broadcast_ss((const float *)(const void *)at);
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; v++) sum[r][v] = vec_fma(b, xv[v], sum[r][v]);
                }
            }
            w += ROWS * NB_CHUNK_BYTES;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++)
        vec_store(c + i * LANES, sum[i / vectors][i % vectors]);
}

void nb_gemm_tile_f32_full_avx2(float *c, const nb_gemm_span *s)
{
    run_tile(c, s, 2);
}

void nb_gemm_tile_f32_half_avx2(float *c, const nb_gemm_span *s)
{
    run_tile(c, s, 1);
}
