/*
 * What nibble quantize reads from: a weight matrix of a checkpoint in whatever form the file
 * has it, and its effective weight, in F32, of which all that stands beside it is a part:
 *
 *     x W'ᵀ = (x * column_scales) Wᵀ + (x downᵀ) upᵀ    for all x, so
 *     W'[n][k] = W[n][k] * column_scales[k] + sum over r of up[n][r] * down[r][k]
 *
 * Which forms there are is models/bind.h's to know, and models/nunchaku.h's of the files that
 * need to be put in order, of which an outline is what is given in here.
 */
#ifndef NB_MODELS_QUANT_SOURCE_H
#define NB_MODELS_QUANT_SOURCE_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"
#include "models/checkpoint.h"

enum { NB_MODULE_BYTES = 224 };

/* How a matrix lies, as far as it matters to whoever writes it again. */
typedef enum nb_source_form {
    NB_SOURCE_PLAIN,    /* floats, nothing beside them */
    NB_SOURCE_STORED,   /* quantised, or with something beside it */
    NB_SOURCE_TILED,    /* the same, NVFP4 as comfy has it */
    NB_SOURCE_UNTILED,  /* NVFP4 under the same names, not as comfy has it */
    NB_SOURCE_FOREIGN,  /* what no safetensors file holds so: blocks of GGUF */
    NB_SOURCE_ANNOUNCED /* a module of nunchaku's files that is not made yet; has a bias */
} nb_source_form;

typedef struct nb_quant_source {
    char module[NB_MODULE_BYTES]; /* X */
    const nb_checkpoint *c;       /* that it is in */
    const nb_stored *tensor;      /* X.weight or X.weight_packed */
    nb_source_form form;
    int64_t n, k;
} nb_quant_source;

/* Is `t` the weight of a matrix? Then `module` is filled in. */
int nb_quant_module_of(const nb_stored *t, char module[NB_MODULE_BYTES]);

/* Is `t` one of the scales and notes beside a quantised weight? Likewise. */
int nb_quant_is_part(const nb_stored *t, char module[NB_MODULE_BYTES]);

/* About the matrix whose weight is `t`; looks at names, types and shapes only. E_DATA: a scale
 * of 4 bits is missing or does not fit. */
nb_status nb_quant_source_find(const nb_checkpoint *c, const nb_stored *t,
                               nb_quant_source *out) NB_MUST_CHECK;

/* Is all beside the matrix there, of the right shape and finite? What has only been announced
 * was looked at before. E_DATA. */
nb_status nb_quant_source_check(nb_stream *s, const nb_quant_source *source) NB_MUST_CHECK;

/* The effective weight: plain floats where they lie, all else expanded to F32 in the stream's
 * arena. `files`: where what was announced is made from. *bias is then F32 [n], in the arena
 * too, and untouched otherwise. */
nb_status nb_quant_source_weight(nb_stream *s, const nb_checkpoint *files,
                                 const nb_quant_source *source, nb_weight *out,
                                 const float **bias) NB_MUST_CHECK;

#endif
