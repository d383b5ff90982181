/*
 * A weight matrix W [n, k] in whatever form its file holds it, row-major, usually a view into a
 * read-only mapping at any alignment. One struct for all types, so that an operation needs one
 * row decoder per type and no knowledge of file dialects:
 *
 *     W[i][j] = decode(data)[i][j] * block_scale(i, j) * scale
 *
 * F32, F16, BF16 and F8 rows hold k elements of their dtype. Rows of a block type
 * (kernels/ggml_blocks.h) hold whole blocks, which have all their scales in them. F4_E2M1X2
 * rows hold k / 2 bytes of two codes; their blocks (16 columns for NVFP4, 32 for MXFP4; k is a
 * multiple) have one byte of scale each, whose meaning is looked up in a table: a block scale
 * of E4M3 with a scale or a divisor for the whole matrix, or of E8M0, is then one and the same
 * to a decoder, with one rounding wherever the format has one:
 *
 *     W[i][j] = e2m1(code(i, j)) * scale_values[scales[i][j / block]]
 *
 * What stands beside a quantised matrix in some files, and LoRA, come with it:
 *
 *     x Wᵀ  means  (x * column_scales) Wᵀ + (x downᵀ) upᵀ
 */
#ifndef NB_KERNELS_WEIGHT_H
#define NB_KERNELS_WEIGHT_H

#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the scales beside the elements are laid out. */
typedef enum nb_scale_kind {
    NB_SCALE_NONE,     /* `scale` only */
    NB_SCALE_ROW,      /* F32 scales[n] */
    NB_SCALE_BLOCK128, /* F32 scales[ceil(n/128)][ceil(k/128)] */
    NB_SCALE_NVFP4,    /* E4M3 scales[n][k/16], F4_E2M1X2 only */
    NB_SCALE_MXFP4,    /* E8M0 scales[n][k/32], F4_E2M1X2 only */
} nb_scale_kind;

/* A correction of low rank: `down` [rank, k] and `up` [n, rank], dense, both of `dtype` (F32,
 * F16 or BF16). Several of them are one with their ranks joined. */
typedef struct nb_low_rank {
    const void *down, *up;
    nb_dtype dtype;
    int64_t rank; /* 0: none */
} nb_low_rank;

typedef struct nb_weight {
    const void *data; /* NULL means "no weight" */
    nb_dtype dtype;   /* F32, F16, BF16, F8_E4M3, F8_E5M2, F4_E2M1X2 or one of blocks */
    int64_t n, k;     /* rows (outputs), columns (inputs) */
    nb_scale_kind scale_kind;
    const void *scales; /* as scale_kind says, NULL for NONE */
    float scale;        /* of the whole matrix; 1 where the file has none, for FP4 and blocks */
    const float *scale_values; /* FP4: F32 [256], what each byte of `scales` multiplies by */
    int high_first;            /* FP4: the even column is in the high half of its byte */
    float input_scale; /* of x as NVFP4 (kernels/a4.h), by calibration; 0: each row its own */
    int exact_inputs;  /* its file asks for products of x that no policy rounds to few bits */
    const float *column_scales; /* [k], x is multiplied by them; NULL: none */
    nb_low_rank low_rank;       /* of the x that is not multiplied by column_scales */
    const struct nb_device *device;
} nb_weight;

enum { NB_SCALE_CODES = 256 };

/* Fills scale_values of a kind of FP4 scales: each code's value, times the matrix's scale. For
 * files that hold the reciprocal, `divides`: each code's value divided by it. */
void nb_weight_scale_values(nb_scale_kind kind, float scale, int divides,
                            float values[NB_SCALE_CODES]);

/* Is the matrix of a block type? Its k is a multiple of nb_dtype_elements(). */
static inline int nb_weight_has_blocks(const nb_weight *w)
{
    return nb_dtype_elements(w->dtype) > 1;
}

/* log2 of the columns of a block of FP4. */
static inline int nb_weight_block_bits(const nb_weight *w)
{
    return w->scale_kind == NB_SCALE_MXFP4 ? 5 : 4;
}

/* Rows start ... start+count of a weight: no copy. For NB_SCALE_BLOCK128 `start` must be a
 * multiple of 128. */
nb_weight nb_weight_rows(nb_weight w, int64_t start, int64_t count);

/* Asks the system to read the weight's pages before they are needed, where they are a file's
 * and not in memory; returns at once. Advice: it may do nothing. */
void nb_weight_prefetch(const nb_weight *w);

/* Bytes of one row of elements. */
int64_t nb_weight_row_bytes(const nb_weight *w);

/* Bytes of all elements and of the scales beside them; not of column_scales and low_rank. */
int64_t nb_weight_bytes(const nb_weight *w);

/* block_scale * scale of element [row][k]. */
float nb_weight_scale_at(const nb_weight *w, int64_t row, int64_t k);

/* Elements k0 ... k0+count of row `row`, exactly expanded to F32: the specification of every
 * faster decoder. */
void nb_weight_decode_ref(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                          float *out);

#ifdef __cplusplus
}
#endif
#endif
