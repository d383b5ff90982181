/*
 * The matrix product under nb_linear and nb_conv2d on CPUs.
 *
 * Weights are the broadcast operand, activations (rows of a linear, pixels of a convolution)
 * the lanes: a tile keeps `rows` weight rows times `lanes` activations in registers and runs
 *
 *     c[n][m] += w[n][u] * x[u][m]        for u = 0, 1, 2 ... in this order
 *
 * so an order of sums belongs to a chain and not to a tile or a thread: that is batch
 * invariance. Which units make a chain is chosen for few rows of x, where a vector of
 * neighbouring units of one weight row is multiplied by x and its lanes are added at the end:
 *
 *     k is cut into blocks of at most NB_SEGMENT_UNITS, as even as can be;
 *     a block has NB_CHAINS chains, the units u = j, j + 16, j + 32 ... of it;
 *     their sums are added one after the other, j = 0 ... 15, then those of the next block.
 *
 * Where k has fewer than NB_CHAINED_UNITS units, or an instruction set has no way of its own
 * for few rows, all of k is one chain.
 *
 * A unit is 4 bytes: one F32, or a pair of BF16 of neighbouring k that one instruction
 * multiplies and adds. Instruction sets without it round to BF16 and compute in F32 units.
 *
 * A panel holds `rows` weight rows: chunks of 16 units, in each chunk 64 bytes for each row. A
 * decoder writes one row of a panel: a new weight type is a new decoder and nothing else.
 *
 * x lies as [unit][lane] with any distance between units; taps are byte offsets at which the x
 * of further units starts again (the filter's places in a convolution; a linear has one, 0).
 */
#ifndef NB_KERNELS_CPU_GEMM_H
#define NB_KERNELS_CPU_GEMM_H

#include "kernels/conv.h"
#include "kernels/linear.h"

#define NB_ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
    NB_CHUNK_UNITS = 16,
    NB_CHUNK_BYTES = 64,
    NB_BLOCK_UNITS = 256, /* units between two visits of a sum to memory: x stays in L1 */
    NB_CHAINS = NB_CHUNK_UNITS,
    NB_SEGMENT_UNITS = 1536, /* a chain is then as long as x's place in L1 allows */
    NB_CHAINED_UNITS = 512,
};

/* What a tile does with the sums that are in memory. */
enum {
    NB_SUMS_STORE,    /* nothing: a new chain */
    NB_SUMS_CONTINUE, /* goes on with their chain */
    NB_SUMS_ADD,      /* adds a new chain to them */
};

typedef struct nb_gemm_span {
    const void *w; /* a panel: for each tap ceil(units / 16) chunks */
    const void *x;
    int64_t x_stride;    /* bytes from unit to unit */
    const int64_t *taps; /* [n_taps] */
    int n_taps, units;
    int accumulate;    /* NB_SUMS_ */
    const void *ahead; /* asked for meanwhile, ahead_step bytes on with each unit */
    int ahead_step;
} nb_gemm_span;

/* Few rows of x and one chain: weights are the lanes, decoded as for a tile but 32 rows to a
 * chunk. */
enum { NB_FEW_ROWS = 8, NB_FEW_LANES = 32 };

typedef struct nb_few_span {
    const void *w; /* [ceil(units / 16)][NB_FEW_LANES], 64 bytes each */
    const void *x; /* [rows][NB_BLOCK_UNITS] */
    int units, rows;
} nb_few_span;

/* Adds to c [2][NB_FEW_ROWS][16], 64-byte aligned. */
typedef void nb_few_fn(float *c, const nb_few_span *s);

/* Few rows of x and NB_CHAINS chains, which are the lanes: units of some weight rows, in the
 * order of the file. */
typedef struct nb_dot_span {
    const void *w[NB_FEW_ROWS]; /* rows of units, or of FP4 codes, at any alignment */
    const void *x;              /* [m] rows of units, 64-byte aligned */
    int64_t x_stride;           /* bytes */
    int64_t chunks;
    int m, accumulate; /* NB_SUMS_STORE or NB_SUMS_CONTINUE */
    int64_t ahead;     /* bytes to what to prefetch in a row's place; 0: nothing */
    /* FP4: rows lie at `stride` bytes from each other, as do their scales; `table` has the
     * values of 16 codes for each scale byte, as units that fill a chunk (BF16: twice over),
     * 64-byte aligned. A last chunk of a single block of 16 is `half`. */
    const uint8_t *scales;
    int64_t stride, scales_stride, scales_ahead;
    /* Elements that become units on the way: their type, and what a row's are multiplied by. */
    nb_dtype dtype;
    float row_scale[NB_FEW_ROWS];
    const void *table;
    int block_bits, high_first, half;
} nb_dot_span;

