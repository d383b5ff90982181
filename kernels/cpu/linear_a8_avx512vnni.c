/* The register tile of 6 weight rows times 16 or 32 lanes: 12 sums of integers, 12 of floats, 2
 * vectors of x and a broadcast in the 32 registers, 8 loads for 12 instructions of 64 products.
 * And the product for few rows, where 16 weight rows, transposed in registers, are the lanes.
 */
#include <immintrin.h>

#include "kernels/cpu/linear_a8.h"
#include "kernels/cpu/transpose_avx512.h"

enum { ROWS = 6, UNITS = NB_A8_GROUP / 4, HALF_CHUNK = NB_CHUNK_BYTES / 2 };

/* t += products of a group of x times its scale. A loop that were not unrolled would keep the
 * sums in memory. */
NB_ALWAYS_INLINE void add_group(__m512 t[ROWS][2], const char *w, const char *x, int vectors)
{
    const char *scales = x + UNITS * vectors * NB_CHUNK_BYTES;
    const char *starts = scales + vectors * NB_CHUNK_BYTES;
    __m512i sum[ROWS][2], xv[2];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++)
        sum[i / vectors][i % vectors] =
            _mm512_load_si512(starts + i % vectors * NB_CHUNK_BYTES);
#pragma GCC unroll 8
    for (int u = 0; u < UNITS; u++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            xv[v] = _mm512_load_si512(x + (u * vectors + v) * NB_CHUNK_BYTES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            const void *at = w + r * NB_CHUNK_BYTES + u * 4;
            __m512i b = _mm512_set1_epi32(*(const int *)at);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], b, xv[v]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++) {
        int r = i / vectors, v = i % vectors;
        t[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]),
                                  _mm512_load_ps(scales + v * NB_CHUNK_BYTES), t[r][v]);
    }
}

NB_ALWAYS_INLINE void run_tile(float *c, const nb_a8_span *s, int vectors)
{
    const char *w = s->w, *x = s->x;
    const float *w_scales = s->w_scales;
    const int group_bytes = (UNITS + 2) * vectors * NB_CHUNK_BYTES;
    const int groups_in_one = NB_A8_WEIGHT_GROUP / NB_A8_GROUP;
    for (int group = 0; group < s->groups; group += groups_in_one, w_scales += ROWS) {
        int end = s->groups - group < groups_in_one ? s->groups : group + groups_in_one;
        int keep = s->accumulate || group > 0;
        __m512 t[ROWS][2];
#pragma GCC unroll 12
        for (int i = 0; i < ROWS * vectors; i++)
            t[i / vectors][i % vectors] = _mm512_setzero_ps();
        for (int g = group; g < end; g += 2, w += ROWS * NB_CHUNK_BYTES, x += 2 * group_bytes) {
            add_group(t, w, x, vectors);
            add_group(t, w + HALF_CHUNK, x + group_bytes, vectors);
        }
#pragma GCC unroll 12
        for (int i = 0; i < ROWS * vectors; i++) {
            __m512 before = keep ? _mm512_load_ps(c + i * 16) : _mm512_setzero_ps();
            __m512 scale = _mm512_set1_ps(w_scales[i / vectors]);
            _mm512_store_ps(c + i * 16,
                            _mm512_fmadd_ps(t[i / vectors][i % vectors], scale, before));
        }
    }
}

void nb_a8_tile_full_avx512vnni(float *c, const nb_a8_span *s)
{
    run_tile(c, s, 2);
}

void nb_a8_tile_half_avx512vnni(float *c, const nb_a8_span *s)
{
    run_tile(c, s, 1);
}

/* --- few rows --- */

/* Two groups of x, which a chunk of W covers. */
NB_ALWAYS_INLINE void add_chunk(__m512 *t, const char *w, const char *x, int64_t x_stride,
                                int rows)
{
    const int group_bytes = NB_A8_GROUP + NB_A8_SUMS_BYTES;
    __m512 turned[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) turned[i] = _mm512_load_ps(w + i * NB_CHUNK_BYTES);
    nb_transpose16_avx512(turned);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++, x += group_bytes) {
        for (int m = 0; m < rows; m++) {
            const char *at = x + m * x_stride;
            const float *scale = (const float *)(const void *)(at + NB_A8_GROUP);
            const int *units = (const int *)(const void *)at;
            __m512i sum = _mm512_set1_epi32(units[UNITS + 1]);
#pragma GCC unroll 8
            for (int u = 0; u < UNITS; u++)
                sum = _mm512_dpbusd_epi32(sum, _mm512_castps_si512(turned[half * UNITS + u]),
                                          _mm512_set1_epi32(units[u]));
            t[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(*scale), t[m]);
        }
    }
}

NB_ALWAYS_INLINE void run_few(float *c, const nb_a8_few_span *s, int lane, int rows)
{
    const char *w = (const char *)s->w + lane * NB_CHUNK_BYTES, *x = s->x;
    const float *w_scales = s->w_scales + lane;
    const int groups_in_one = NB_A8_WEIGHT_GROUP / NB_A8_GROUP;
    for (int group = 0; group < s->groups; group += groups_in_one, w_scales += NB_FEW_LANES) {
        int end = s->groups - group < groups_in_one ? s->groups : group + groups_in_one;
        __m512 t[NB_FEW_ROWS], scale = _mm512_load_ps(w_scales);
        for (int m = 0; m < rows; m++) t[m] = _mm512_setzero_ps();
        for (int g = group; g < end; g += 2) {
            add_chunk(t, w, x, s->x_stride, rows);
            w += NB_FEW_LANES * NB_CHUNK_BYTES;
            x += 2 * (NB_A8_GROUP + NB_A8_SUMS_BYTES);
        }
        for (int m = 0; m < rows; m++) {
            float *at = c + (lane / 16 * NB_FEW_ROWS + m) * 16;
            _mm512_store_ps(at, _mm512_fmadd_ps(t[m], scale, _mm512_load_ps(at)));
        }
    }
}

void nb_a8_few_avx512vnni(float *c, const nb_a8_few_span *s)
{
    for (int lane = 0; lane < NB_FEW_LANES; lane += 16)
        if (s->rows == 1)
            run_few(c, s, lane, 1);
        else
            run_few(c, s, lane, s->rows);
}
