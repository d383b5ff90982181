#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/json.h"
#include "tests/unit/scratch.h"

static json_t *object;

static int parse_object(void **state)
{
    (void)state;
    static const char text[] = "{\"i\":7,\"big\":9223372036854775807,\"r\":0.5,\"t\":true,"
                               "\"s\":\"x\",\"n\":null,\"a\":[1,2,3],\"m\":[1,\"2\"],\"e\":[]}";
    return nb_json_parse("c.json", text, sizeof text - 1, &object);
}

static int free_object(void **state)
{
    (void)state;
    json_decref(object);
    return 0;
}

static nb_status parse(const char *text, size_t bytes)
{
    json_t *json = NULL;
    nb_status status = nb_json_parse("c.json", text, bytes, &json);
    if (status) assert_null(json);
    json_decref(json);
    return status;
}

static void refuses_what_is_not_json(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "{",
                                        "{\"a\":1,}",
                                        "{'a':1}",
                                        "[1 2]",
                                        "nul",
                                        "1e999",
                                        "{} x",
                                        "{\"a\":1,\"a\":2}",
                                        "\"\\u0000\"",
                                        "{\"\\u0000\":1}",
                                        "\"\xc3\"",
                                        "12345678901234567890"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_fails(parse(texts[i], strlen(texts[i])), NB_E_DATA, "c.json: not valid JSON");
    assert_fails(parse("[1]\0", 4), NB_E_DATA, "not valid JSON");
    assert_fails(parse("{\n\n  7}", 7), NB_E_DATA, "line 3");
    assert_ok(parse("3", 1));
    assert_ok(parse(" [1] \n", 6));
}

static void refuses_endless_depth(void **state)
{
    (void)state;
    enum { DEPTH = 1000000 };
    char *text = malloc(DEPTH);
    memset(text, '[', DEPTH);
    assert_fails(parse(text, DEPTH), NB_E_DATA, "maximum parsing depth");
    free(text);
}

static void reads_files(void **state)
{
    json_t *json;
    const char *path = scratch_path(state, "x.json");
    assert_fails(nb_json_load(path, &json), NB_E_NOINPUT, "x.json: cannot be read");
    scratch_write_text(path, "");
    assert_fails(nb_json_load(path, &json), NB_E_DATA, "x.json: not valid JSON");
    scratch_write_text(path, "{\"a\":[]}");
    assert_ok(nb_json_load(path, &json));
    assert_true(json_is_array(json_object_get(json, "a")));
    json_decref(json);
}

static void gets_integers(void **state)
{
    (void)state;
    int64_t i = -1;
    assert_ok(nb_json_get_int("c", object, "i", 3, 0, 10, &i));
    assert_int_equal(i, 7);
    assert_ok(nb_json_get_int("c", object, "none", 3, 5, 10, &i));
    assert_int_equal(i, 3); /* a fallback need not be in range */
    assert_ok(nb_json_get_int("c", object, "n", 4, 0, 10, &i));
    assert_int_equal(i, 4);
    assert_ok(nb_json_get_int("c", object, "big", 0, 0, INT64_MAX, &i));
    assert_true(i == INT64_MAX);
    i = -1;
    assert_fails(nb_json_get_int("c", object, "i", 3, 8, 10, &i), NB_E_DATA,
                 "c: i: wanted 8 to 10, found 7");
    assert_fails(nb_json_get_int("c", object, "r", 3, 0, 9, &i), NB_E_DATA,
                 "c: r: wanted an integer, found a number");
    assert_fails(nb_json_get_int("c", object, "t", 3, 0, 9, &i), NB_E_DATA, "found true");
    assert_int_equal(i, -1);
}

static void gets_numbers_and_words(void **state)
{
    (void)state;
    double r;
    int t;
    const char *s;
    assert_ok(nb_json_get_real("c", object, "r", 9, 0, 1, &r));
    assert_true(r == 0.5);
    assert_ok(nb_json_get_real("c", object, "i", 9, 0, 10, &r));
    assert_true(r == 7);
    assert_ok(nb_json_get_real("c", object, "none", 9, 0, 1, &r));
    assert_true(r == 9);
    assert_fails(nb_json_get_real("c", object, "r", 9, 1, 2, &r), NB_E_DATA,
                 "c: r: wanted 1 to 2, found 0.5");
    assert_fails(nb_json_get_real("c", object, "s", 9, 1, 2, &r), NB_E_DATA, "found a string");
    assert_ok(nb_json_get_bool("c", object, "t", 0, &t));
    assert_int_equal(t, 1);
    assert_ok(nb_json_get_bool("c", object, "n", 1, &t));
    assert_int_equal(t, 1);
    assert_fails(nb_json_get_bool("c", object, "i", 0, &t), NB_E_DATA, "wanted true or false");
    assert_ok(nb_json_get_string("c", object, "s", "y", &s));
    assert_string_equal(s, "x");
    assert_ok(nb_json_get_string("c", object, "none", NULL, &s));
    assert_null(s);
    assert_fails(nb_json_get_string("c", object, "a", "y", &s), NB_E_DATA, "found an array");
}

static void gets_lists(void **state)
{
    (void)state;
    int64_t list[3] = {0};
    int n = 7;
    assert_ok(nb_json_get_ints("c", object, "a", 0, 9, list, 3, &n));
    assert_int_equal(n, 3);
    assert_int_equal(list[2], 3);
    assert_ok(nb_json_get_ints("c", object, "e", 0, 9, list, 3, &n));
    assert_int_equal(n, 0);
    assert_ok(nb_json_get_ints("c", object, "none", 0, 9, list, 3, &n));
    assert_int_equal(n, -1);
    assert_fails(nb_json_get_ints("c", object, "a", 0, 9, list, 2, &n), NB_E_DATA,
                 "wanted at most 2 entries, found 3");
    assert_fails(nb_json_get_ints("c", object, "a", 0, 2, list, 3, &n), NB_E_DATA,
                 "wanted 0 to 2, found 3");
    assert_fails(nb_json_get_ints("c", object, "m", 0, 9, list, 3, &n), NB_E_DATA,
                 "wanted an integer, found a string");
    assert_fails(nb_json_get_ints("c", object, "i", 0, 9, list, 3, &n), NB_E_DATA,
                 "wanted an array of integers");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(refuses_endless_depth),
        cmocka_unit_test_setup_teardown(reads_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(gets_integers, parse_object, free_object),
        cmocka_unit_test_setup_teardown(gets_numbers_and_words, parse_object, free_object),
        cmocka_unit_test_setup_teardown(gets_lists, parse_object, free_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
