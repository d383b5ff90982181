/* The register tile of 6 weight rows times 16 or 32 lanes: 12 sums of a block and 12 of a
 * group, 2 vectors of x and a broadcast in the 32 registers, 8 loads for 12 instructions of 64
 * products. Only two of the four pipes multiply; shifts and additions of integers go to the
 * others, so that a block's end costs next to nothing, where a float scale for each of them
 * would cost an eighth of the time.
 */
#include <immintrin.h>

#include "kernels/cpu/linear_a8.h"

enum { ROWS = 6, UNITS = NB_A8_BLOCK / 4, CHUNK_BLOCKS = NB_CHUNK_BYTES / NB_A8_BLOCK };

/* Here and in this order: left to itself the compiler moves instructions of several blocks
 * together and then has too few registers. */
#define KEEP(vector) __asm__ volatile("" : "+v"(vector))

NB_ALWAYS_INLINE void load_x(__m512i xv[2], const char *x, int vectors)
{
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        xv[v] = _mm512_load_si512(x + v * NB_CHUNK_BYTES);
        KEEP(xv[v]);
    }
}

/* t += shifted products of a block. */
NB_ALWAYS_INLINE void add_block(__m512i t[ROWS][2], const char *w, const int32_t *w_shifts,
                                const char *x, int vectors)
{
    const int step = vectors * NB_CHUNK_BYTES;
    __m512i sum[ROWS][2], xv[2], starts[2];
    load_x(starts, x + UNITS * step, vectors);
#pragma GCC unroll 4
    for (int u = 0; u < UNITS; u++) {
        load_x(xv, x + u * step, vectors);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            const void *at = w + r * NB_CHUNK_BYTES + u * 4;
            __m512i b = _mm512_set1_epi32(*(const int *)at);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) {
                sum[r][v] = _mm512_dpbusd_epi32(u ? sum[r][v] : starts[v], b, xv[v]);
                KEEP(sum[r][v]);
            }
        }
    }
    load_x(xv, x + (UNITS + 1) * step, vectors);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
        __m512i shift = _mm512_set1_epi32(w_shifts[r * NB_A8_DEPTH_BLOCKS]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            __m512i product = _mm512_sllv_epi32(sum[r][v], _mm512_add_epi32(shift, xv[v]));
            t[r][v] = _mm512_add_epi32(t[r][v], product);
            KEEP(t[r][v]);
        }
    }
}

/* c gets a group's sums. */
NB_ALWAYS_INLINE void add_group(float *c, __m512i t[ROWS][2], const float *w_scales,
                                const float *x_scales, int keep, int vectors)
{
#pragma GCC unroll 12
    for (int i = 0; i < ROWS * vectors; i++) {
        int r = i / vectors, v = i % vectors;
        __m512 before = keep ? _mm512_load_ps(c + i * 16) : _mm512_setzero_ps();
        __m512 sum =
            _mm512_mul_ps(_mm512_cvtepi32_ps(t[r][v]), _mm512_load_ps(x_scales + v * 16));
        sum = _mm512_fmadd_ps(sum, _mm512_set1_ps(w_scales[r * NB_A8_DEPTH_GROUPS]), before);
        _mm512_store_ps(c + i * 16, sum);
    }
}

NB_ALWAYS_INLINE void run_tile(float *c, const nb_a8_span *s, int vectors)
{
    const char *w = s->w, *x = s->x;
    const float *w_scales = s->w_scales;
    const int32_t *w_shifts = s->w_shifts;
    const int block_bytes = (UNITS + 2) * vectors * NB_CHUNK_BYTES;
    for (int first = 0; first < s->blocks; first += NB_A8_GROUP_BLOCKS, w_scales++) {
        int end =
            s->blocks - first < NB_A8_GROUP_BLOCKS ? s->blocks : first + NB_A8_GROUP_BLOCKS;
        const float *x_scales = (const float *)(const void *)x;
        __m512i t[ROWS][2];
#pragma GCC unroll 12
        for (int i = 0; i < ROWS * vectors; i++)
            t[i / vectors][i % vectors] = _mm512_setzero_si512();
        x += vectors * NB_CHUNK_BYTES;
        for (int block = first; block < end; block += CHUNK_BLOCKS) {
#pragma GCC unroll 4
            for (int i = 0; i < CHUNK_BLOCKS; i++)
                add_block(t, w + i * NB_A8_BLOCK, w_shifts + i, x + i * block_bytes, vectors);
            w += ROWS * NB_CHUNK_BYTES;
            w_shifts += CHUNK_BLOCKS;
            x += CHUNK_BLOCKS * block_bytes;
        }
        add_group(c, t, w_scales, x_scales, s->accumulate || first > 0, vectors);
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
