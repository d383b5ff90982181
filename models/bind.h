/*
 * Binding: from names in a checkpoint to what an architecture computes with. A binder keeps the
 * first error, so binding code reads as a list of tensors; the architecture returns
 * binder.status at its end. Wrong shape, type or a missing tensor gives a sentence with file,
 * tensor, wanted and found.
 *
 * Matrices (F32, F16, BF16, F8_E4M3, F8_E5M2, GGUF's blocks, and 4-bit ones, models/packed.h)
 * stay where they are, views into the mapping; vectors are copied to F32 in the arena. A matrix
 * `X.weight` with a scale beside it
 * (`X.weight_scale`, `X.scale_weight`: one number or one per row; or `X.weight_scale_inv`: one
 * per 128x128 block, or one number) is bound with it. A checkpoint that says scaled FP8 (a
 * `scaled_fp8` tensor, or any such scale) and lacks the scale of an F8 tensor is refused; where
 * there is no scale at all, F8 is a plain cast and means what it says. 4 bits without a scale
 * mean nothing and are refused. What belongs to the product beside a matrix, scales of the
 * input channels and a low-rank branch, is bound with it (models/extras.h); zero points are
 * refused.
 * Other tensors that nobody asks for are no error.
 */
#ifndef NB_MODELS_BIND_H
#define NB_MODELS_BIND_H

#include "kernels/linear.h"
#include "models/checkpoint.h"

typedef struct nb_binder {
    const nb_checkpoint *checkpoint;
    const nb_device *device;
    nb_arena *arena; /* the model's: lives as long as what is bound */
    nb_status status;
    int no_extras; /* layers are convolutions: what is beside a matrix (models/extras.h) is
                      refused */
    int scaled;    /* the binder's own note: 0 not looked yet, 1 has FP8 scales, -1 has none */
    int looked;    /* models/plausible.h has been asked: its own note, or the caller's */
} nb_binder;

/* A matrix with its optional bias. */
typedef struct nb_layer {
    nb_weight w;
    nb_tensor bias; /* data NULL: none */
} nb_layer;

/* Both with what the checkpoint's LoRA files add to them (models/lora.h).
 * `NAME.weight` as [n, k] (trailing dimensions of 1 are dropped; a convolution's [o, c, kh, kw]
 * counts as k = c*kh*kw and must have kh = kw), and `NAME.bias` [n] if has_bias. */
nb_layer nb_bind_layer(nb_binder *b, int64_t n, int64_t k, int has_bias, const char *format,
                       ...) NB_PRINTF(5, 6);

/* The weight of a linear layer that nobody knows the size of: `t` is its X.weight or
 * X.weight_packed of two dimensions, and its n and k are as the file has them (of padded rows
 * as many as the bias has). Without LoRA. */
nb_weight nb_bind_stored(nb_binder *b, const nb_stored *t);

/* Is it the name of something that stands beside a matrix and belongs to its reading, in any
 * dialect: scales, notes, models/extras.h? Bytes of its X, 0 if not. */
size_t nb_bind_part(const char *name);

/* The full name of a matrix [n, k] whose rows are looked up: it has no product, and what
 * belongs to one beside it is refused. */
nb_weight nb_bind_weight(nb_binder *b, int64_t n, int64_t k, const char *format, ...)
    NB_PRINTF(4, 5);

/* The full name of a vector [n], as F32. */
nb_tensor nb_bind_vector(nb_binder *b, int64_t n, const char *format, ...) NB_PRINTF(3, 4);

/* Is there a tensor of that full name? */
int nb_bind_has(const nb_binder *b, const char *format, ...) NB_PRINTF(2, 3);

/* y = epilogue(x Wᵀ + b), for the common case. */
static inline void nb_layer_forward(nb_stream *s, const nb_layer *l, nb_tensor y, nb_tensor x,
                                    nb_act act)
{
    nb_linear(s, &(nb_linear_args){.y = y, .x = x, .w = &l->w, .bias = l->bias, .act = act});
}

#endif
