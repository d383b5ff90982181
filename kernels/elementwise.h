/*
 * Small element-wise operations, F32.
 *
 * nb_embed:  y[i] = W[ids[i]] (+ add[i] where given); y [M, k]; ids in host memory,
 *            0 <= id < n; add may not overlap y
 * nb_axpy:   y += a * x, dense tensors of one shape (an Euler step); fused: one rounding
 * nb_blend:  y = x0 + a * (x1 - x0), dense, fused (classifier-free guidance); y may be x0 or x1
 * nb_silu:   y = x / (1 + exp(-x)), dense; y may be x
 * nb_add:    y = x0 + x1, dense; y may be x0 or x1
 * nb_copy:   y = x, same shape, rank <= 2, rows of either may be strided
 */
#ifndef NB_KERNELS_ELEMENTWISE_H
#define NB_KERNELS_ELEMENTWISE_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"

typedef struct nb_embed_args {
    nb_tensor y; /* [M, k], rows may be strided */
    const nb_weight *w;
    const int32_t *ids; /* [M] */
    nb_tensor add;      /* [M, k] dense, data NULL: none */
} nb_embed_args;

typedef struct nb_elementwise_args {
    nb_tensor y, x0, x1;
    float a;
} nb_elementwise_args;

void nb_embed(nb_stream *s, const nb_embed_args *a);
void nb_axpy(nb_stream *s, nb_tensor y, float a, nb_tensor x);
void nb_blend(nb_stream *s, nb_tensor y, float a, nb_tensor x0, nb_tensor x1);
void nb_silu(nb_stream *s, nb_tensor y, nb_tensor x);
void nb_add(nb_stream *s, nb_tensor y, nb_tensor x0, nb_tensor x1);
void nb_copy(nb_stream *s, nb_tensor y, nb_tensor x);

typedef void nb_embed_fn(nb_stream *s, const nb_embed_args *a);
typedef void nb_elementwise_fn(nb_stream *s, const nb_elementwise_args *a);

#endif
