/*
 * comfy's declarations against the tensors that they are about.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "models/bind.h"
#include "models/canonical.h"
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
        {"{" META("{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":1}}}") CODES "}",
         "m.safetensors: tensor a.weight: format: wanted a string"},
        {"{" META("{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":\\\"nvfp4\\\",\\\"full_precision_"
                  "matrix_mult\\\":1}}}") CODES "}",
         "m.safetensors: tensor a.weight: full_precision_matrix_mult: wanted"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = scratch_path(state, "m.safetensors");
        nb_container *f;
        scratch_write_safetensors(path, cases[i].header,
                                  strstr(cases[i].header, "8,9") ? 9 : 8);
        assert_ok(nb_container_open(path, &f));
        nb_status status = nb_declared_read(f);
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

#define NOTE(text) META("{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":\\\"nvfp4\\\"" text "}}}")
#define FULL       ",\\\"full_precision_matrix_mult\\\":"

static void hears_who_wants_exact_inputs(void **state)
{
    static const struct {
        const char *header;
        int is_exact; /* -1: refused */
    } cases[] = {
        {"{" NOTE("") CODES "}", 0},          {"{" NOTE(FULL "false") CODES "}", 0},
        {"{" NOTE(FULL "null") CODES "}", 0}, {"{" NOTE(FULL "true") CODES "}", 1},
        {"{" NOTE(FULL "1") CODES "}", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = scratch_path(state, "m.safetensors");
        nb_checkpoint *c;
        scratch_write_safetensors(path, cases[i].header, 8);
        if (cases[i].is_exact < 0) {
            assert_fails(nb_checkpoint_open(path, &c), NB_E_DATA, "tensor a.weight: ");
            assert_non_null(strstr(nb_error_message(), "full_precision_matrix_mult: wanted"));
            continue;
        }
        assert_ok(nb_checkpoint_open(path, &c));
        assert_int_equal(nb_checkpoint_find(c, "a.weight")->exact_inputs, cases[i].is_exact);
        nb_checkpoint_close(c);
    }
}

/* The wish of a fused matrix is that of its parts, and of nobody else; it reaches the weight
 * that is multiplied by. */
static void carries_the_wish_to_the_weight(void **state)
{
    static const char note[] =
        "{\"format\":\"float8_e4m3fn\",\"full_precision_matrix_mult\":true}";
    static const uint8_t codes[48] = {0x38};
    const nb_stored qkv = {.name = "double_blocks.0.img_attn.qkv.weight",
                           .dtype = NB_DTYPE_F8_E4M3,
                           .rank = 2,
                           .shape = {12, 4},
                           .data = codes,
                           .bytes = sizeof codes};
    const nb_stored wish = {.name = "double_blocks.0.img_attn.qkv.comfy_quant",
                            .dtype = NB_DTYPE_U8,
                            .rank = 1,
                            .shape = {sizeof note - 1},
                            .data = note,
                            .bytes = sizeof note - 1};
    nb_stored t[] = {qkv, wish, qkv};
    t[2].name = "double_blocks.0.txt_attn.qkv.weight";
    const char *path = scratch_path(state, "m.safetensors");
    nb_checkpoint *c;
    nb_device *device;
    nb_binder b = {0};
    assert_ok(nb_safetensors_write(path, t, 3, NULL));
    assert_ok(nb_canonical_open(path, &c));
    assert_ok(nb_device_open_cpu(0, &device));
    assert_ok(nb_arena_create(&b.arena));
    b.checkpoint = c;
    b.device = device;
    nb_layer k = nb_bind_layer(&b, 4, 4, 0, "transformer_blocks.0.attn.to_k");
    nb_layer other = nb_bind_layer(&b, 4, 4, 0, "transformer_blocks.0.attn.add_k_proj");
    assert_ok(b.status);
    assert_true(k.w.exact_inputs && !other.w.exact_inputs);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A8, &k.w), NB_COMPUTE_BF16);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A8, &other.w), NB_COMPUTE_A8);
    nb_arena_destroy(b.arena);
    nb_device_close(device);
    nb_checkpoint_close(c);
}

/* Before there were notes. */
static void hears_scaled_fp8(void **state)
{
    static const struct {
        const char *marker;
        int64_t n;
        int a, b; /* exact? */
    } cases[] = {
        {"scaled_fp8", 2, 1, 1},       {"scaled_fp8", 0, 0, 0},     {"m.scaled_fp8", 2, 1, 0},
        {"m.scaled_fp8", 1, 0, 0},     {"m.a.scaled_fp8", 2, 1, 0}, {"not_scaled_fp8", 2, 0, 0},
        {"other.scaled_fp8", 2, 0, 0},
    };
    static const char data[16];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const nb_stored t[] = {
            {"m.a.weight", "", NB_DTYPE_F8_E4M3, 2, {2, 2}, data, 4, 0},
            {"m.a.scale_weight", "", NB_DTYPE_F32, 0, {0}, data, 4, 0},
            {"b.weight", "", NB_DTYPE_F8_E5M2, 2, {2, 2}, data, 4, 0},
            {"b.scale_weight", "", NB_DTYPE_F32, 0, {0}, data, 4, 0},
            {"c.weight", "", NB_DTYPE_F8_E4M3, 2, {2, 2}, data, 4, 0}, /* a plain cast */
            {"d.weight", "", NB_DTYPE_BF16, 2, {2, 2}, data, 8, 0},
            {"d.scale_weight", "", NB_DTYPE_F32, 0, {0}, data, 4, 0},
            {cases[i].marker,
             "",
             NB_DTYPE_F8_E4M3,
             1,
             {cases[i].n},
             data,
             (size_t)cases[i].n,
             0},
        };
        const char *path = scratch_path(state, "m.safetensors");
        nb_checkpoint *c;
        assert_ok(nb_safetensors_write(path, t, sizeof t / sizeof *t, NULL));
        assert_ok(nb_checkpoint_open(path, &c));
        assert_int_equal(nb_checkpoint_find(c, "m.a.weight")->exact_inputs, cases[i].a);
        assert_int_equal(nb_checkpoint_find(c, "b.weight")->exact_inputs, cases[i].b);
        assert_int_equal(nb_checkpoint_find(c, "c.weight")->exact_inputs, 0);
        assert_int_equal(nb_checkpoint_find(c, "d.weight")->exact_inputs, 0);
        nb_checkpoint_close(c);
    }
}

static void names_a_note_that_is_none(void **state)
{
    const nb_stored t = {.name = "a.comfy_quant",
                         .dtype = NB_DTYPE_U8,
                         .rank = 1,
                         .shape = {2},
                         .data = "{x",
                         .bytes = 2};
    const char *path = scratch_path(state, "m.safetensors");
    nb_checkpoint *c;
    assert_ok(nb_safetensors_write(path, &t, 1, NULL));
    assert_fails(nb_checkpoint_open(path, &c), NB_E_DATA,
                 "m.safetensors: tensor a.comfy_quant: not valid JSON");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(checks_the_header, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(checks_notes_beside_layers, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(names_a_note_that_is_none, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(hears_who_wants_exact_inputs, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(hears_scaled_fp8, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(carries_the_wish_to_the_weight, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
