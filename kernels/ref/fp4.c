/*
 * Quantisers. They run once per file, so there is one version, parallel over rows; the element
 * conversions are written for exactness, not for speed.
 */
#include "kernels/fp4.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const float MAGNITUDES[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

float nb_f32_from_e2m1(unsigned code)
{
    float magnitude = MAGNITUDES[code & 7];
    return code & 8 ? -magnitude : magnitude;
}

/* The largest magnitude code whose lower bound is below `a`. On a bound the even code wins:
 * bounds below an even code belong to it, those below an odd one do not. */
static unsigned magnitude_code(float a)
{
    static const float bounds[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    unsigned code = 0;
    for (unsigned i = 0; i < 7; i++)
        if (a > bounds[i] || (a == bounds[i] && (i & 1))) code = i + 1;
    return code;
}

unsigned nb_e2m1_from_f32(float value)
{
    if (isnan(value)) return 7;
    return (signbit(value) ? 8u : 0u) | magnitude_code(fabsf(value));
}

/* ---- the largest magnitude ---- */

struct amax_task {
    const nb_weight *w;
    float *rows; /* [n] */
    float *scratch;
};

static void amax_row(void *arg, int64_t row, int thread)
{
    struct amax_task *t = arg;
    float *values = t->scratch + thread * t->w->k, amax = 0;
    nb_weight_decode_ref(t->w, row, 0, t->w->k, values);
    for (int64_t i = 0; i < t->w->k; i++)
        if (!(fabsf(values[i]) <= amax)) amax = isfinite(values[i]) ? fabsf(values[i]) : NAN;
    t->rows[row] = amax;
}

float nb_weight_amax(nb_stream *s, const nb_weight *w)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    float amax = 0;
    struct amax_task t = {
        .w = w,
        .rows = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, &w->n)),
        .scratch =
            nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(s->threads, w->k))),
    };
    nb_parallel(s, w->n, amax_row, &t);
    for (int64_t i = 0; i < w->n && s->status == NB_OK; i++)
        if (!(t.rows[i] <= amax)) amax = t.rows[i];
    nb_arena_rewind(s->arena, mark);
    return amax;
}

/* ---- NVFP4 ---- */

/* What a block is quantised with. `tensor` is the stored tensor scale. */
struct nvfp4 {
    nb_fp4_options options;
    float tensor;
};

/* The stored tensor scale for a largest magnitude; finite and never 0 (an all-zero tensor). */
static float tensor_scale(const nb_fp4_options *o, float amax)
{
    float norm = o->method == NB_FP4_FOUR_OVER_SIX ? 6.0f * 256.0f : 6.0f * 448.0f;
    if (o->rule == NB_FP4_COMPRESSED_TENSORS) {
        float g = 1.0f / fmaxf(amax, 0x1p-126f) * norm;
        return isfinite(g) ? g : 1.0f;
    }
    return amax > 0 ? amax / norm : 1.0f;
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
        if (a == 0) return nb_e4m3_from_f32(1.0f);
        return nb_e4m3_from_f32(fminf(fmaxf(a / (6.0f * q->tensor), 0x1p-9f), 448.0f));
    }
}

/* What a stored scale multiplies codes by. */
static float step_of(const struct nvfp4 *q, uint8_t scale)
{
    float s = nb_f32_from_e4m3(scale);
    return q->options.rule == NB_FP4_COMPRESSED_TENSORS ? s / q->tensor : s * q->tensor;
}

static unsigned code_of(const struct nvfp4 *q, float w, float step)
{
    if (q->options.rule == NB_FP4_COMFY && step == 0) return 0;
    if (q->options.rule != NB_FP4_COMFY && w == 0) return 0;
    return nb_e2m1_from_f32(w / step);
}

static double block_error(const struct nvfp4 *q, const float *w, int64_t k0, uint8_t scale)
{
    float step = step_of(q, scale);
    double error = 0;
    for (int i = 0; i < NB_NVFP4_BLOCK; i++) {
        double d =
            (double)w[i] - (double)nb_f32_from_e2m1(code_of(q, w[i], step)) * (double)step;
        error += d * d * (q->options.importance ? (double)q->options.importance[k0 + i] : 1.0);
    }
    return error;
}

/* The better of `scale` and what was best so far. */
static void consider(const struct nvfp4 *q, const float *w, int64_t k0, uint8_t scale,
                     uint8_t *best, double *least)
{
    double error = block_error(q, w, k0, scale);
    if (error < *least) {
        *least = error;
        *best = scale;
    }
}

