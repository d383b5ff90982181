/* A linear of nothing: no rows of x, or no rows of W. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_empty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
