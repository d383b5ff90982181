/*
 * Linear layer: y = epilogue(x Wᵀ + b).
 *
 *     t[m][n] = sum_k x[m][k] c[k] W[n][k] + sum_r (x downᵀ)[m][r] up[n][r] + bias[n]
 *     t       = act(t)
 *     t       = t * mul[m][n]                        where `mul` is given    (gated MLP)
 *     y[m][n] = residual[m][n] + gate[n] * t         where `gate` or `residual` is given
 *                                                    (gate absent counts as 1, residual as 0)
 *
 * c are the weight's column_scales, down and up its low_rank branch (kernels/weight.h), where
 * it has them; else they cost nothing.
 *
 * Shapes: x F32 [M, K], y F32 [M, N], mul and residual F32 [M, N]; rows may be strided, the
 * inner stride is 1. bias and gate F32 [N], dense. residual and mul may be the same memory as
 * y; x may not overlap y.
 *
 * Precision: at NB_COMPUTE_F32 every product and sum is F32; at NB_COMPUTE_BF16 x (after its
 * scales), the decoded W, down, up and x downᵀ are rounded to BF16 (nearest even), sums are
 * F32. The sum over k, then r, runs in one fixed order that does not depend on M, on N or on
 * the number of threads: a row's result is the same whatever batch it is in (batch invariance).
 */
#ifndef NB_KERNELS_LINEAR_H
#define NB_KERNELS_LINEAR_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"

typedef enum nb_act {
    NB_ACT_NONE,
    NB_ACT_GELU_TANH,  /* 0.5 t (1 + tanh(sqrt(2/pi) (t + 0.044715 t^3))) */
    NB_ACT_GELU,       /* 0.5 t (1 + erf(t / sqrt 2)) */
    NB_ACT_QUICK_GELU, /* t sigmoid(1.702 t) */
    NB_ACT_SILU,       /* t sigmoid(t) */
    NB_ACT_RELU,
    NB_ACT_COUNT
} nb_act;

typedef struct nb_linear_args {
    nb_tensor y, x;
    const nb_weight *w;
    nb_tensor bias; /* data NULL: none */
    nb_act act;
    nb_tensor mul, gate, residual; /* data NULL: none */
} nb_linear_args;

void nb_linear(nb_stream *s, const nb_linear_args *a);

/* The policy that a linear of weight w is computed at where `policy` is the stream's: those of
 * few bits round x only where W was rounded too, so that a checkpoint's layers that were kept
 * in high precision stay in it (BF16), and so do those whose exact_inputs is set. */
nb_compute nb_linear_compute(nb_compute policy, const nb_weight *w);

typedef void nb_linear_fn(nb_stream *s, const nb_linear_args *a);

/* One activation in double precision: the reference for every variant. */
double nb_act_ref(nb_act act, double t);

#endif