static uint8_t choose_scale(const struct nvfp4 *q, const float *w, int64_t k0)
{
    float a = 0;
    for (int i = 0; i < NB_NVFP4_BLOCK; i++) a = fmaxf(a, fabsf(w[i]));
    uint8_t best = block_scale(q, a);
    double least = INFINITY;
    if (a == 0 || q->options.method == NB_FP4_MAX) return best;
    consider(q, w, k0, best, &best, &least);
    if (q->options.method == NB_FP4_FOUR_OVER_SIX)
        consider(q, w, k0, block_scale(q, 1.5f * a), &best, &least);
    else
        for (unsigned code = 1; code <= 0x7e; code++)
            consider(q, w, k0, (uint8_t)code, &best, &least);
    return best;
}

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
    nb_weight_decode_ref(t->w, row, 0, t->w->k, values);
    return values;
}

static void nvfp4_row(void *arg, int64_t row, int thread)
{
    struct quantize_task *t = arg;
    const struct nvfp4 *q = &t->nvfp4;
    int64_t k = t->w->k;
    const float *values = decode_row(t, row, thread);
    uint8_t *codes = t->codes + row * k / 2;
    for (int64_t k0 = 0; k0 < k; k0 += NB_NVFP4_BLOCK) {
        uint8_t scale = choose_scale(q, values + k0, k0);
        float step = step_of(q, scale);
        t->scales[(row * k + k0) / NB_NVFP4_BLOCK] = scale;
        for (int64_t i = k0; i < k0 + NB_NVFP4_BLOCK; i += 2)
            codes[i / 2] =
                (uint8_t)(code_of(q, values[i], step) | code_of(q, values[i + 1], step) << 4);
    }
}

static float *row_scratch(nb_stream *s, const nb_weight *w)
{
    return nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(s->threads, w->k)));
}

void nb_quantize_nvfp4(nb_stream *s, const nb_weight *w, const nb_fp4_options *options,
                       uint8_t *codes, uint8_t *scales, float *stored_scale)
{
    assert(w->k % NB_NVFP4_BLOCK == 0);
    nb_arena_mark mark = nb_arena_save(s->arena);
    float amax = options->amax > 0 ? options->amax : nb_weight_amax(s, w);
    struct quantize_task t = {
        .w = w,
        .nvfp4 = {.options = *options, .tensor = tensor_scale(options, amax)},
        .codes = codes,
        .scales = scales,
        .scratch = row_scratch(s, w),
    };
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
        float ratio = a / 6.0f, m = frexpf(ratio, &e); /* ratio = m 2^e, 0.5 <= m < 1 */
        if (m == 0.5f) e--;                            /* a power of two needs no rounding up */
    } else if (a > 0) {
        float m = frexpf(a, &e); /* 2m is in [1, 2) at exponent e - 1 */
        e = (2.0f * m >= 1.75f ? e : e - 1) - 2;
    }
    if (e < -127) e = -127;
    if (e > 127) e = 127;
    return (uint8_t)(e + 127);
}

/* Ties toward zero; zeros keep a sign bit of their own: modelopt's table look-up. */
static unsigned code_ties_to_zero(float value)
{
    float a = fabsf(value);
    unsigned code = magnitude_code(a);
    if (code && a == (MAGNITUDES[code] + MAGNITUDES[code - 1]) / 2) code--;
    return (value <= 0 ? 8u : 0u) | code;
}

static void mxfp4_row(void *arg, int64_t row, int thread)
{
    struct quantize_task *t = arg;
    int64_t k = t->w->k;
    const float *values = decode_row(t, row, thread);
    uint8_t *codes = t->codes + row * k / 2;
    for (int64_t k0 = 0; k0 < k; k0 += NB_MXFP4_BLOCK) {
        float a = 0;
        for (int64_t i = k0; i < k0 + NB_MXFP4_BLOCK; i++) a = fmaxf(a, fabsf(values[i]));
        uint8_t scale = power_scale(t->rule, a);
        float step = nb_f32_from_e8m0(scale);
        t->scales[(row * k + k0) / NB_MXFP4_BLOCK] = scale;
        for (int64_t i = k0; i < k0 + NB_MXFP4_BLOCK; i += 2) {
            unsigned pair[2];
            for (int j = 0; j < 2; j++)
                pair[j] = t->rule == NB_FP4_MODELOPT ? code_ties_to_zero(values[i + j] / step)
                                                     : nb_e2m1_from_f32(values[i + j] / step);
            codes[i / 2] = (uint8_t)(pair[0] | pair[1] << 4);
        }
    }
}

void nb_quantize_mxfp4(nb_stream *s, const nb_weight *w, nb_fp4_rule rule, uint8_t *codes,
                       uint8_t *scales)
{
    assert(w->k % NB_MXFP4_BLOCK == 0);
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct quantize_task t = {
        .w = w, .rule = rule, .codes = codes, .scales = scales, .scratch = row_scratch(s, w)};
    nb_parallel(s, w->n, mxfp4_row, &t);
    nb_arena_rewind(s->arena, mark);
}
