/* FP4: element rounding against brute force, and what each method of choosing scales costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/base/cpu.h"
#include "kernels/base/rng.h"
#include "kernels/fp4.h"
#include "tests/unit/stream.h"

enum { ROWS = 256, K = 4096 };

/* Nearest by distance; of two equally near ones the even code. */
static unsigned nearest(double value)
{
    unsigned best = 0;
    for (unsigned code = 1; code < 8; code++) {
        double now = fabs(fabs(value) - (double)nb_f32_from_e2m1(code));
        double before = fabs(fabs(value) - (double)nb_f32_from_e2m1(best));
        if (now < before || (now == before && code % 2 == 0)) best = code;
    }
    return best | (signbit(value) ? 8u : 0u);
}

static void test_rounding(void **state)
{
    (void)state;
    for (int i = -8000; i <= 8000; i++) {
        float value = (float)i / 1000.0f;
        assert_int_equal(nb_e2m1_from_f32(value), nearest((double)value));
    }
    for (int i = -64; i <= 64; i++) /* every tie */
        assert_int_equal(nb_e2m1_from_f32((float)i / 8.0f), nearest(i / 8.0));
    assert_int_equal(nb_e2m1_from_f32(-0.0f), 8);
    assert_int_equal(nb_e2m1_from_f32(-0.1f), 8);
    assert_int_equal(nb_e2m1_from_f32(1e9f), 7);
    assert_int_equal(nb_e2m1_from_f32(-INFINITY), 15);
    assert_int_equal(nb_e2m1_from_f32(NAN), 7);
}

static double uniform(nb_mt19937 *g)
{
    return (nb_mt19937_next(g) + 0.5) / 4294967296.0;
}

static double gaussian(nb_mt19937 *g)
{
    return sqrt(-2 * log(uniform(g))) * cos(6.283185307179586 * uniform(g));
}

/* Student's t with 5 degrees of freedom: heavy tails. */
static double student5(nb_mt19937 *g)
{
    double sum = 0;
    for (int i = 0; i < 5; i++) {
        double x = gaussian(g);
        sum += x * x;
    }
    return gaussian(g) / sqrt(sum / 5);
}

static float *samples(double (*draw)(nb_mt19937 *))
{
    float *values = malloc(sizeof(float) * ROWS * K);
    nb_mt19937 g;
    nb_mt19937_init(&g, 1);
    for (int64_t i = 0; values && i < ROWS * K; i++) values[i] = (float)draw(&g);
    assert_non_null(values);
    return values;
}

/* Signal over error in decibels after quantising with a method and expanding again. */
static double sqnr(const float *values, nb_fp4_rule rule, nb_fp4_method method)
{
    nb_weight w = {
        .data = values, .dtype = NB_DTYPE_F32, .n = ROWS, .k = K, .scale = 1, .device = device};
    nb_fp4_options options = {.rule = rule, .method = method};
    uint8_t *codes = malloc(ROWS * K / 2), *scales = malloc(ROWS * K / NB_NVFP4_BLOCK);
    float tensor_scale;
    double signal = 0, error = 0;
    assert_true(codes && scales);
    nb_quantize_nvfp4(stream, &w, &options, codes, scales, &tensor_scale);
    assert_int_equal(nb_stream_sync(stream), NB_OK);
    if (rule == NB_FP4_COMPRESSED_TENSORS) tensor_scale = 1 / tensor_scale;
    for (int64_t i = 0; i < ROWS * K; i++) {
        unsigned code = i % 2 ? codes[i / 2] >> 4 : codes[i / 2] & 15;
        float scale = nb_f32_from_e4m3(scales[i / NB_NVFP4_BLOCK]) * tensor_scale;
        double v = (double)values[i], d = v - (double)(nb_f32_from_e2m1(code) * scale);
        signal += v * v;
        error += d * d;
    }
    free(codes);
    free(scales);
    return 10 * log10(signal / error);
}

/* The figures of a separate study of a million samples, in decibels. */
static void test_methods(void **state)
{
    static const struct {
        const char *data;
        double (*draw)(nb_mt19937 *);
        double max, four_over_six, sweep;
    } cases[] = {{"Gaussian", gaussian, 20.44, 21.21, 21.81},
                 {"Student t(5)", student5, 20.69, 21.24, 21.72}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float *values = samples(cases[i].draw);
        double max = sqnr(values, NB_FP4_MODELOPT, NB_FP4_MAX);
        double four = sqnr(values, NB_FP4_MODELOPT, NB_FP4_FOUR_OVER_SIX);
        double sweep = sqnr(values, NB_FP4_MODELOPT, NB_FP4_SWEEP);
        printf("%s: max %.2f dB, four-over-six %.2f, sweep %.2f\n", cases[i].data, max, four,
               sweep);
        assert_true(fabs(max - cases[i].max) < 0.1);
        assert_true(fabs(four - cases[i].four_over_six) < 0.1);
        assert_true(fabs(sweep - cases[i].sweep) < 0.1);
        assert_true(fabs(sqnr(values, NB_FP4_COMFY, NB_FP4_MAX) - max) < 0.02);
        assert_true(fabs(sqnr(values, NB_FP4_COMPRESSED_TENSORS, NB_FP4_MAX) - max) < 0.02);
        free(values);
    }
}

/* ---- the sweep leaves out scales that cannot be best ---- */

enum { SWEEP_ROWS = 64, SWEEP_K = 1024, N_SCALES = 126 };

