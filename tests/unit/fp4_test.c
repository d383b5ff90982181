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

enum { ROWS = 256, K = 4096 };

static nb_device *device;
static nb_stream *stream;

static int open_all(void **state)
{
    (void)state;
    return nb_device_open_cpu(nb_cpu_caps(), &device) ||
           nb_stream_create(device, NB_COMPUTE_F32, 2, NULL, &stream);
}

static int close_all(void **state)
{
    (void)state;
    nb_stream_destroy(stream);
    nb_device_close(device);
    return 0;
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounding),
                                       cmocka_unit_test(test_methods)};
    return cmocka_run_group_tests(tests, open_all, close_all);
}
