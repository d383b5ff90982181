/*
 * Linears of 8-bit integers on CPUs: what instruction sets bring to the drivers linear_a8.c and
 * linear_a8_few.c. kernels/a8.h says what is computed.
 *
 * As in kernels/cpu/gemm.h weights are the broadcast operand and rows of x the lanes of a tile;
 * a unit is 4 bytes of neighbouring columns: 4 of 8 bits or 2 of 16 bits. Where an instruction
 * wants one operand without a sign, that is W, plus 128; -128 times the sum of x then is where
 * a block's sum begins.
 *
 * A panel holds `rows` weight rows: chunks of 64 bytes for each row, then the rows' scales,
 * [rows][groups] F32, and shifts, [rows][blocks] I32, each as many as NB_A8_DEPTH can have.
 *
 * Packed x is a sequence of groups:
 *
 *     [lanes] F32: the scales       then for each block     [units][lanes] of 4 bytes
 *                                                           [lanes] I32: where a sum begins
 *                                                           [lanes] I32: the shifts
 */
#ifndef NB_KERNELS_CPU_LINEAR_A8_H
#define NB_KERNELS_CPU_LINEAR_A8_H

#include "kernels/a8.h"
#include "kernels/cpu/gemm.h"

enum {
    NB_A8_DEPTH = 512,    /* columns between two visits of a sum to memory: x stays in L1 */
    NB_A8_DECODED = 1024, /* columns that are decoded at a time, at most */
    NB_A8_STEP = 64,      /* columns are padded with zeros to a multiple */
    NB_A8_DEPTH_GROUPS = NB_A8_DEPTH / NB_A8_GROUP,
    NB_A8_DEPTH_BLOCKS = NB_A8_DEPTH / NB_A8_BLOCK,
    NB_A8_DECODED_GROUPS = NB_A8_DECODED / NB_A8_GROUP,
    NB_A8_DECODED_BLOCKS = NB_A8_DECODED / NB_A8_BLOCK,
};

typedef struct nb_a8_span {
    const void *w; /* a panel's chunks */
    const float *w_scales;
    const int32_t *w_shifts;
    const void *x; /* packed */
    int blocks;    /* a multiple of those in NB_A8_STEP, at most those in NB_A8_DEPTH */
    int accumulate;
} nb_a8_span;

/* c [rows][lanes], 64-byte aligned; lanes is that of the full or of the half tile. */
typedef void nb_a8_tile_fn(float *c, const nb_a8_span *s);

/* Columns of a row of W that were decoded: chunk i at chunks + i * chunk_stride, 64-byte
 * aligned, the scales of its groups and the shifts of its blocks. */
typedef struct nb_a8_decoded {
    void *chunks;
    int64_t chunk_stride;
    float *scales;
    int32_t *shifts;
} nb_a8_decoded;

/* Columns k0 ... k0+count of a row of W, count at most NB_A8_DECODED; k0 is a multiple of
 * NB_A8_GROUP. Columns past the last are zeros up to a multiple of NB_A8_STEP. Reads no byte
 * beyond the elements. */
typedef void nb_a8_decode_fn(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                             const nb_a8_decoded *out);

/* x rows [n_rows <= lanes, k] at `stride` floats from each other into packed groups; missing
 * rows, and columns up to a multiple of NB_A8_STEP, are zeros. */
typedef void nb_a8_pack_fn(void *out, int lanes, const float *x, int64_t stride, int64_t n_rows,
                           int64_t k);

/* Row `row` of the m that nb_a8_few_fn gets: ceil(k / NB_A8_DECODED) pieces of m *
 * NB_A8_FEW_BYTES, each as its instruction set wants it, for weights with this high_first. */
typedef void nb_a8_pack_few_fn(void *out, int m, int row, const float *x, int64_t k,
                               int high_first);

enum { NB_A8_FEW_BYTES = 3 * NB_A8_DECODED / 2 + 64 };

/* Few rows of x, at most NB_FEW_ROWS, times 16 weight rows straight from where they lie. */
typedef struct nb_a8_few_span {
    const nb_weight *w;
    int64_t row, k0, count;    /* k0 a multiple of NB_A8_DECODED, count at most that many */
    int n_rows;                /* of W, at most 16 */
    const void *x;             /* the piece at k0 */
    int m;                     /* rows of x */
    int64_t next_row, next_k0; /* what will be read after this */
} nb_a8_few_span;

/* Adds to c [m][16], 64-byte aligned. */
typedef void nb_a8_few_fn(float *c, const nb_a8_few_span *s);

typedef struct nb_a8_isa {
    int rows, lanes; /* of the full tile; the half tile has half the lanes */
    int element_bytes;
    nb_a8_tile_fn *tile_full, *tile_half;
    nb_a8_decode_fn *decode;
    nb_a8_pack_fn *pack;
    nb_linear_finish_fn *finish;
    nb_a8_pack_few_fn *pack_few;
    nb_a8_few_fn *few; /* NULL: few rows go through the tiles too */
} nb_a8_isa;

/* What a linear sums over: W, then `up` of a low-rank branch with x downᵀ as its x. */
typedef struct nb_a8_part {
    nb_weight w;
    nb_tensor x; /* [M, w.k] */
} nb_a8_part;

enum { NB_A8_PARTS = 2 };

void nb_linear_a8(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa);
void nb_linear_a8_few(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa);

/* The parts of a linear, their number; x downᵀ is computed into the stream's arena. */
int nb_a8_parts(nb_stream *s, const nb_linear_args *a, nb_a8_part parts[NB_A8_PARTS]);

/* Asks for columns k0 ... k0+count of a row, as far as they are there. */
void nb_a8_prefetch(const nb_weight *w, int64_t row, int64_t k0, int64_t count);

/* Blocks of k columns with those that pad them. */
static inline int64_t nb_a8_blocks(int64_t k)
{
    return (k + NB_A8_STEP - 1) / NB_A8_STEP * (NB_A8_STEP / NB_A8_BLOCK);
}

/* Packed bytes of a lane: additive where the former k is a multiple of NB_A8_GROUP. */
static inline int64_t nb_a8_lane_bytes(const nb_a8_isa *isa, int64_t k)
{
    int64_t groups = (k + NB_A8_GROUP - 1) / NB_A8_GROUP;
    return groups * 4 + nb_a8_blocks(k) * (NB_A8_BLOCK * isa->element_bytes + 8);
}

nb_a8_tile_fn nb_a8_tile_full_avx2, nb_a8_tile_half_avx2;
nb_a8_tile_fn nb_a8_tile_full_avx512vnni, nb_a8_tile_half_avx512vnni;
nb_a8_decode_fn nb_a8_decode_avx2, nb_a8_decode_avx512vnni;
nb_a8_pack_fn nb_a8_pack_avx2, nb_a8_pack_avx512vnni;
nb_a8_pack_few_fn nb_a8_pack_few_avx512vnni;
nb_a8_few_fn nb_a8_few_avx512vnni;

#endif
