/*
 * Linears of 8-bit integers on CPUs: what instruction sets bring to the drivers linear_a8.c and
 * linear_a8_few.c. kernels/a8.h says what is computed.
 *
 * As in kernels/cpu/gemm.h weights are the broadcast operand and rows of x the lanes of a tile;
 * a unit is 4 bytes of neighbouring columns: 4 of 8 bits or 2 of 16 bits. Where an instruction
 * wants one operand without a sign, that is W, plus 128; -128 times the sum of x then is where
 * a sum of integers begins.
 *
 * A panel holds `rows` weight rows: chunks of 64 bytes for each row, then the rows' scales,
 * [groups of W][rows].
 *
 * Packed x is a sequence of groups, each of NB_A8_GROUP columns:
 *
 *     [units][lanes] of 4 bytes     then [lanes] F32: the scales
 *                                   then [lanes] I32: where a sum begins
 */
#ifndef NB_KERNELS_CPU_LINEAR_A8_H
#define NB_KERNELS_CPU_LINEAR_A8_H

#include "kernels/a8.h"
#include "kernels/cpu/gemm.h"

enum {
    NB_A8_BLOCK = 1024, /* columns between two visits of a sum to memory */
    NB_A8_BLOCK_GROUPS = NB_A8_BLOCK / NB_A8_GROUP,
    NB_A8_BLOCK_SCALES = NB_A8_BLOCK / NB_A8_WEIGHT_GROUP,
    NB_A8_STEP = 64,      /* columns are padded with zeros to a multiple */
    NB_A8_SUMS_BYTES = 8, /* of a lane and group: its scale, and where a sum begins */
};

typedef struct nb_a8_span {
    const void *w; /* a panel of chunks */
    const float *w_scales;
    const void *x; /* packed */
    int groups;    /* of x; a multiple of those in NB_A8_STEP, at most NB_A8_BLOCK_GROUPS */
    int accumulate;
} nb_a8_span;

/* c [rows][lanes], 64-byte aligned; lanes is that of the full or of the half tile. */
typedef void nb_a8_tile_fn(float *c, const nb_a8_span *s);

/* Columns k0 ... k0+count of a row of W, count at most NB_A8_BLOCK: chunk i at out + i *
 * chunk_stride, the scale of group i at scales + i * scale_stride. k0 is a multiple of
 * NB_A8_BLOCK. Columns past the last are zeros up to a multiple of NB_A8_STEP. Reads no byte
 * beyond the elements. */
typedef void nb_a8_decode_fn(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                             void *out, int64_t chunk_stride, float *scales,
                             int64_t scale_stride);

/* x rows [n_rows <= lanes, k <= NB_A8_BLOCK] at `stride` floats from each other into packed
 * groups; missing rows and columns, up to a multiple of NB_A8_STEP, are zeros. */
typedef void nb_a8_pack_fn(void *out, int lanes, const float *x, int64_t stride, int64_t n_rows,
                           int64_t k);

/* Few rows of x, at most NB_FEW_ROWS: weights are the lanes. Adds to c [2][NB_FEW_ROWS][16],
 * 64-byte aligned. The panel is one of NB_FEW_LANES rows. x: packed with one lane, a row after
 * the other at x_stride bytes. */
typedef struct nb_a8_few_span {
    const void *w;
    const float *w_scales;
    const void *x;
    int64_t x_stride;
    int groups, rows;
} nb_a8_few_span;
typedef void nb_a8_few_fn(float *c, const nb_a8_few_span *s);

typedef struct nb_a8_isa {
    int rows, lanes; /* of the full tile; the half tile has half the lanes */
    int element_bytes;
    nb_a8_tile_fn *tile_full, *tile_half;
    nb_a8_decode_fn *decode;
    nb_a8_pack_fn *pack;
    nb_linear_finish_fn *finish;
    nb_a8_few_fn *few; /* NULL: few rows go through the tiles too */
} nb_a8_isa;

/* What a linear sums over: W, then `up` of a low-rank branch with x downᵀ as its x. */
typedef struct nb_a8_part {
    nb_weight w;
    nb_tensor x;                 /* [M, w.k] */
    int64_t first_group, groups; /* of all parts' groups, this one's */
} nb_a8_part;

enum { NB_A8_PARTS = 2 };

void nb_linear_a8(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa);
void nb_linear_a8_few(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa);

/* The parts of a linear, their number; x downᵀ is computed into the stream's arena. */
int nb_a8_parts(nb_stream *s, const nb_linear_args *a, nb_a8_part parts[NB_A8_PARTS]);

static inline int64_t nb_a8_group_bytes(const nb_a8_isa *isa)
{
    return NB_A8_GROUP * isa->element_bytes + NB_A8_SUMS_BYTES;
}

nb_a8_tile_fn nb_a8_tile_full_avx2, nb_a8_tile_half_avx2;
nb_a8_tile_fn nb_a8_tile_full_avx512vnni, nb_a8_tile_half_avx512vnni;
nb_a8_decode_fn nb_a8_decode_avx2, nb_a8_decode_avx512vnni;
nb_a8_pack_fn nb_a8_pack_avx2, nb_a8_pack_avx512vnni;
nb_a8_few_fn nb_a8_few_avx512vnni;

#endif
