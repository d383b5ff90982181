/*
 * Quantising to FP8 with one scale for the matrix:
 *
 *     w = e4m3(code) * scale,   scale = A / 448,   A the largest magnitude
 *
 * as the writers of checkpoints do it, all in F32: modelopt and compressed-tensors divide by
 * the scale, comfy multiplies by its reciprocal. Codes are rounded to nearest even and
 * saturate.
 */
#ifndef NB_KERNELS_FP8_H
#define NB_KERNELS_FP8_H

#include "kernels/fp4.h"

/* codes [N, K]; values are finite. `amax`: A where several matrices share a scale; 0: measured.
 * An all-zero matrix gets a finite scale. */
void nb_quantize_fp8(nb_stream *s, const nb_weight *w, nb_fp4_rule rule, float amax,
                     uint8_t *codes, float *scale);

#endif