/* Weight rows that go side by side, enough chains to hide the latency of an addition. */
static inline int nb_dot_rows(int64_t m)
{
    return m <= 2 ? 8 : m <= 4 ? 4 : 2;
}

/* lanes [nb_dot_rows(m)][m][16], 64-byte aligned. */
typedef void nb_dot_fn(float *lanes, const nb_dot_span *s);

/* Adds the chains of 16 weight rows, lanes [16][m][16], to c [m][16], or stores their sums.
 * Unit i of a chunk is in lane order[i]; NULL: i. */
typedef void nb_fold_fn(float *c, const float *lanes, int m, const int32_t order[16],
                        int accumulate);

/* c [rows][lanes], 64-byte aligned; lanes is that of the full or of the half tile. */
typedef void nb_gemm_tile_fn(float *c, const nb_gemm_span *s);

/* Elements k0 ... k0+count of a row, chunk i at out + i * chunk_stride; k0 is a multiple of
 * 256, units past the last are 0 up to the end of the chunk. Reads no byte beyond the elements.
 */
typedef void nb_panel_decode_fn(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                                void *out, int64_t chunk_stride);

/* Chunks of a row into chains: unit j of chunk i at out + j * chain_stride +
 * i / 16 * chunk_stride + i % 16 * 4; n_chunks is a multiple of 16. */
typedef void nb_panel_spread_fn(void *out, int64_t chain_stride, int64_t chunk_stride,
                                const void *chunks, int64_t n_chunks);

/* Where packed x goes: the lanes of unit u at out + u % 16 * unit_stride +
 * u / 16 * chunk_stride. */
typedef struct nb_pack_place {
    void *out;
    int lanes;
    int64_t unit_stride, chunk_stride; /* bytes */
} nb_pack_place;

/* x rows [n_rows <= lanes, k] at `stride` floats from each other; missing rows and what is
 * missing of a chunk are 0. */
typedef void nb_pack_rows_fn(const nb_pack_place *to, const float *x, int64_t stride,
                             int64_t n_rows, int64_t k);

/* Up to 16x16 outputs out of sums: sums[j][i] of row m0+i, column n0+j. */
typedef void nb_linear_finish_fn(const nb_linear_args *a, const float *const sums[16],
                                 int64_t m0, int64_t n_m, int64_t n0, int64_t n_n);

/* u of kernels/conv.h for `n` pixels of one unit's channels: u = x * mul + add, then silu, and
 * upsampled: pixel t is then x[(t + odd) / 2]. */
typedef struct nb_conv_source {
    const float *x[2]; /* of the one or two channels of a unit; NULL: zeros */
    float mul[2], add[2];
    int affine, silu, upsample, odd;
} nb_conv_source;
typedef void nb_pack_pixels_fn(void *out, const nb_conv_source *source, int64_t n);

/* One filter row [channels][taps] in F32 into a row of a panel: the units of `n` channels from
 * c0 on, tap by tap. */
typedef void nb_pack_filter_fn(void *out, int64_t chunk_stride, const float *row, int64_t c0,
                               int64_t n, int taps);

/* What a linear sums over, one part after the other: W, then `up` of a low-rank branch with
 * x downᵀ as its x. */
typedef struct nb_linear_part {
    nb_weight w;
    nb_tensor x;               /* [M, w.k] */
    int64_t first_unit, units; /* of all parts' units, this one's; a multiple of 16 */
    int64_t block_units;       /* of a block of k */
    int chains;                /* of a block: 1, which goes on in the next one, or NB_CHAINS */
} nb_linear_part;

enum { NB_LINEAR_PARTS = 2 };

/* y = sums + bias + residual for `n` pixels of `rows` channels, `plane` floats from channel to
 * channel; sums lie `lanes` floats from each other. */
typedef struct nb_conv_piece {
    float *y;
    const float *residual, *bias; /* NULL: none */
    const float *sums;
    int64_t plane, lanes, rows, n;
} nb_conv_piece;
typedef void nb_finish_pixels_fn(const nb_conv_piece *piece);

