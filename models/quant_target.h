/*
 * What nibble quantize writes: how each writer names, shapes and lays out a quantised matrix.
 *
 *                modelopt                    compressed-tensors           comfy
 * NVFP4  codes   weight U8 [N, K/2]          weight_packed                weight [N16, K/2],
 *                                                                         high nibble first
 *        scales  weight_scale F8 [N, K/16]   the same                     [N128, (K/16)4],
 *                                                                         in tiles
 *        tensor  weight_scale_2 F32 []       weight_global_scale F32 [1]  weight_scale_2 F32 []
 *        inputs  input_scale F32 []          input_global_scale F32 [1]   input_scale F32 []
 * MXFP4  codes   weight U8 [N, K/2]          weight_packed                none
 *        scales  weight_scale U8 [N, K/32]   the same
 * FP8    codes   weight F8 [N, K]            the same                     the same
 *        scale   weight_scale F32 []         weight_scale F32 [1]         weight_scale F32 []
 *        inputs  input_scale F32 []          input_scale F32 [1]          input_scale F32 []
 *
 * N16, N128, (K/16)4: rounded up to a multiple, filled with zeros. F32 and BF16 are plain.
 * "inputs" is there where calibration has seen them: of their largest magnitude A it is A /
 * 2688 for NVFP4 (input_global_scale its reciprocal, rounded as kernels/fp4.h says), A / 448
 * for FP8.
 */
#ifndef NB_MODELS_QUANT_TARGET_H
#define NB_MODELS_QUANT_TARGET_H

#include "kernels/fp4.h"
#include "models/stored.h"

typedef enum nb_quant_format {
    NB_QUANT_NVFP4,
    NB_QUANT_MXFP4,
    NB_QUANT_FP8,
    NB_QUANT_F32,
    NB_QUANT_BF16,
    NB_QUANT_FORMAT_COUNT
} nb_quant_format;

typedef struct nb_quant_target {
    nb_quant_format format;
    nb_fp4_rule dialect;
    nb_fp4_method method; /* NVFP4 only */
    float input_amax; /* of x, finite, for NVFP4 and FP8 only; 0: no scale of it is written */
} nb_quant_target;

/* Columns must be a multiple of this. */
int64_t nb_quant_multiple(nb_quant_format format);

/* The tensors that a matrix becomes; `suffix` is what stands behind the module's name. */
enum { NB_QUANT_MAX_PARTS = 4 };
typedef struct nb_quant_part {
    const char *suffix; /* ".weight_scale" */
    nb_dtype dtype;
    int rank;
    int64_t shape[2];
} nb_quant_part;

int64_t nb_quant_part_bytes(const nb_quant_part *part);

/* Returns how many. */
int nb_quant_parts(const nb_quant_target *target, int64_t n, int64_t k,
                   nb_quant_part parts[NB_QUANT_MAX_PARTS]);

/* Their bytes, in the stream's arena. `amax`: as in nb_fp4_options; `importance`: [K] or NULL.
 */
void nb_quant_encode(nb_stream *s, const nb_quant_target *target, const nb_weight *w,
                     float amax, const float *importance, const void *data[NB_QUANT_MAX_PARTS]);

#endif
