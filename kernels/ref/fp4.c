/*
 * Quantisers. They run once per file, so there is one version, parallel over rows. Elements are
 * rounded by adding and subtracting a power of two at which an F32 has the step wanted: no
 * tables, no branches, so that loops over a block become vectors; every operation rounds as
 * IEEE says, so the bytes are the same for any vectors.
 */
#include "kernels/fp4.h"

#include <assert.h>
#include <math.h>

#include "kernels/ref/quantize_rows.h"

enum { BLOCK = NB_NVFP4_BLOCK, N_E4M3 = 0x7f };

/* ---- elements ---- */

float nb_f32_from_e2m1(unsigned code)
{
    static const float magnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float magnitude = magnitudes[code & 7];
    return code & 8 ? -magnitude : magnitude;
}

/* Magnitudes are handled as the bits of an F32, which order as the values do, NaN last:
 * comparing integers keeps loops free of branches. */
enum { ONE = 0x3f800000, SIX = 0x40c00000, EXPONENT = 0x7f800000, MANTISSA_BITS = 23 };

static inline int32_t magnitude_bits(float value)
{
    return (int32_t)nb_magnitude_bits(value);
}

static inline float f32_of(int32_t bits)
{
    return nb_f32_from_bits((uint32_t)bits);
}

/* 6 where it is more, and for NaN. */
static inline int32_t saturate(int32_t magnitude)
{
    return magnitude > SIX ? SIX : magnitude;
}

/* E2M1 steps by 0.5 below 2, by 1 below 4, by 2 above, and an F32 does so at 2^22 times the
 * power of two below the magnitude (below 1: of 1). */
static inline int32_t rounder(int32_t magnitude)
{
    return ((magnitude > ONE ? magnitude : ONE) & EXPONENT) + (22 << MANTISSA_BITS);
}

/* Of a saturated magnitude. The sum's last bits count the steps; a binade up there are two
 * codes more for the same count. */
static inline uint32_t magnitude_code(int32_t magnitude)
{
    int32_t r = rounder(magnitude);
    uint32_t steps = nb_f32_bits(f32_of(magnitude) + f32_of(r)) - (uint32_t)r;
    return steps + (uint32_t)(r >> (MANTISSA_BITS - 1)) - 2 * (127 + 22);
}

/* The value of that code. */
static inline float round_magnitude(int32_t magnitude)
{
    float r = f32_of(rounder(magnitude));
    return f32_of(magnitude) + r - r;
}

unsigned nb_e2m1_from_f32(float value)
{
    if (isnan(value)) return 7;
    return (signbit(value) ? 8u : 0u) | magnitude_code(saturate(magnitude_bits(value)));
}

