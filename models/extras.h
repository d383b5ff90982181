/*
 * What stands beside a matrix X.weight [n, k] and belongs to its product, but not to its
 * elements: y = (x * scales) Wᵀ + (x downᵀ) upᵀ (kernels/weight.h).
 *
 *     X.pre_quant_scale                [k]             Model-Optimizer, AWQ: the scales
 *     X.svdquant_lora_a                [rank, k]       Model-Optimizer, SVDQuant: down of the
 *     X.svdquant_lora_b                [n, rank]       x that is scaled already; and up
 *     X.column_scales                  [k]             what readers of other dialects make of
 *     X.low_rank_down, X.low_rank_up   [rank, k], [n, rank]      theirs (models/nunchaku.h):
 *                                                      down is of the x as it comes
 *
 * Model-Optimizer's branch of the scaled x is made one of the x as it comes:
 * (x * scales) downᵀ = x (down * scales)ᵀ, in F32, so that nothing is rounded twice.
 */
#ifndef NB_MODELS_EXTRAS_H
#define NB_MODELS_EXTRAS_H

#include "kernels/weight.h"
#include "models/checkpoint.h"

/* Puts what is beside `matrix` into w, whose n and k are those of the matrix; what is not a
 * view of the file goes into the arena. E_DATA: a half of a branch is missing, a shape does not
 * fit, a number is not finite, or there are zero points, which cannot be computed. */
nb_status nb_extras_bind(const nb_checkpoint *c, const nb_stored *matrix, nb_arena *arena,
                         nb_weight *w) NB_MUST_CHECK;

/* E_DATA if there is anything beside a matrix that is no linear layer's. */
nb_status nb_extras_refuse(const nb_checkpoint *c, const nb_stored *matrix) NB_MUST_CHECK;

/* Is there any of it beside a matrix? */
int nb_extras_any(const nb_checkpoint *c, const nb_stored *matrix);

/* Is it the name of one of the tensors above? */
int nb_extras_is_name(const char *name);

#endif