/* What an instruction set brings for one compute policy. */
typedef struct nb_gemm_isa {
    int rows, lanes;   /* of the full tile; the half tile has half the lanes */
    int unit_elements; /* 1, or 2 for BF16 pairs */
    nb_gemm_tile_fn *tile_full, *tile_half;
    nb_panel_decode_fn *decode;
    nb_pack_rows_fn *pack_rows;
    nb_linear_finish_fn *finish;
    nb_panel_decode_fn *decode_f32; /* to F32 units whatever the policy, not rounded */
    nb_pack_filter_fn *pack_filter;
    nb_pack_pixels_fn *pack_pixels;
    nb_finish_pixels_fn *finish_pixels;
    nb_few_fn *few; /* NULL: few rows go through the tiles too, and there is one chain */
    nb_panel_spread_fn *spread;
    nb_dot_fn *dot, *dot_fp4;
    /* NULL: none. F32, F16, BF16 and F8_E4M3 become units on the way; those of F8 are found in
     * `table`, which has the values of codes 0 ... 127. */
    nb_dot_fn *dot_typed, *dot_f8;
    nb_fold_fn *fold;
    const int32_t *fp4_order; /* the lane of each unit in dot_fp4; NULL: its own */
    nb_dtype dot_dtype;       /* whose elements are units as they lie in a file */
} nb_gemm_isa;

void nb_linear_gemm(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa);
void nb_linear_few(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa);

/* The parts of a linear, their number; x downᵀ is computed into the stream's arena. */
int nb_linear_parts(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa,
                    nb_linear_part parts[NB_LINEAR_PARTS]);

/* out = x * scales, both at the same first column. */
static inline void nb_scale_columns(float *out, const float *x, const float *scales, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scales[i];
}
void nb_conv2d_gemm(nb_stream *s, const nb_conv2d_args *a, const nb_gemm_isa *isa);

nb_gemm_tile_fn nb_gemm_tile_f32_full_avx2, nb_gemm_tile_f32_half_avx2;
nb_panel_decode_fn nb_panel_f32_avx2, nb_panel_rounded_avx2;
nb_pack_rows_fn nb_pack_rows_f32_avx2, nb_pack_rows_rounded_avx2;
nb_linear_finish_fn nb_linear_finish_avx2;
nb_pack_filter_fn nb_pack_filter_f32_avx2, nb_pack_filter_rounded_avx2;
nb_pack_pixels_fn nb_pack_pixels_f32_avx2, nb_pack_pixels_rounded_avx2;
nb_finish_pixels_fn nb_finish_pixels_avx2, nb_finish_pixels_avx512;

nb_gemm_tile_fn nb_gemm_tile_f32_full_avx512, nb_gemm_tile_f32_half_avx512;
nb_gemm_tile_fn nb_gemm_tile_bf16_full_avx512bf16, nb_gemm_tile_bf16_half_avx512bf16;
nb_gemm_tile_fn nb_conv_tile_f32_full_avx512, nb_conv_tile_f32_half_avx512;
nb_gemm_tile_fn nb_conv_tile_bf16_full_avx512bf16, nb_conv_tile_bf16_half_avx512bf16;
nb_panel_decode_fn nb_panel_f32_avx512, nb_panel_rounded_avx512, nb_panel_bf16_avx512bf16;
nb_pack_rows_fn nb_pack_rows_f32_avx512, nb_pack_rows_rounded_avx512,
    nb_pack_rows_bf16_avx512bf16;
nb_linear_finish_fn nb_linear_finish_avx512;
nb_pack_filter_fn nb_pack_filter_f32_avx512, nb_pack_filter_rounded_avx512;
nb_pack_filter_fn nb_pack_filter_bf16_avx512bf16;
nb_pack_pixels_fn nb_pack_pixels_f32_avx512, nb_pack_pixels_rounded_avx512;
nb_pack_pixels_fn nb_pack_pixels_bf16_avx512bf16;
nb_few_fn nb_few_f32_avx512, nb_few_bf16_avx512bf16;
nb_panel_spread_fn nb_panel_spread_avx512;
nb_dot_fn nb_dot_f32_avx512, nb_dot_fp4_f32_avx512;
nb_dot_fn nb_dot_bf16_avx512bf16, nb_dot_fp4_bf16_avx512bf16;
nb_dot_fn nb_dot_typed_f32_avx512, nb_dot_typed_bf16_avx512bf16, nb_dot_f8_bf16_avx512bf16;
nb_fold_fn nb_fold_avx512;
extern const int32_t nb_fp4_order_f32_avx512[16];

#endif
