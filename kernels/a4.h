/*
 * NVFP4 activations (NB_COMPUTE_A4), emulated: x is rounded to what NVFP4 can hold, then
 * multiplied as at NB_COMPUTE_BF16. Nothing is gained by it but knowledge of what 4-bit
 * activations cost a model.
 *
 * A row of x (after its column scales) is cut into blocks of 16 columns; as the writers of
 * NVFP4 do (kernels/fp4.h), all in F32, a being the block's largest magnitude:
 *
 *     s  = e4m3(min(max(a / (6 t), 2^-9), 448))
 *     x' = e2m1(x / (s t)) * (s t)
 *
 * t is the weight's input_scale, found by calibration, or where that is 0 the row's own largest
 * magnitude / 2688: of the row and not of all rows, so that a row's result does not depend on
 * the batch that it is in. Rows whose largest magnitude is below 2^-100 count as zeros where t
 * is their own; a block with a NaN or an infinity becomes NaN. A low-rank branch sees x as it
 * is.
 */
#ifndef NB_KERNELS_A4_H
#define NB_KERNELS_A4_H

#include "kernels/linear.h"

enum { NB_A4_BLOCK = 16 };

#define NB_A4_SMALLEST 0x1p-100f /* that input_scale and a row's largest magnitude may be */

/* out = x', k columns, a multiple of NB_A4_BLOCK; out may be x. input_scale 0: of the row. */
typedef void nb_a4_round_fn(float *out, const float *x, int64_t k, float input_scale);

nb_a4_round_fn nb_a4_round_ref;

/* The linear with its x rounded by `round`, in the device's linear of BF16. */
void nb_linear_a4(nb_stream *s, const nb_linear_args *a, nb_a4_round_fn *round);

#endif
