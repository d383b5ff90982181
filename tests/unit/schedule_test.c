/*
 * Sigmas against diffusers, bit for bit: golden/schedule.json (make_noise.py); and what a
 * scheduler_config.json may not say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/dtype.h"
#include "kernels/base/json.h"
#include "pipeline/schedule.h"

static void check_row(const json_t *row)
{
    nb_schedule_config config;
    const json_t *want = json_object_get(row, "sigmas");
    int n = (int)json_integer_value(json_object_get(row, "steps"));
    int64_t tokens = json_integer_value(json_object_get(row, "seq_len"));
    double mu = json_real_value(json_object_get(row, "mu"));
    float sigmas[NB_SCHEDULE_MAX_STEPS + 1], times[NB_SCHEDULE_MAX_STEPS];
    assert_int_equal(nb_schedule_config_read("row", json_object_get(row, "config"), &config),
                     NB_OK);
    assert_true(nb_schedule_mu(&config, tokens) == mu);
    assert_int_equal(nb_schedule_make(&config, n, tokens, NULL, sigmas, times), NB_OK);
    assert_int_equal(json_array_size(want), n + 1);
    for (int i = 0; i <= n; i++) {
        float w = (float)json_number_value(json_array_get(want, (size_t)i));
        assert_int_equal(nb_f32_bits(sigmas[i]), nb_f32_bits(w));
        if (i < n) assert_true(times[i] == w * 1000.0f / 1000.0f);
    }
}

static void equals_diffusers(void **state)
{
    (void)state;
    json_t *rows, *row;
    size_t i;
    assert_int_equal(nb_json_load("golden/schedule.json", &rows), NB_OK);
    assert_true(json_array_size(rows) > 100);
    json_array_foreach(rows, i, row) check_row(row);
    json_decref(rows);
}

static nb_status read_config(const char *text, nb_schedule_config *config)
{
    json_t *json;
    assert_int_equal(nb_json_parse("scheduler_config.json", text, strlen(text), &json), NB_OK);
    nb_status status = nb_schedule_config_read("scheduler_config.json", json, config);
    json_decref(json);
    return status;
}

static void defaults(void **state)
{
    (void)state;
    nb_schedule_config c;
    assert_int_equal(read_config("{\"shift_terminal\": null}", &c), NB_OK);
    assert_int_equal(c.n_train, 1000);
    assert_false(c.dynamic);
    assert_true(c.shift == 1.0 && c.terminal == 0);
}

/* Refused by name, never ignored. */
static void refuses(void **state)
{
    (void)state;
    static const char *const keys[] = {"use_karras_sigmas", "use_exponential_sigmas",
                                       "use_beta_sigmas", "invert_sigmas",
                                       "stochastic_sampling"};
    nb_schedule_config c;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"%s\": true}", keys[i]);
        assert_int_equal(read_config(text, &c), NB_E_DATA);
        assert_non_null(strstr(nb_error_message(), keys[i]));
    }
    assert_int_equal(read_config("{\"time_shift_type\": \"cubic\"}", &c), NB_E_DATA);
    assert_non_null(strstr(nb_error_message(), "cubic"));
    assert_int_equal(read_config("{\"_class_name\": \"DDIMScheduler\"}", &c), NB_E_DATA);
    assert_int_equal(read_config("{\"shift\": \"3\"}", &c), NB_E_DATA);
    assert_int_equal(
        read_config("{\"base_image_seq_len\": 256, \"max_image_seq_len\": 256}", &c),
        NB_E_DATA);
}

/* diffusers divides 0 by 0 here and draws a picture of NaN. */
static void one_step_with_terminal(void **state)
{
    (void)state;
    nb_schedule_config c;
    float sigmas[2], times[1];
    assert_int_equal(read_config("{\"shift_terminal\": 0.1}", &c), NB_OK);
    assert_int_equal(nb_schedule_make(&c, 1, 4, NULL, sigmas, times), NB_E_USAGE);
}

static void custom_sigmas_are_shifted(void **state)
{
    (void)state;
    nb_schedule_config c;
    const double custom[2] = {1.0, 0.5};
    float sigmas[3], times[2];
    assert_int_equal(read_config("{\"shift\": 3.0}", &c), NB_OK);
    assert_int_equal(nb_schedule_make(&c, 2, 4, custom, sigmas, times), NB_OK);
    assert_true(sigmas[0] == 1.0f && sigmas[1] == 0.75f && sigmas[2] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_diffusers),
        cmocka_unit_test(defaults),
        cmocka_unit_test(refuses),
        cmocka_unit_test(one_step_with_terminal),
        cmocka_unit_test(custom_sigmas_are_shifted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
