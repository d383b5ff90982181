/*
 * Rotary position embedding on adjacent pairs, with the per-head RMS norm that comes before it
 * in Flux (q/k norm), in place:
 *
 *     u = x / sqrt(mean_d(x^2) + eps) * weight                  where `weight` is given
 *     x[2m]   = u[2m]   cos[s][m] - u[2m+1] sin[s][m]
 *     x[2m+1] = u[2m+1] cos[s][m] + u[2m]   sin[s][m]           where `cos` and `sin` are given
 *
 * x F32 [S, H, D], D even, outer strides free; weight F32 [D]; cos, sin F32 [S, D/2] dense.
 * Su et al. 2021 (RoFormer), interleaved form. Everything is F32.
 */
#ifndef NB_KERNELS_ROPE_H
#define NB_KERNELS_ROPE_H

#include "kernels/base/stream.h"

typedef struct nb_rope_args {
    nb_tensor x;
    nb_tensor weight; /* data NULL: no norm */
    float eps;
    nb_tensor cos, sin; /* data NULL: no rotation */
} nb_rope_args;

void nb_rope(nb_stream *s, const nb_rope_args *a);

typedef void nb_rope_fn(nb_stream *s, const nb_rope_args *a);

#endif
