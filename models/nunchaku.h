/*
 * nunchaku's FLUX.1 transformers (svdq-fp4_r32-flux.1-dev, svdq-int4 ...): one file, whose
 * header holds `config` and `quantization_config`, or an older folder of
 * transformer_blocks.safetensors and unquantized_layers.safetensors. Layers of a block
 * (models/nunchaku_layer.h) are
 *
 *     transformer_blocks.i
 *         qkv_proj, qkv_proj_context              q | k | v as rows
 *         out_proj, out_proj_context
 *         mlp_fc1, mlp_fc2, mlp_context_fc1, mlp_context_fc2
 *         norm1.linear, norm1_context.linear      modulations of 6 chunks
 *         norm_q, norm_k, norm_added_q, norm_added_k
 *     single_transformer_blocks.i
 *         qkv_proj, mlp_fc1
 *         out_proj, mlp_fc2                       the columns of proj_out
 *         norm.linear                             a modulation of 3 chunks
 *         norm_q, norm_k
 *
 * and all others are those of diffusers. Read, they become what other files hold in the first
 * place, under diffusers' names (X.column_scales and the like: models/extras.h):
 *
 *     E2M1 codes    X.weight U8, X.weight_scale, X.weight_scale_2 (models/packed.h)
 *     integers      X.weight Q4_1 (kernels/ggml_blocks.h): code * step + offset
 *     neither       X.weight F32, where those are not exact: rows of X have scales of their
 *                   own, or an F16 does not hold a step
 *
 * so that nothing behind the reader knows of these orders. Memory: codes are put in order once,
 * layer by layer, into memory of their size (6.8 GB for FLUX.1); the files' pages need not be
 * resident beside it.
 */
#ifndef NB_MODELS_NUNCHAKU_H
#define NB_MODELS_NUNCHAKU_H

#include <jansson.h>

#include "models/checkpoint.h"

/* Told by names alone. */
int nb_nunchaku_is_one(const nb_checkpoint *c);

/* The checkpoint's tensors are diffusers' from now on; it is unchanged on failure. E_DATA names
 * what is missing, of another shape than the width of x_embedder or the header's config asks
 * for, or not finite. */
nb_status nb_nunchaku_rename(nb_checkpoint *c) NB_MUST_CHECK;

/* For those who need one matrix at a time. Other checkpoints, which borrow c's files; c is one
 * that was opened and not renamed.
 * outline: as nb_nunchaku_rename makes it, but what would be put in order is only announced, as
 * X.weight F32 [n, k] and X.bias F32 [n] with data NULL.
 * make: of that the tensors of module X alone, or of all whose names begin with "X.". */
nb_status nb_nunchaku_outline(const nb_checkpoint *c, nb_checkpoint **out) NB_MUST_CHECK;
nb_status nb_nunchaku_make(const nb_checkpoint *c, const char *module,
                           nb_checkpoint **out) NB_MUST_CHECK;

/* The `config` of a file's header, to be decref'ed, or NULL if no file has one beside a
 * `quantization_config` or a `model_class`, which are nunchaku's words and those of files made
 * from them. E_DATA. */
nb_status nb_nunchaku_config(const nb_checkpoint *c, json_t **out) NB_MUST_CHECK;

#endif
