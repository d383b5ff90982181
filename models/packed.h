/*
 * Matrices of 4-bit floats as their writers lay them out. A module X has its codes in
 * `X.weight` U8 [n, k/2], or `X.weight_packed`, and beside them
 *
 *                        scales X.weight_scale     one number
 *     Model-Optimizer    F8_E4M3 [n, k/16]         X.weight_scale_2
 *     comfy, BFL         F8_E4M3 in tiles          X.weight_scale_2
 *     compressed-tensors F8_E4M3 [n, k/16]         X.weight_global_scale, the reciprocal
 *     MXFP4 of any       U8 or F8_E8M0 [n, k/32]   none
 *
 * Beside NVFP4 there may be the scale of its input, from calibration: X.input_scale, of
 * compressed-tensors X.input_global_scale, the reciprocal. It counts at NB_COMPUTE_A4.
 *
 * The low half of a byte is the even column, but in comfy's files the high one. There rows are
 * padded to a multiple of 16, and scales lie in tiles of 128 rows and 4 columns,
 * [ceil128(n), ceil4(k/16)] with padding, each tile in the order (row % 32, row / 32, column).
 *
 * Which it is, is told by names, types and shapes, never by values: comfy's files say so in
 * `_quantization_metadata` of their header or by a tensor `X.comfy_quant`, and scales whose
 * shape can only be that of tiles are tiles. A file that says nothing is Model-Optimizer's.
 */
#ifndef NB_MODELS_PACKED_H
#define NB_MODELS_PACKED_H

#include "kernels/fp4.h"
#include "models/checkpoint.h"

enum { NB_TILE_ROWS = 128, NB_TILE_COLUMNS = 4, NB_COMFY_ROW_MULTIPLE = 16 };

typedef struct nb_packed {
    const nb_stored *codes, *scales;
    nb_fp4_rule dialect;
    nb_scale_kind kind; /* NVFP4 or MXFP4 */
    int64_t n, k;       /* of the matrix, without padding */
    int is_tiled;
    float tensor_scale; /* as stored; 1 where there is none */
    float input_scale;  /* of x, never the reciprocal; 0 where there is none */
} nb_packed;

/* What belongs to the U8 tensor `codes`. `n`: rows that are wanted; 0: as many as there are, of
 * padded ones as many as the bias has. E_DATA: something is missing or does not fit. */
nb_status nb_packed_find(const nb_checkpoint *c, const nb_stored *codes, int64_t n,
                         nb_packed *out) NB_MUST_CHECK;

/* The matrix as operations take it: codes where they lie, scales too unless they lie in tiles,
 * which are laid out plainly in the arena. E_DATA: a scale is NaN. */
nb_status nb_packed_weight(const nb_packed *p, const nb_device *device, nb_arena *arena,
                           nb_weight *out) NB_MUST_CHECK;

/* Does the file that module X is in say that it is comfy's? */
int nb_packed_says_comfy(const nb_checkpoint *c, const char *module);

/* Bytes from the first tile to the scale of a row and column, of `columns` in all. */
int64_t nb_tiled_place(int64_t row, int64_t column, int64_t columns);

#endif
