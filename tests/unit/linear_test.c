/* A linear of nothing: no rows of x, or no rows of W. And of the same rows, few or many at
 * once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

enum { K = 64, N = 3, UNTOUCHED = 7 };

static void run_empty(unsigned caps, nb_compute compute, int64_t m, int64_t n)
{
    static float x[K], w_data[N * K], y[N] = {UNTOUCHED, UNTOUCHED, UNTOUCHED};
    nb_weight w = {.data = w_data, .dtype = NB_DTYPE_F32, .n = n, .k = K, .scale = 1};
    nb_device *device;
    nb_stream *s;
    assert_int_equal(nb_device_open_cpu(caps, &device), NB_OK);
    assert_int_equal(nb_stream_create(device, compute, 2, NULL, &s), NB_OK);
    nb_linear_args a = {.w = &w};
    a.x = nb_tensor_view(device, x, NB_DTYPE_F32, 2, NB_SHAPE(m, K));
    a.y = nb_tensor_view(device, y, NB_DTYPE_F32, 2, NB_SHAPE(m, n));
    nb_linear(s, &a);
    assert_int_equal(nb_stream_sync(s), NB_OK);
    for (int i = 0; i < N; i++) assert_true(y[i] == UNTOUCHED);
    nb_stream_destroy(s);
    nb_device_close(device);
}

static void test_empty(void **state)
{
    (void)state;
    unsigned mask = 0;
    for (int cap = -1; cap < NB_CPU_N_CAPS; cap++) {
        if (cap >= 0) mask |= 1u << cap;
        for (int compute = NB_COMPUTE_F32; compute <= NB_COMPUTE_BF16; compute++) {
            run_empty(mask & nb_cpu_caps(), (nb_compute)compute, 0, N);
            run_empty(mask & nb_cpu_caps(), (nb_compute)compute, 1, 0);
        }
    }
}

/* ---- a row's result does not depend on the rows beside it ---- */

enum { ROWS = 12, OUT = 21, LONG_K = 1120, MOST_FEW = 8 };

static const struct weight_case {
    nb_dtype dtype;
    nb_scale_kind scale_kind;
    int high_first;
    uint8_t and_even, or_even, and_odd, or_odd; /* of random bytes: finite numbers near 1 */
} weight_cases[] = {
    {NB_DTYPE_F32, NB_SCALE_NONE, 0, 0xff, 0, 0xbf, 0x30},
    {NB_DTYPE_F32, NB_SCALE_ROW, 0, 0xff, 0, 0xbf, 0x30},
    {NB_DTYPE_F16, NB_SCALE_NONE, 0, 0xff, 0, 0xbb, 0x38},
    {NB_DTYPE_F16, NB_SCALE_ROW, 0, 0xff, 0, 0xbb, 0x38},
    {NB_DTYPE_BF16, NB_SCALE_NONE, 0, 0xff, 0, 0xbf, 0x3f},
    {NB_DTYPE_BF16, NB_SCALE_ROW, 0, 0xff, 0, 0xbf, 0x3f},
    {NB_DTYPE_F8_E4M3, NB_SCALE_NONE, 0, 0xbf, 0, 0xbf, 0},
    {NB_DTYPE_F8_E4M3, NB_SCALE_ROW, 0, 0xbf, 0, 0xbf, 0},
    {NB_DTYPE_F8_E4M3, NB_SCALE_BLOCK128, 0, 0xbf, 0, 0xbf, 0},
    {NB_DTYPE_F8_E5M2, NB_SCALE_NONE, 0, 0xbf, 0, 0xbf, 0},
    {NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, 0, 0xff, 0, 0xff, 0},
    {NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, 1, 0xff, 0, 0xff, 0},
    {NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, 0, 0xff, 0, 0xff, 0},
    {NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, 1, 0xff, 0, 0xff, 0},
    {NB_DTYPE_Q8_0, NB_SCALE_NONE, 0, 0x37, 0x30, 0x37, 0x30},
};

static uint8_t next_byte(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (uint8_t)(*state >> 24);
}

/* W in the caller's memory, and x. */
static nb_weight make_weight(const struct weight_case *c, uint8_t *data, uint8_t *codes,
                             float *scales, float *values)
{
    uint32_t state = 1;
    nb_weight w = {.data = data,
                   .dtype = c->dtype,
                   .n = OUT,
                   .k = LONG_K,
                   .scale_kind = c->scale_kind,
                   .scale = 1,
                   .scale_values = values,
                   .high_first = c->high_first};
    for (int i = 0; i < OUT * LONG_K * 4; i++) {
        uint8_t byte = next_byte(&state);
        data[i] = i % 2 ? (byte & c->and_odd) | c->or_odd : (byte & c->and_even) | c->or_even;
    }
    for (int i = 0; i < OUT; i++) scales[i] = 0.25f + (float)i * 0.0703125f;
    for (int i = 0; i < OUT * LONG_K / 16; i++) codes[i] = 0x70 + next_byte(&state) % 14;
    w.scales = c->dtype == NB_DTYPE_F4_E2M1X2 ? (void *)codes : (void *)scales;
    if (c->dtype == NB_DTYPE_F4_E2M1X2) nb_weight_scale_values(c->scale_kind, 0.37f, 0, values);
    return w;
}

static void run_rows(nb_stream *s, const nb_weight *w, const float *x, int64_t rows, float *y)
{
    nb_linear_args a = {.w = w};
    a.x = nb_tensor_view(s->device, (void *)(uintptr_t)x, NB_DTYPE_F32, 2,
                         NB_SHAPE(rows, LONG_K));
    a.y = nb_tensor_view(s->device, y, NB_DTYPE_F32, 2, NB_SHAPE(rows, OUT));
    nb_linear(s, &a);
}

static void check_rows(unsigned caps, nb_compute compute, const nb_weight *w, const float *x)
{
    static float all[ROWS * OUT], few[ROWS * OUT];
    nb_device *device;
    nb_stream *s;
    assert_int_equal(nb_device_open_cpu(caps, &device), NB_OK);
    assert_int_equal(nb_stream_create(device, compute, 2, NULL, &s), NB_OK);
    run_rows(s, w, x, ROWS, all);
    for (int rows = 1; rows <= MOST_FEW; rows++) {
        for (int row = 0; row < ROWS; row += rows)
            run_rows(s, w, x + row * LONG_K, row + rows < ROWS ? rows : ROWS - row,
                     few + row * OUT);
        assert_int_equal(nb_stream_sync(s), NB_OK);
        assert_memory_equal(few, all, sizeof all);
    }
    nb_stream_destroy(s);
    nb_device_close(device);
}

static void test_few_rows(void **state)
{
    static uint8_t data[OUT * LONG_K * 4], codes[OUT * LONG_K / 16];
    static float x[ROWS * LONG_K], scales[OUT], values[NB_SCALE_CODES];
    uint32_t seed = 2;
    (void)state;
    for (int i = 0; i < ROWS * LONG_K; i++) x[i] = (float)next_byte(&seed) / 127.0f - 1.0f;
    for (size_t i = 0; i < sizeof weight_cases / sizeof weight_cases[0]; i++) {
        nb_weight w = make_weight(&weight_cases[i], data, codes, scales, values);
        unsigned mask = 0;
        for (int cap = -1; cap < NB_CPU_N_CAPS; cap++) {
            if (cap >= 0) mask |= 1u << cap;
            check_rows(mask & nb_cpu_caps(), NB_COMPUTE_F32, &w, x);
            check_rows(mask & nb_cpu_caps(), NB_COMPUTE_BF16, &w, x);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_empty),
                                       cmocka_unit_test(test_few_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
