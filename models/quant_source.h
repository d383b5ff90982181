/*
 * What nibble quantize reads from: a weight matrix of a checkpoint in whatever form the file
 * has it - plain floats, FP8 with its scales, NVFP4 or MXFP4 of any of the writers.
 *
 *     X.weight F32, F16, BF16                                plain
 *     X.weight F8 and its scale (models/bind.h)              FP8
 *     X.weight U8, weight_scale F8_E4M3, weight_scale_2      NVFP4 of modelopt; of comfy, if
 *                                                            the file says so or the shape
 *     X.weight_packed, weight_scale F8_E4M3, weight_global_scale   NVFP4 of compressed-tensors
 *     X.weight or X.weight_packed, weight_scale U8           MXFP4
 */
#ifndef NB_MODELS_QUANT_SOURCE_H
#define NB_MODELS_QUANT_SOURCE_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"
#include "models/checkpoint.h"

enum { NB_MODULE_BYTES = 224 };

typedef enum nb_source_kind {
    NB_SOURCE_PLAIN,
    NB_SOURCE_FP8,
    NB_SOURCE_NVFP4,
    NB_SOURCE_MXFP4,
    NB_SOURCE_BLOCKS /* GGUF */
} nb_source_kind;

typedef struct nb_quant_source {
    char module[NB_MODULE_BYTES]; /* X */
    const nb_stored *tensor;      /* its weight */
    nb_source_kind kind;
    int64_t n, k;
    nb_weight w;             /* plain, FP8 and blocks: as it lies */
    const nb_stored *scales; /* the others */
    float tensor_scale;
    int is_reciprocal, is_comfy;
} nb_quant_source;

/* Is `t` the weight of a matrix? Then `module` is filled in. */
int nb_quant_module_of(const nb_stored *t, char module[NB_MODULE_BYTES]);

/* Is `t` one of the scales and notes beside a quantised weight? Likewise. */
int nb_quant_is_part(const nb_stored *t, char module[NB_MODULE_BYTES]);

/* All about the matrix whose weight is `t`. What the binder copies goes into the arena. E_DATA:
 * a scale is missing or does not fit, or the form is one that cannot be read. */
nb_status nb_quant_source_find(const nb_checkpoint *c, const nb_stored *t,
                               const nb_device *device, nb_arena *arena,
                               nb_quant_source *out) NB_MUST_CHECK;

/* The matrix as operations take it: where it lies, or expanded to F32 in the stream's arena. */
nb_weight nb_quant_source_weight(nb_stream *s, const nb_quant_source *source);

#endif
