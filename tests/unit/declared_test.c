/*
 * comfy's declarations against the tensors that they are about.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "models/checkpoint.h"
#include "models/declared.h"
#include "tests/unit/scratch.h"

#define FORMAT(text) "{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":\\\"" text "\\\"}}}"
#define META(text)   "\"__metadata__\":{\"_quantization_metadata\":\"" text "\"},"
#define CODES        "\"a.weight\":{\"dtype\":\"U8\",\"shape\":[1,8],\"data_offsets\":[0,8]}"
#define SCALE(type)                                                                            \
    ",\"a.weight_scale\":{\"dtype\":\"" type "\",\"shape\":[1],\"data_offsets\":[8,9]}"

static void checks_the_header(void **state)
{
    static const struct {
        const char *header, *part; /* part NULL: fine */
    } cases[] = {
        {"{" META(FORMAT("nvfp4")) CODES SCALE("F8_E4M3") "}", NULL},
        {"{" META("{\\\"layers\\\":{\\\"b\\\":{\\\"format\\\":\\\"x\\\"}}}") CODES "}", NULL},
        {"{" META(FORMAT("float8_e4m3fn")) CODES "}",
         "m.safetensors: tensor a.weight: declared float8_e4m3fn, wanted F8_E4M3, found U8"},
        {"{" META(FORMAT("nvfp4")) CODES SCALE("U8") "}",
         "tensor a.weight_scale: declared nvfp4, wanted F8_E4M3, found U8"},
        {"{" META(FORMAT("int3")) CODES "}", "tensor a.weight: wanted the format nvfp4"},
        {"{" META("nonsense") CODES "}", "m.safetensors: not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = scratch_path(state, "m.safetensors");
        nb_container *f;
        scratch_write_safetensors(path, cases[i].header,
                                  strstr(cases[i].header, "8,9") ? 9 : 8);
        assert_ok(nb_container_open(path, &f));
        nb_status status = nb_declared_check(f);
        assert_int_equal(status, cases[i].part ? NB_E_DATA : NB_OK);
        if (cases[i].part && !strstr(nb_error_message(), cases[i].part))
            fail_msg("%s", nb_error_message());
        nb_container_close(f);
    }
}

static void checks_notes_beside_layers(void **state)
{
    static const char note[] = "{\"format\":\"float8_e5m2\"}";
    const nb_stored t[] = {{.name = "a.comfy_quant",
                            .dtype = NB_DTYPE_U8,
                            .rank = 1,
                            .shape = {sizeof note - 1},
                            .data = note,
                            .bytes = sizeof note - 1},
                           {.name = "a.weight",
                            .dtype = NB_DTYPE_F8_E4M3,
                            .rank = 2,
                            .shape = {1, 4},
                            .data = "1234",
                            .bytes = 4}};
    const char *path = scratch_path(state, "m.safetensors");
    nb_checkpoint *c;
    assert_ok(nb_safetensors_write(path, t, 2, NULL));
    assert_fails(nb_checkpoint_open(path, &c), NB_E_DATA,
                 "tensor a.weight: declared float8_e5m2, wanted F8_E5M2, found F8_E4M3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(checks_the_header, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(checks_notes_beside_layers, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
