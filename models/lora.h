/*
 * LoRA (Hu et al. 2021): files that add a product of low rank to matrices of a model,
 *
 *     x Wᵀ  becomes  x Wᵀ + weight * alpha / rank * (x downᵀ) upᵀ      (+ the same of a bias)
 *
 * Weights stay as they are, of whatever type: the product becomes the low-rank branch of
 * nb_weight (kernels/weight.h) when a matrix is bound. Of several files, and of several modules
 * of a file that mean one matrix, ranks are joined; weight * alpha / rank is multiplied into
 * `up`.
 *
 * All names of models/lora_names.h are understood, for fused and for split matrices: of a fused
 * q|k|v or q|k|v|mlp the rows of `up` are shared out, of BFL's final layer the halves of `up`
 * change places. alpha is a tensor, or lora_alpha and alpha_pattern of the PEFT config that
 * diffusers writes into the header (with use_rslora its divisor is the root of the rank), or
 * else the rank.
 *
 * LoHa and LoKr are branches too where their product is of low rank, less than half of what the
 * matrix can have (models/lora_factors.c); others of them, DoRA and full differences of
 * matrices are refused. A full difference of a bias is added to it, times the weight.
 */
#ifndef NB_MODELS_LORA_H
#define NB_MODELS_LORA_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"
#include "models/checkpoint.h"

typedef struct nb_lora_use {
    const char *path; /* a file, or a folder with one */
    double weight;
} nb_lora_use;

typedef struct nb_lora_options {
    int lenient;        /* names that mean nothing to the models are left out, with a warning */
    nb_compute compute; /* F32: branches are F32, else BF16 */
} nb_lora_options;

typedef struct nb_loras nb_loras;

/* Reads the files for models of those checkpoints (with canonical names; they are only looked
 * at here). Nothing of `uses` is kept. E_NOINPUT; E_DATA for a file that holds no LoRA or one
 * of another model, for a name that no matrix of the models has (unless lenient), an adapter of
 * another kind, half a pair, or rows that do not fit. */
nb_status nb_loras_open(const nb_lora_use *uses, int n, const nb_lora_options *options,
                        const nb_checkpoint *const *models, int n_models,
                        nb_loras **out) NB_MUST_CHECK;
void nb_loras_close(nb_loras *l);

int nb_loras_n_files(const nb_loras *l);
const nb_checkpoint *nb_loras_file(const nb_loras *l, int index);
int64_t nb_loras_n_terms(const nb_loras *l); /* pairs of a file and a matrix */

/* Joins what there is for the matrix `module` (its name without .weight) to its branch, in
 * `arena`; and adds to its bias [n], which may be NULL. E_DATA names file and tensor whose
 * shape does not fit. */
nb_status nb_loras_apply(const nb_loras *l, const char *module, nb_arena *arena, nb_weight *w,
                         float *bias) NB_MUST_CHECK;

/* For nibble info, from names and shapes. */
typedef struct nb_lora_summary {
    const char *dialect;              /* "kohya" */
    const char *family;               /* "FLUX.1", another model's, or "" */
    int64_t n_modules, n_unknown;     /* that have a pair, or another adapter's tensors */
    int64_t least_rank, largest_rank; /* 0 where there is none */
    const char *foreign;              /* "DoRA": an adapter that cannot be applied; or NULL */
} nb_lora_summary;

/* 0 if it is no LoRA. */
int nb_lora_summarise(const nb_checkpoint *c, nb_lora_summary *out);

#endif
