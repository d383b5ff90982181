/*
 * What a picture must not be: of values that are no numbers, or all of one colour. The decode
 * itself is what golden cases and tests/e2e/spoilt.sh run.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/pixels.h"
#include "tests/unit/scratch.h"

static void counts_what_is_not_finite(void **state)
{
    float x[5] = {0.0f, -1e38f, 1e-45f, 3.0f, 4.0f};
    (void)state;
    assert_ok(nb_check_finite(x, 5, "values"));
    assert_ok(nb_check_finite(x, 0, "values"));
    x[4] = NAN;
    assert_ok(nb_check_finite(x, 4, "values"));
    assert_fails(nb_check_finite(x, 5, "values"), NB_E_DATA, "1 of 5 values are not finite");
    x[0] = -INFINITY;
    assert_fails(nb_check_finite(x, 5, "things"), NB_E_DATA, "2 of 5 things are not finite");
}

static void sees_one_colour(void **state)
{
    enum { N = 7 };
    uint8_t rgb[3 * N];
    (void)state;
    for (int i = 0; i < 3 * N; i++) rgb[i] = (uint8_t)(i % 3);
    assert_true(nb_is_one_colour(rgb, N) && nb_is_one_colour(rgb, 1));
    for (int i = 0; i < 3 * N; i++) {
        rgb[i] ^= 1;
        assert_int_equal(nb_is_one_colour(rgb, N), 0);
        rgb[i] ^= 1;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_what_is_not_finite),
        cmocka_unit_test(sees_one_colour),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