static void pack(const uint32_t *codes, int n, uint8_t *out)
{
    for (int i = 0; i < n / 2; i++) out[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
}

/* ---- NVFP4 ---- */

/* What the blocks of a tensor are quantised with. `tensor` is the stored tensor scale. */
struct nvfp4 {
    nb_fp4_options options;
    float tensor;
    float e4m3[N_E4M3]; /* the scales to choose from, by code */
};

/* The stored tensor scale for a largest magnitude: finite and never 0, also of an all-zero
 * tensor, where two of the libraries write NaN. */
static float tensor_scale(const nb_fp4_options *o, float amax)
{
    float norm = o->method == NB_FP4_FOUR_OVER_SIX ? 6.0f * 256.0f : 6.0f * 448.0f;
    if (o->rule == NB_FP4_COMPRESSED_TENSORS) {
        float g = 1.0f / fmaxf(amax, 0x1p-126f) * norm;
        return isfinite(g) ? g : 1.0f;
    }
    return amax > 0 ? fmaxf(amax / norm, 0x1p-149f) : 1.0f;
}

float nb_nvfp4_tensor_scale(nb_fp4_rule rule, float amax)
{
    return tensor_scale(&(nb_fp4_options){.rule = rule, .method = NB_FP4_MAX}, amax);
}

/* E4M3 code of the scale that maps `a` to 6. */
static uint8_t block_scale(const struct nvfp4 *q, float a)
{
    float s;
    switch (q->options.rule) {
    case NB_FP4_COMPRESSED_TENSORS:
        s = fminf(q->tensor * (a / 6.0f), 448.0f);
        s = nb_f32_from_e4m3(nb_e4m3_from_f32(s));
        return nb_e4m3_from_f32(s == 0 ? 0.125f : s);
    case NB_FP4_COMFY:
        return nb_e4m3_from_f32(fminf(a / 6.0f / q->tensor, 448.0f));
    default:
        s = a / (6.0f * q->tensor);
        if (s == 0) return nb_e4m3_from_f32(1.0f);
        return nb_e4m3_from_f32(fminf(fmaxf(s, 0x1p-9f), 448.0f));
    }
}

/* What a stored scale multiplies codes by. */
static float step_of(const struct nvfp4 *q, uint8_t scale)
{
    float s = q->e4m3[scale];
    return q->options.rule == NB_FP4_COMPRESSED_TENSORS ? s / q->tensor : s * q->tensor;
}

/* Where a step underflows to 0, modelopt saturates (what it expands to is 0 all the same), and
 * comfy writes zeros. */
static void encode_by_zero(const struct nvfp4 *q, const float *w, uint8_t *out)
{
    uint32_t codes[BLOCK] = {0};
    for (int i = 0; i < BLOCK && q->options.rule != NB_FP4_COMFY; i++)
        codes[i] = w[i] < 0 ? 15 : 7;
    pack(codes, BLOCK, out);
}

/* modelopt and compressed-tensors drop the sign of a zero (not of what is rounded to zero),
 * comfy keeps it. */
static void encode_block(const struct nvfp4 *q, const float *w, float step, uint8_t *out)
{
    uint32_t codes[BLOCK];
    int32_t keeps_zero = q->options.rule == NB_FP4_COMFY;
    if (step == 0) {
        encode_by_zero(q, w, out);
        return;
    }
    for (int i = 0; i < BLOCK; i++) {
        float value = w[i] / step;
        int32_t magnitude = magnitude_bits(value);
        uint32_t sign = nb_f32_bits(value) >> 28 & 8, keeps = magnitude > 0 ? 8 : 0;
        codes[i] =
            (sign & (keeps | (uint32_t)keeps_zero << 3)) | magnitude_code(saturate(magnitude));
    }
    pack(codes, BLOCK, out);
}

/* --- the choice of a scale --- */

/* A block in units of the tensor scale, so that scales are plain E4M3 and squares neither
 * overflow nor underflow. */
struct block {
    float u[BLOCK];      /* magnitudes */
    float weight[BLOCK]; /* of each square */
    float most;          /* the largest of u */
    float most_weight;   /* its weight */
};

static struct block block_of(const struct nvfp4 *q, const float *w, int64_t k0)
{
    struct block b = {.most = 0};
    float unit = q->options.rule == NB_FP4_COMPRESSED_TENSORS ? 1.0f / q->tensor : q->tensor;
    for (int i = 0; i < BLOCK; i++) {
        b.u[i] = fabsf(w[i]) / unit;
        b.weight[i] = q->options.importance ? q->options.importance[k0 + i] : 1.0f;
    }
    b.most = nb_amax16(b.u);
    for (int i = 0; i < BLOCK; i++)
        if (b.u[i] == b.most) b.most_weight = b.weight[i];
    return b;
}

/* Weighted squared error at a scale. The order of the sum is fixed. */
static float block_error(const struct block *b, float scale)
{
    float e[BLOCK], reciprocal = 1.0f / scale;
    for (int i = 0; i < BLOCK; i++) {
        float d =
            b->u[i] - round_magnitude(saturate(magnitude_bits(b->u[i] * reciprocal))) * scale;
        e[i] = d * d * b->weight[i];
    }
    for (int i = 0; i < 8; i++) e[i] += e[i + 8];
    for (int i = 0; i < 4; i++) e[i] += e[i + 4];
    return e[0] + e[2] + (e[1] + e[3]);
}

/* The E4M3 scale with the least error; of equal ones `first`, then the smallest.
 *
 * Not all 126 need a try. From above: where all of a block is at most 7 s, scale 2 s is never
 * better than s, because what its grid has below 7 s that of s has too. So scales from
 * largest / 3.5 up are out, as long as their half is a scale (codes from 16). From below: the
 * largest is clipped by largest - 6 s, and when the square of that alone exceeds the least
 * error so far, all smaller scales are worse. */
static uint8_t sweep(const struct nvfp4 *q, const struct block *b, uint8_t first)
{
    uint8_t best = first, top = nb_e4m3_from_f32(b->most / 3.5f);
    float at_first = block_error(b, q->e4m3[first]), least = at_first;
    for (uint8_t code = top < 15 ? 15 : top; code > 0; code--) {
        float clipped = b->most - 6.0f * q->e4m3[code];
        if (clipped > 0 && clipped * clipped * b->most_weight > least) break;
        float error = block_error(b, q->e4m3[code]);
        if (error <= least) {
            least = error;
            best = code;
        }
    }
    return at_first <= least ? first : best;
}

static uint8_t choose_scale(const struct nvfp4 *q, const float *w, int64_t k0)
{
    float a = nb_amax16(w);
    uint8_t six = block_scale(q, a), four;
    if (a == 0 || q->options.method == NB_FP4_MAX) return six;
    struct block b = block_of(q, w, k0);
    if (q->options.method == NB_FP4_SWEEP) return sweep(q, &b, six);
    four = block_scale(q, 1.5f * a);
    return block_error(&b, q->e4m3[four]) < block_error(&b, q->e4m3[six]) ? four : six;
}

/* --- a tensor --- */

struct quantize_task {
    const nb_weight *w;
    struct nvfp4 nvfp4;
    nb_fp4_rule rule; /* MXFP4 */
    uint8_t *codes, *scales;
    float *scratch; /* [threads, k] */
};

static const float *decode_row(struct quantize_task *t, int64_t row, int thread)
{
    float *values = t->scratch + thread * t->w->k;
    nb_quantize_decode(t->w, row, 0, t->w->k, values);
    return values;
}

static void nvfp4_row(void *arg, int64_t row, int thread)
{
    struct quantize_task *t = arg;
    const struct nvfp4 *q = &t->nvfp4;
    int64_t k = t->w->k;
    const float *values = decode_row(t, row, thread);
    uint8_t *codes = t->codes + row * k / 2, *scales = t->scales + row * k / BLOCK;
    for (int64_t k0 = 0; k0 < k; k0 += BLOCK) {
        uint8_t scale = choose_scale(q, values + k0, k0);
        scales[k0 / BLOCK] = scale;
        encode_block(q, values + k0, step_of(q, scale), codes + k0 / 2);
    }
}

void nb_quantize_nvfp4(nb_stream *s, const nb_weight *w, const nb_fp4_options *options,
                       uint8_t *codes, uint8_t *scales, float *stored_scale)
{
    assert(w->k % BLOCK == 0);
    nb_arena_mark mark = nb_arena_save(s->arena);
    float amax = options->amax > 0 ? options->amax : nb_weight_amax(s, w);
    struct quantize_task t = {
        .w = w,
        .nvfp4 = {.options = *options, .tensor = tensor_scale(options, amax)},
        .codes = codes,
        .scales = scales,
        .scratch = nb_quantize_scratch(s, w),
    };
    for (int i = 0; i < N_E4M3; i++) t.nvfp4.e4m3[i] = nb_f32_from_e4m3((uint8_t)i);
    nb_parallel(s, w->n, nvfp4_row, &t);
    *stored_scale = t.nvfp4.tensor;
    nb_arena_rewind(s->arena, mark);
}

/* ---- MXFP4 ---- */

/* E8M0 code for a block whose largest magnitude is `a`. */
static uint8_t power_scale(nb_fp4_rule rule, float a)
{
    int e = -127;
    if (a > 0 && rule == NB_FP4_MODELOPT) {
        /* The logarithm is an F32 too: a little above a power of two it is that power's. */
        e = (int)ceilf((float)log2((double)(a / 6.0f)));
    } else if (a > 0) {
        float m = frexpf(a, &e); /* 2m is in [1, 2) at exponent e - 1 */
        e = (2.0f * m >= 1.75f ? e : e - 1) - 2;
    }
    if (e < -127) e = -127;
    if (e > 127) e = 127;
    return (uint8_t)(e + 127);
}

/* compressed-tensors: ties to even, zeros are code 0. modelopt: ties toward zero, where three
 * of them have the even code above; zeros are code 8. */
static inline uint32_t mx_code(nb_fp4_rule rule, float value)
{
    int32_t a = saturate(magnitude_bits(value)), is_modelopt = rule == NB_FP4_MODELOPT;
    uint32_t code = magnitude_code(a), sign = nb_f32_bits(value) >> 28 & 8;
    uint32_t down = a == 0x3f400000 || a == 0x3fe00000 || a == 0x40600000; /* .75, 1.75, 3.5 */
    uint32_t zero = a == 0;
    return is_modelopt ? (sign | zero << 3) | (code - down) : (sign & ~(zero << 3)) | code;
}

static void mxfp4_row(void *arg, int64_t row, int thread)
{
    struct quantize_task *t = arg;
    int64_t k = t->w->k;
    const float *values = decode_row(t, row, thread);
    uint8_t *codes = t->codes + row * k / 2, *scales = t->scales + row * k / NB_MXFP4_BLOCK;
    for (int64_t k0 = 0; k0 < k; k0 += NB_MXFP4_BLOCK) {
        const float *w = values + k0;
        uint32_t block[NB_MXFP4_BLOCK];
        uint8_t scale = power_scale(t->rule, fmaxf(nb_amax16(w), nb_amax16(w + 16)));
        float step = nb_f32_from_e8m0(scale);
        for (int i = 0; i < NB_MXFP4_BLOCK; i++) block[i] = mx_code(t->rule, w[i] / step);
        scales[k0 / NB_MXFP4_BLOCK] = scale;
        pack(block, NB_MXFP4_BLOCK, codes + k0 / 2);
    }
}

void nb_quantize_mxfp4(nb_stream *s, const nb_weight *w, nb_fp4_rule rule, uint8_t *codes,
                       uint8_t *scales)
{
    assert(w->k % NB_MXFP4_BLOCK == 0);
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct quantize_task t = {.w = w,
                              .rule = rule,
                              .codes = codes,
                              .scales = scales,
                              .scratch = nb_quantize_scratch(s, w)};
    nb_parallel(s, w->n, mxfp4_row, &t);
    nb_arena_rewind(s->arena, mark);
}