/* Every kind of block: Gaussian and heavy tails over many magnitudes, few values, one value. */
static void draw_block(nb_mt19937 *g, float *w)
{
    double size = exp2(-20 * uniform(g)), level = uniform(g);
    int kind = (int)(nb_mt19937_next(g) % 6);
    for (int i = 0; i < NB_NVFP4_BLOCK; i++) {
        double x = kind < 2 ? gaussian(g) : kind == 2 ? student5(g) : uniform(g) - 0.5;
        if (kind == 3) x = nb_mt19937_next(g) % 4 ? 0 : x;
        if (kind == 4) x = x < 0 ? -level : 1;
        if (kind == 5) x = i == 3 ? x : 0;
        w[i] = (float)(x * size);
    }
}

/* The squared error of a block at a scale, in the tensor's units. */
static double full_error(const float *w, const float *weight, double scale, double unit)
{
    double error = 0;
    for (int i = 0; i < NB_NVFP4_BLOCK; i++) {
        double u = (double)w[i] / unit, least = INFINITY;
        for (unsigned code = 0; code < 8; code++) {
            double d = fabs(u) - (double)nb_f32_from_e2m1(code) * scale;
            least = fmin(least, d * d);
        }
        error += least * (weight ? (double)weight[i] : 1.0);
    }
    return error;
}

/* Is the scale that was chosen the first of those with the least error? Where two errors are
 * equal but for F32's rounding, either will do. */
static void check_choice(const float *w, const float *weight, uint8_t chosen, double unit)
{
    double errors[N_SCALES + 1], least = INFINITY, most = 0;
    for (unsigned code = 1; code <= N_SCALES; code++) {
        errors[code] = full_error(w, weight, (double)nb_f32_from_e4m3((uint8_t)code), unit);
        least = fmin(least, errors[code]);
    }
    for (int i = 0; i < NB_NVFP4_BLOCK; i++) most = fmax(most, fabs((double)w[i] / unit));
    if (most == 0) return;
    if (errors[chosen] > least * (1 + 2e-6) + 1e-11 * most * most)
        fail_msg("scale %d has error %g, the least is %g", chosen, errors[chosen], least);
}

static void check_sweep(const float *values, const float *importance, nb_fp4_rule rule)
{
    nb_weight w = {.data = values,
                   .dtype = NB_DTYPE_F32,
                   .n = SWEEP_ROWS,
                   .k = SWEEP_K,
                   .scale = 1,
                   .device = device};
    nb_fp4_options options = {.rule = rule, .method = NB_FP4_SWEEP, .importance = importance};
    static uint8_t codes[SWEEP_ROWS * SWEEP_K / 2], scales[SWEEP_ROWS * SWEEP_K / 16];
    float tensor_scale;
    nb_quantize_nvfp4(stream, &w, &options, codes, scales, &tensor_scale);
    assert_int_equal(nb_stream_sync(stream), NB_OK);
    double unit = (double)tensor_scale;
    if (rule == NB_FP4_COMPRESSED_TENSORS) unit = 1 / unit;
    for (int i = 0; i < SWEEP_ROWS * SWEEP_K; i += NB_NVFP4_BLOCK)
        check_choice(values + i, importance ? importance + i % SWEEP_K : NULL,
                     scales[i / NB_NVFP4_BLOCK], unit);
}

static void test_sweep(void **state)
{
    static float values[SWEEP_ROWS * SWEEP_K], importance[SWEEP_K];
    nb_mt19937 g;
    (void)state;
    nb_mt19937_init(&g, 2);
    for (int i = 0; i < SWEEP_K; i++)
        importance[i] = nb_mt19937_next(&g) % 8 ? (float)exp2(6 * gaussian(&g)) : 0.0f;
    for (int i = 0; i < SWEEP_ROWS * SWEEP_K; i += NB_NVFP4_BLOCK) draw_block(&g, values + i);
    for (nb_fp4_rule rule = 0; rule < NB_FP4_RULE_COUNT; rule++) {
        check_sweep(values, NULL, rule);
        check_sweep(values, importance, rule);
    }
}

/* The same bytes for any number of threads, and a NaN is told. */
static void test_threads_and_nan(void **state)
{
    enum { N = 7, WIDE = 64 };
    float values[N * WIDE];
    uint8_t codes[2][N * WIDE / 2], scales[2][N * WIDE / 16];
    float tensor_scale[2];
    nb_mt19937 g;
    nb_weight w = {
        .data = values, .dtype = NB_DTYPE_F32, .n = N, .k = WIDE, .scale = 1, .device = device};
    nb_fp4_options options = {.method = NB_FP4_SWEEP};
    (void)state;
    nb_mt19937_init(&g, 3);
    for (int i = 0; i < N * WIDE; i++) values[i] = (float)gaussian(&g);
    for (int i = 0; i < 2; i++) {
        stream->threads = i ? 7 : 1;
        nb_quantize_nvfp4(stream, &w, &options, codes[i], scales[i], &tensor_scale[i]);
    }
    stream->threads = 2;
    assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
    assert_memory_equal(scales[0], scales[1], sizeof scales[0]);
    assert_true(tensor_scale[0] == tensor_scale[1]);
    values[100] = -INFINITY;
    assert_true(isnan(nb_weight_amax(stream, &w)));
    values[100] = NAN;
    assert_true(isnan(nb_weight_amax(stream, &w)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding), cmocka_unit_test(test_methods),
        cmocka_unit_test(test_sweep), cmocka_unit_test(test_threads_and_nan)};
    return cmocka_run_group_tests(tests, open_all, close_all);
}
