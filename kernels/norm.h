/*
 * Normalisations. F32 in and out; statistics are exact to about one F32 rounding (wide or
 * blockwise sums). Rows are independent: no result depends on the number of rows or threads.
 *
 * nb_layer_norm: y = ((x - mean) / sqrt(var + eps)) * weight + bias, then * (1 + scale) + shift
 *     x, y [M, D], rows may be strided; var is the population variance; weight, bias, scale,
 *     shift [D] dense, each optional. With scale and shift this is the modulation of a
 *     diffusion transformer (Peebles and Xie 2023, adaLN). y may be x.
 *
 * nb_rms_norm: y = x / sqrt(mean(x^2) + eps) * weight           (Zhang and Sennrich 2019)
 *     x, y [M, D]; weight [D] optional. y may be x.
 *
 * nb_group_norm: x [C, H, W] dense, one picture, G groups of C/G channels (Wu and He 2018). It
 *     does not write the normalised picture; it gives it as one affine map per channel,
 *     norm(x)[c] = x[c] * mul[c] + add[c], which nb_conv2d and nb_chw_to_rows apply as they
 *     read. mul[c] = weight[c] / sqrt(var_g + eps), add[c] = bias[c] - mean_g mul[c]; weight
 *     and bias are optional.
 */
#ifndef NB_KERNELS_NORM_H
#define NB_KERNELS_NORM_H

#include "kernels/base/stream.h"

typedef struct nb_norm_args {
    nb_tensor y, x;
    nb_tensor weight, bias; /* data NULL: none */
    nb_tensor scale, shift; /* data NULL: none; layer norm only */
    float eps;
} nb_norm_args;

void nb_layer_norm(nb_stream *s, const nb_norm_args *a);
void nb_rms_norm(nb_stream *s, const nb_norm_args *a);

typedef void nb_norm_fn(nb_stream *s, const nb_norm_args *a);

typedef struct nb_group_norm_args {
    nb_tensor mul, add;     /* [C], written */
    nb_tensor x;            /* [C, H, W] dense */
    nb_tensor weight, bias; /* [C] */
    int groups;             /* divides C */
    float eps;
} nb_group_norm_args;

void nb_group_norm(nb_stream *s, const nb_group_norm_args *a);

typedef void nb_group_norm_fn(nb_stream *s, const nb_group_norm_args *a);

#endif
