/*
 * Linears of 8-bit integers (NB_COMPUTE_A8), as every variant computes them, to the bit up to
 * the epilogue.
 *
 * x (after its column scales) is cut into groups of 32 columns of a row, W into groups of 256,
 * the last ones shorter; each group becomes integers -127 ... 127 times a scale of its own:
 *
 *     largest magnitude a:   q = round(x * (127 / a)),   x ~ q * (a / 127)
 *
 * W is rounded when it is decoded, from any type. Of FP4, whose blocks of 16 or 32 columns have
 * scales themselves, the group's largest block scale stands for its largest magnitude, so that
 * the codes need not be looked at first: relative to it each block's scale is a multiplier m
 *
 *     m = round(block scale / largest block scale * 21675)
 *     q = (e2m1(code) * 32 * m + 2^14) >> 15     since 6 * 32 * 21675 / 2^15 = 127
 *     W ~ q * (6 / 127 * largest block scale)
 *
 * Then sums of products are exact integers within 32 columns, and F32 beyond:
 *
 *     t = fma(sum of group j, x scale of group j, t)    over the 8 groups of x in one of W
 *     c = fma(t, W scale, c)                            over the groups of W
 *
 * A group whose largest magnitude is below 2^-100 counts as zeros; one with a NaN or an
 * infinity has a NaN for its scale, so that whatever it is part of becomes NaN.
 *
 * A low-rank branch follows W in the same sums: x downᵀ as at NB_COMPUTE_BF16, rounded in
 * groups like x, times `up`, rounded in groups like W.
 *
 * Error, measured against the exact product with the same NVFP4 weights, K = 3072, x and W both
 * of the distribution (tests/unit/a8_test.c holds the bounds): normal 41 dB, Student's t with
 * 5 degrees of freedom 38 dB, 1.6 % of x twenty times as large 37 dB. NVFP4 itself keeps 20 dB.
 */
#ifndef NB_KERNELS_A8_H
#define NB_KERNELS_A8_H

#include <float.h>
#include <math.h>

#include "kernels/weight.h"

enum {
    NB_A8_GROUP = 32,         /* columns of x that share a scale */
    NB_A8_WEIGHT_GROUP = 256, /* columns of W */
    NB_A8_MOST = 127,
    NB_A8_MULTIPLIER = 21675,
};

static const float NB_A8_SMALLEST = 0x1p-100f;

/* A group's integers are x * up, rounded to nearest even; x is about the integers * down. */
typedef struct nb_a8_scale {
    float up, down;
} nb_a8_scale;

static inline nb_a8_scale nb_a8_scale_of(float largest)
{
    if (!(largest <= FLT_MAX)) return (nb_a8_scale){0.0f, NAN};
    if (largest < NB_A8_SMALLEST) return (nb_a8_scale){0.0f, 0.0f};
    return (nb_a8_scale){(float)NB_A8_MOST / largest, largest / (float)NB_A8_MOST};
}

/* The multiplier m of a block with scale byte `code` where the largest one, but for its sign,
 * is `largest`. */
static inline int nb_a8_multiplier(nb_scale_kind kind, uint8_t code, uint8_t largest)
{
    const float most = NB_A8_MULTIPLIER;
    if (kind == NB_SCALE_MXFP4) return (int)lrintf(ldexpf(most, code - largest));
    float g = nb_f32_from_e4m3(largest);
    return g > 0.0f ? (int)lrintf(nb_f32_from_e4m3(code) * (most / g)) : 0;
}

/* A scale byte but for its sign. */
static inline uint8_t nb_a8_scale_magnitude(nb_scale_kind kind, uint8_t code)
{
    return kind == NB_SCALE_NVFP4 ? code & 0x7f : code;
}

/* The scale of a group of FP4 whose largest block scale has the byte `largest`. */
static inline float nb_a8_fp4_scale(const nb_weight *w, uint8_t largest)
{
    return w->scale_values[largest] * (6.0f / (float)NB_A8_MOST);
}

#endif
