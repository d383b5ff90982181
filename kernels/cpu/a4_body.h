/* nb_a4_round for any instruction set: loops of 16 elements that become vectors. Elements are
 * rounded by adding and subtracting a power of two at which an F32 has the step wanted; every
 * operation rounds as IEEE says, so the values are those of the reference. */
#include <float.h>
#include <math.h>

#include "kernels/a4.h"
#include "kernels/base/dtype.h"

enum { MANTISSA_BITS = 23, EXPONENT = 0x7f800000, MAGNITUDE = 0x7fffffff };

static inline int32_t bits_of(float x)
{
    return (int32_t)nb_f32_bits(x);
}

static inline float f32_of(int32_t bits)
{
    return nb_f32_from_bits((uint32_t)bits);
}

/* x >= 0 rounded to steps of 2^-steps of the power of two below it, of `least` below that. */
static inline float round_to(float x, int steps, float least)
{
    int32_t bits = bits_of(x), floor = bits_of(least);
    float r = f32_of(((bits > floor ? bits : floor) & EXPONENT) +
                     ((MANTISSA_BITS - steps) << MANTISSA_BITS));
    return x + r - r;
}

static inline int32_t largest_of(const float *x, int64_t n)
{
    int32_t most[NB_A4_BLOCK] = {0}, largest = 0;
    for (int64_t i = 0; i < n; i += NB_A4_BLOCK)
        for (int j = 0; j < NB_A4_BLOCK; j++) {
            int32_t bits = bits_of(x[i + j]) & MAGNITUDE;
            most[j] = bits > most[j] ? bits : most[j];
        }
    for (int j = 0; j < NB_A4_BLOCK; j++) largest = most[j] > largest ? most[j] : largest;
    return largest;
}

static inline void round_block(float *out, const float *x, float t)
{
    const float six = 6.0f;
    float a = f32_of(largest_of(x, NB_A4_BLOCK));
    float scale = a / (6.0f * t);
    scale = scale > 0x1p-9f ? scale : 0x1p-9f;
    scale = scale < 448.0f ? scale : 448.0f;
    float step = round_to(scale, 3, 0x1p-6f) * t, keep = a <= FLT_MAX ? step : NAN;
    for (int i = 0; i < NB_A4_BLOCK; i++) {
        float q = x[i] / step;
        int32_t sign = bits_of(q) & ~MAGNITUDE, magnitude = bits_of(q) & MAGNITUDE;
        magnitude = magnitude < bits_of(six) ? magnitude : bits_of(six);
        float rounded = round_to(f32_of(magnitude), 1, 1.0f);
        out[i] = f32_of(bits_of(rounded) | sign) * keep;
    }
}

static void round_row(float *out, const float *x, int64_t k, float input_scale)
{
    float largest = f32_of(largest_of(x, k));
    float t = input_scale > 0.0f ? input_scale : largest / 2688.0f;
    if (input_scale == 0.0f && largest < NB_A4_SMALLEST) {
        for (int64_t i = 0; i < k; i++) out[i] = 0.0f;
        return;
    }
    for (int64_t i = 0; i < k; i += NB_A4_BLOCK) round_block(out + i, x + i, t);
}
