#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/status.h"

static nb_status forward(nb_status status)
{
    NB_TRY(status);
    return NB_E_BUG;
}

static void keeps_the_last_sentence(void **state)
{
    (void)state;
    assert_int_equal(nb_fail(NB_E_DATA, "%s: tensor %d", "a", 7), NB_E_DATA);
    assert_string_equal(nb_error_message(), "a: tensor 7");
    assert_int_equal(nb_fail_context(NB_E_IO, "job %d", 3), NB_E_IO);
    assert_string_equal(nb_error_message(), "job 3: a: tensor 7");
    /* The sentence itself as an argument. */
    assert_int_equal(nb_fail(NB_E_DATA, "again: %s", nb_error_message()), NB_E_DATA);
    assert_string_equal(nb_error_message(), "again: job 3: a: tensor 7");
    assert_int_equal(forward(NB_E_STOPPED), NB_E_STOPPED);
    assert_int_equal(forward(NB_OK), NB_E_BUG);
}

static void is_one_harmless_line(void **state)
{
    (void)state;
    char name[5000];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(nb_fail(NB_E_DATA, "tensor %s", "a\x1b[2J\nb\r\x7fü"), NB_E_DATA);
    assert_string_equal(nb_error_message(), "tensor a?[2J?b??ü");
    assert_int_equal(nb_fail(NB_E_DATA, "tensor %s", name), NB_E_DATA);
    assert_true(strlen(nb_error_message()) > 1000 && strlen(nb_error_message()) < 4000);
}

static void follows_sysexits(void **state)
{
    (void)state;
    assert_int_equal(nb_status_exit_code(NB_OK), 0);
    assert_int_equal(nb_status_exit_code(NB_E_USAGE), 64);
    assert_int_equal(nb_status_exit_code(NB_E_STOPPED), 75);
    assert_string_equal(nb_status_name(NB_E_NOINPUT), "E_NOINPUT");
    assert_string_equal(nb_status_text(NB_E_NOINPUT), "an input is missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_the_last_sentence),
        cmocka_unit_test(is_one_harmless_line),
        cmocka_unit_test(follows_sysexits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
