/*
 * Convolution of one picture with what surrounds it in an autoencoder, so that no normalised,
 * activated or upsampled copy of a large picture is ever stored:
 *
 *     u[c]    = x[c] * mul[c] + add[c]                         where `mul` and `add` are given
 *     u       = silu(u)                                        where `silu`
 *     u       = u repeated 2x2 (nearest)                       where `upsample`
 *     y[o][i][j] = bias[o] + sum_{c,dy,dx} u[c][i*stride - pad + dy][j*stride - pad + dx]
 *                                          w[o][c][dy][dx]     (outside of u: 0)
 *     y      += residual                                       where given
 *
 * Shapes: x F32 [C, H, W] dense; y F32 [O, H', W'] dense; residual like y (may be y itself);
 * the weight has n = O rows of k = C*kernel*kernel elements (the file's [O, C, kh, kw]); bias
 * [O]; mul, add [C]. kernel is 1 or 3, stride 1 or 2. y's size decides how far the filter runs:
 * pad is at the top and left only, whatever lies outside at the bottom and right is 0, so pad 0
 * with stride 2 and kernel 3 is the "pad right and bottom by one" downsampling of the encoder.
 * x may not overlap y.
 *
 * Precision as in nb_linear (F32, or BF16 products with F32 sums; u is rounded after silu), the
 * order of the sum fixed by C and kernel alone. Scratch is a few rows per thread.
 *
 * nb_chw_to_rows: y[p][c] = x[c][p] * mul[c] + add[c] (mul, add optional), p = i*W + j.
 * nb_rows_to_chw: y[c][p] = x[p][c] + residual[c][p] (optional; may be y).
 *     Between a picture [C, H, W] and tokens [H*W, C] (rows may be strided).
 */
#ifndef NB_KERNELS_CONV_H
#define NB_KERNELS_CONV_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"

typedef struct nb_conv2d_args {
    nb_tensor y, x;
    const nb_weight *w;
    nb_tensor bias;     /* data NULL: none */
    nb_tensor mul, add; /* data NULL: none */
    nb_tensor residual; /* data NULL: none */
    int silu, upsample;
    int kernel, stride, pad;
} nb_conv2d_args;

void nb_conv2d(nb_stream *s, const nb_conv2d_args *a);

typedef void nb_conv2d_fn(nb_stream *s, const nb_conv2d_args *a);

typedef struct nb_layout_args {
    nb_tensor y, x;
    nb_tensor mul, add; /* nb_chw_to_rows only */
    nb_tensor residual; /* nb_rows_to_chw only */
} nb_layout_args;

void nb_chw_to_rows(nb_stream *s, const nb_layout_args *a);
void nb_rows_to_chw(nb_stream *s, const nb_layout_args *a);

typedef void nb_layout_fn(nb_stream *s, const nb_layout_args *a);

#endif
