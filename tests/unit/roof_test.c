/*
 * The roofs' loops: there where their instructions are, as much work as they say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "kernels/roof.h"

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_capabilities(void **state)
{
    (void)state;
    for (int i = 0; i < NB_ROOF_COUNT; i++) assert_null(nb_roof_find((nb_roof)i, 0));
#if defined(__x86_64__)
    assert_non_null(nb_roof_find(NB_ROOF_F32, NB_CPU_AVX2));
    assert_null(nb_roof_find(NB_ROOF_BF16, NB_CPU_AVX2 | NB_CPU_AVX512));
    assert_non_null(nb_roof_find(NB_ROOF_BF16, NB_CPU_AVX512_BF16));
    assert_null(nb_roof_find(NB_ROOF_INT8, NB_CPU_AVX2 | NB_CPU_AVX512));
    assert_non_null(nb_roof_find(NB_ROOF_INT8, NB_CPU_AVX512_VNNI));
    assert_ptr_not_equal(nb_roof_find(NB_ROOF_F32, NB_CPU_AVX2),
                         nb_roof_find(NB_ROOF_F32, NB_CPU_AVX2 | NB_CPU_AVX512));
#endif
}

static void test_policies(void **state)
{
    (void)state;
    for (int c = 0; c < NB_COMPUTE_COUNT; c++)
        assert_int_equal(nb_roof_of_compute((nb_compute)c, 0), NB_ROOF_F32);
#if defined(__x86_64__)
    unsigned all = NB_CPU_AVX2 | NB_CPU_AVX512 | NB_CPU_AVX512_VNNI | NB_CPU_AVX512_BF16;
    assert_int_equal(nb_roof_of_compute(NB_COMPUTE_F32, all), NB_ROOF_F32);
    assert_int_equal(nb_roof_of_compute(NB_COMPUTE_BF16, all), NB_ROOF_BF16);
    assert_int_equal(nb_roof_of_compute(NB_COMPUTE_BF16, NB_CPU_AVX2), NB_ROOF_F32);
    assert_int_equal(nb_roof_of_compute(NB_COMPUTE_A8, all), NB_ROOF_INT8);
#endif
}

/* A loop does its work: no compiler left it out, so it takes the time that no processor could
 * do without (2,000 operations or 512 bytes a nanosecond and thread). */
static void test_loops(void **state)
{
    enum { BYTES = 1 << 20 };
    void *data = aligned_alloc(64, BYTES);
    (void)state;
    assert_non_null(data);
    memset(data, 1, BYTES);
    for (int i = 0; i < NB_ROOF_COUNT; i++) {
        const nb_roof_loop *loop = nb_roof_find((nb_roof)i, nb_cpu_caps());
        if (!loop) continue;
        double most = i == NB_ROOF_READ ? 512e9 : 2e13;
        int64_t rounds = i == NB_ROOF_READ ? BYTES / (int64_t)loop->work : 1000000;
        assert_true(loop->work > 0);
        double begin = thread_seconds();
        loop->run(data, rounds);
        assert_true(thread_seconds() - begin > (double)rounds * loop->work / most);
    }
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
