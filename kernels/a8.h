/*
 * Linears of 8-bit integers (NB_COMPUTE_A8), as every variant computes them, to the bit up to
 * the epilogue.
 *
 * Rows of x (after its column scales) and of W are cut into groups of 512 columns and these
 * into blocks of 16, the last ones shorter. Where a is a block's largest magnitude,
 *
 *     e = max(floor(log2(a)), -100) - 6    a / 2^e is less than 128, as a rule 64 or more
 *     e = max(e, E)                        where E = the largest e of the group - 4
 *     q = round(x / 2^e)                   to nearest even, at most 127 in magnitude
 *     s = e - E                            0 ... 4
 *
 * so that x ~ q * 2^s * 2^E, where q and s are small integers and only 2^E is a float: sums
 * within a group are integers and shifts, exact in any order,
 *
 *     t = sum over blocks ((sum of q of x * q of W) << (s of x + s of W))     below 2^31
 *     c = fma(float(t) * 2^(E of x), scale of W's group, c)                   over the groups
 *
 * and all that is F32 happens once in 512 columns. A group with a NaN or an infinity has a NaN
 * for its scale, so that whatever it is part of becomes NaN.
 *
 * W is rounded when it is decoded, from any type; the scale of a group is 2^E. FP4, whose
 * blocks of 16 or 32 columns have scales themselves, is not looked at for its largest
 * magnitude: a = 6 * |block scale|. Then q depends on the code and on the three bits of an
 * E4M3's mantissa alone, unless a block's e is less than E, and is the exact product but for
 * halves. What scales the whole matrix multiplies 2^E. MXFP4's scales below 2^-100 count as 0.
 *
 * A low-rank branch follows W in the same sums: x downᵀ as at NB_COMPUTE_BF16, rounded like x,
 * times `up`, rounded like W.
 *
 * Error, measured against the exact product with the same NVFP4 weights, K = 3072, x and W both
 * of the distribution (tests/unit/a8_test.c holds the bounds): normal 41 dB, Student's t with
 * 5 degrees of freedom 40 dB, 1.6 % of x twenty times as large 38 dB. NVFP4 itself keeps 20 dB.
 */
#ifndef NB_KERNELS_A8_H
#define NB_KERNELS_A8_H

#include <math.h>

#include "kernels/weight.h"

enum {
    NB_A8_BLOCK = 16,  /* columns that share a shift */
    NB_A8_GROUP = 512, /* columns that share a scale */
    NB_A8_GROUP_BLOCKS = NB_A8_GROUP / NB_A8_BLOCK,
    NB_A8_MOST_SHIFT = 4,
    NB_A8_MOST = 127,
    NB_A8_LEAST_FIELD = 27, /* the exponent's field of 2^-100 */
    NB_A8_NAN_FIELD = 255,
    NB_A8_NVFP4_BIAS = 16, /* of nb_a8_fp4_exponent() */
    NB_A8_MXFP4_BIAS = 131,
};

/* 2^n for n = -126 ... 127. */
static inline float nb_a8_power(int n)
{
    return nb_f32_from_bits((uint32_t)(n + 127) << 23);
}

/* Of floats: e + 133 for a largest magnitude with these bits; NB_A8_NAN_FIELD where it is not
 * finite. */
static inline int nb_a8_field(uint32_t bits)
{
    int field = (int)(bits >> 23);
    return field > NB_A8_LEAST_FIELD ? field : NB_A8_LEAST_FIELD;
}

/* 2^E of a group of floats with this largest field. */
static inline float nb_a8_scale(int field)
{
    return field == NB_A8_NAN_FIELD ? NAN : nb_a8_power(field - 133 - NB_A8_MOST_SHIFT);
}

/* Of a scale byte: e plus the bias of its kind, 0 for a scale that counts as 0 (its codes are
 * multiplied by any power of two: the result is 0), NB_A8_NAN_FIELD for a NaN. */
uint8_t nb_a8_fp4_exponent(nb_scale_kind kind, uint8_t code);

/* The scale of a group of FP4 whose largest nb_a8_fp4_exponent() is this, a number's: the
 * matrix's scale times the power of two with this field. */
static inline float nb_a8_fp4_one(const nb_weight *w)
{
    return w->scale_values[w->scale_kind == NB_SCALE_MXFP4 ? 127 : 0x38];
}

static inline int nb_a8_fp4_field(const nb_weight *w, int exponent)
{
    int is_mx = w->scale_kind == NB_SCALE_MXFP4;
    return exponent - (is_mx ? NB_A8_MXFP4_BIAS : NB_A8_NVFP4_BIAS) - NB_A8_MOST_SHIFT + 127;
}

static inline float nb_a8_fp4_scale(const nb_weight *w, int exponent)
{
    if (exponent == 0) return 0.0f;
    if (exponent == NB_A8_NAN_FIELD) return NAN;
    return nb_a8_fp4_one(w) * nb_f32_from_bits((uint32_t)nb_a8_fp4_field(w, exponent) << 23);
}

/* A group of `count` floats, or columns k0 ... k0+count of a row of FP4, count at most
 * NB_A8_GROUP, as integers q [count] with shifts [ceil(count / 16)]; returns the group's scale.
 * The specification of every faster one. */
float nb_a8_round_ref(const float *x, int64_t count, int8_t *q, uint8_t *shifts);
float nb_a8_round_fp4_ref(const nb_weight *w, int64_t row, int64_t k0, int64_t count, int8_t *q,
                          uint8_t *shifts);

#endif
