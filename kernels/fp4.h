/*
 * Four-bit floats and how blocks of them are made.
 *
 * E2M1: code = sign*8 + exponent*2 + mantissa; codes 0 ... 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; no
 * infinity, no NaN (OCP Microscaling Formats 1.0).
 *
 * NVFP4: blocks of 16 along K, each with an E4M3 scale, and one F32 scale for the tensor:
 *     w = e2m1(code) * e4m3(block scale) * tensor scale
 * MXFP4: blocks of 32 with an E8M0 scale (a power of two), no tensor scale.
 *
 * The libraries that write these files round in different places; each is reproduced byte for
 * byte, all in F32, in this order (A, a: largest magnitude of the tensor, of the block):
 *
 * modelopt
 *     tensor scale t = A / 2688
 *     block scale  s = a / (6 t), at least 2^-9; where that is 0: 1
 *     code             w / (s t); -0 becomes 0
 * compressed-tensors
 *     tensor scale g = (1 / A) 2688 is stored, t = 1 / g
 *     block scale  s = g (a / 6); where that rounds to 0: 0.125
 *     code             w / (s / g); -0 becomes 0
 * comfy
 *     tensor scale t = A / 2688
 *     block scale  s = (a / 6) / t; 0 stays 0
 *     code             w / (t s), 0 where t s = 0
 *
 * Block scales are then rounded to E4M3, at most 448, and codes to E2M1, both to nearest even.
 *
 * Here codes are packed low nibble first and scales lie plainly, [N, K/2] and [N, K/16]; other
 * layouts of the files are made from that (models/).
 */
#ifndef NB_KERNELS_FP4_H
#define NB_KERNELS_FP4_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"

enum { NB_NVFP4_BLOCK = 16, NB_MXFP4_BLOCK = 32 };

float nb_f32_from_e2m1(unsigned code); /* code & 15 */

/* Nearest, ties to the even mantissa; saturates at 6; the sign is kept, so small negative
 * values and -0 give 8; NaN gives 7. */
unsigned nb_e2m1_from_f32(float value);

typedef enum nb_fp4_rule {
    NB_FP4_MODELOPT,
    NB_FP4_COMPRESSED_TENSORS,
    NB_FP4_COMFY,
    NB_FP4_RULE_COUNT
} nb_fp4_rule;

/* How block scales are chosen. MAX maps the largest magnitude to 6. SWEEP tries every E4M3
 * scale and keeps the one with the least squared error, weighted by `importance` if given.
 * FOUR_OVER_SIX lets the largest map to 6 or to 4 (arXiv 2512.02010), with the tensor scale
 * A / 1536 so that 1.5 times the largest scale is still representable. */
typedef enum nb_fp4_method {
    NB_FP4_MAX,
    NB_FP4_SWEEP,
    NB_FP4_FOUR_OVER_SIX,
    NB_FP4_METHOD_COUNT
} nb_fp4_method;

typedef struct nb_fp4_options {
    nb_fp4_rule rule;
    nb_fp4_method method;
    const float *importance; /* [K] mean square of each input channel, or NULL */
    float amax;              /* of the tensor where several share a scale; 0: measured */
} nb_fp4_options;

/* The scale that is stored of a tensor, weights or inputs, whose largest magnitude is `amax`,
 * as the rule rounds it: A / 2688, for compressed-tensors the reciprocal. Finite, never 0. */
float nb_nvfp4_tensor_scale(nb_fp4_rule rule, float amax);

/* Largest magnitude of a weight; a NaN or an infinity anywhere makes it NaN. */
float nb_weight_amax(nb_stream *s, const nb_weight *w);

/* codes [N, K/2], scales [N, K/16] and the tensor's scale as the rule stores it (for
 * compressed-tensors the reciprocal g). K is a multiple of 16; values are finite. */
void nb_quantize_nvfp4(nb_stream *s, const nb_weight *w, const nb_fp4_options *options,
                       uint8_t *codes, uint8_t *scales, float *tensor_scale);

/* codes [N, K/2], scales [N, K/32] (E8M0). K is a multiple of 32. Rules modelopt (exponent
 * ceil(log2(a / 6)), ties toward zero, zeros are code 8) and compressed-tensors (exponent of a
 * rounded to a power of two, up from 1.75, minus 2; ties to even). */
void nb_quantize_mxfp4(nb_stream *s, const nb_weight *w, nb_fp4_rule rule, uint8_t *codes,
                       uint8_t *scales);

#endif
