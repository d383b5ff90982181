/*
 * 4-bit matrices of every writer through the binder: values equal to what the library expands
 * its own file to (golden/make_fp4.py), and what is refused.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "models/bind.h"
#include "models/packed.h"
#include "tests/unit/scratch.h"

enum { MAX_COLUMNS = 1 << 14 };

static void compare(nb_binder *b, const nb_stored *wanted)
{
    static float row[MAX_COLUMNS];
    int stem = (int)(strlen(wanted->name) - strlen(".dequantized"));
    int64_t n = wanted->shape[0], k = wanted->shape[1];
    assert_true(k <= MAX_COLUMNS);
    nb_layer l = nb_bind_layer(b, n, k, 0, "%.*s", stem, wanted->name);
    assert_ok(b->status);
    for (int64_t i = 0; i < n; i++) {
        nb_weight w = nb_weight_rows(l.w, i, 1);
        nb_weight_decode_ref(&w, 0, 0, k, row);
        for (int64_t j = 0; j < k; j++)
            if (row[j] != nb_load_f32(NB_DTYPE_F32, wanted->data, i * k + j))
                fail_msg("%s: [%d, %d] is %.9g", wanted->name, (int)i, (int)j, (double)row[j]);
    }
}

static void expands_as_the_libraries(void **state)
{
    static const char *const files[] = {
        "modelopt-nvfp4",           "modelopt-mxfp4", "comfy-nvfp4", "compressed-tensors-nvfp4",
        "compressed-tensors-mxfp4", "modelopt-fp8",   "comfy-fp8",   "compressed-tensors-fp8"};
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[96];
        int n = 0;
        nb_binder b = {.status = NB_OK};
        nb_checkpoint *c;
        snprintf(path, sizeof path, "golden/fp4/%s.safetensors", files[i]);
        assert_ok(nb_checkpoint_open(path, &c));
        assert_ok(nb_arena_create(&b.arena));
        b.checkpoint = c;
        for (int64_t t = 0; t < nb_checkpoint_n_tensors(c); t++)
            if (nb_name_ends_with(nb_checkpoint_tensor(c, t)->name, ".dequantized")) {
                compare(&b, nb_checkpoint_tensor(c, t));
                n++;
            }
        if (n < 10 && !strstr(files[i], "fp8")) fail_msg("%s: only %d matrices", path, n);
        nb_arena_destroy(b.arena);
        nb_checkpoint_close(c);
    }
}

/* --- what is refused --- */

static const unsigned char zeros[1 << 12];
static const char tiled_note[] = "{\"format\":\"nvfp4\"}";
static const unsigned char nan_scale[2] = {0x38, 0x7f}, nan_power[1] = {0xff};
static const float one = 1, four = 4, minus = -2, not_a_number[1] = {NAN};

#define T2(name_, type, n, k, data_)                                                           \
    {                                                                                          \
        .name = name_, .dtype = NB_DTYPE_##type, .rank = 2, .shape = {n, k}, .data = data_,    \
        .bytes = (n) * (k)                                                                     \
    }
#define NUMBER(name_, data_)                                                                   \
    {                                                                                          \
        .name = name_, .dtype = NB_DTYPE_F32, .rank = 0, .data = data_, .bytes = 4             \
    }

static const nb_stored bad_tensors[] = {
    T2("bare.weight", U8, 1, 16, zeros),
    T2("half.weight", U8, 1, 16, zeros),
    T2("half.weight_scale", F8_E4M3, 1, 2, zeros),
    T2("packed.weight_packed", U8, 1, 16, zeros),
    T2("packed.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("packed.weight_scale_2", &one),
    T2("two.weight", U8, 1, 16, zeros),
    T2("two.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("two.weight_scale_2", &one),
    NUMBER("two.weight_global_scale", &one),
    T2("nan.weight", U8, 1, 16, zeros),
    T2("nan.weight_scale", F8_E4M3, 1, 2, nan_scale),
    NUMBER("nan.weight_scale_2", &one),
    T2("power.weight", U8, 1, 16, zeros),
    T2("power.weight_scale", U8, 1, 1, nan_power),
    T2("zero.weight", U8, 1, 16, zeros),
    T2("zero.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("zero.weight_scale_2", zeros),
    T2("unclear.weight", U8, 1, 16, zeros),
    T2("unclear.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("unclear.weight_scale_2", not_a_number),
    T2("short.weight", U8, 1, 16, zeros),
    T2("short.weight_scale", F8_E4M3, 1, 1, zeros),
    NUMBER("short.weight_scale_2", &one),
    T2("narrow.weight", U8, 1, 8, zeros),
    T2("narrow.weight_scale", F8_E4M3, 1, 1, zeros),
    NUMBER("narrow.weight_scale_2", &one),
    T2("input.weight", U8, 1, 16, zeros),
    T2("input.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("input.weight_scale_2", &one),
    NUMBER("input.input_scale", &minus),
    T2("inputs.weight", U8, 1, 16, zeros),
    T2("inputs.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("inputs.weight_scale_2", &one),
    NUMBER("inputs.input_scale", &one),
    NUMBER("inputs.input_global_scale", &one),
    T2("tiled.weight", U8, 16, 16, zeros),
    T2("tiled.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("tiled.weight_scale_2", &one),
    T2("tiled.comfy_quant", U8, 1, sizeof tiled_note - 1, tiled_note),
};

static const struct {
    const char *name, *sentence;
} refusals[] = {
    {"bare", "tensor bare.weight: bare.weight_scale is missing"},
    {"half", "tensor half.weight: half.weight_scale_2 is missing"},
    {"packed", "packed.weight_global_scale is missing"},
    {"two", "has two scales, two.weight_scale_2 and two.weight_global_scale"},
    {"nan", "tensor nan.weight_scale: the scale of row 0, block 1 is NaN"},
    {"power", "tensor power.weight_scale: the scale of row 0, block 0 is NaN"},
    {"zero", "tensor zero.weight_scale_2: the scale is 0"},
    {"unclear", "tensor unclear.weight_scale_2: the scale is"},
    {"short", "tensor short.weight_scale: wanted [1, 2], found [1, 1]"},
    {"narrow", "tensor narrow.weight: wanted [1, 16], found [1, 8]"},
    {"input", "tensor input.input_scale: the scale is -2"},
    {"inputs", "has two scales, inputs.input_scale and inputs.input_global_scale"},
    {"tiled", "tensor tiled.weight_scale: wanted [128, 4], found [1, 2]"},
};

static void refuses(void **state)
{
    nb_binder b = {.status = NB_OK};
    nb_checkpoint *c;
    const char *path = scratch_path(state, "m.safetensors");
    size_t n = sizeof bad_tensors / sizeof *bad_tensors;
    assert_ok(nb_safetensors_write(path, bad_tensors, (int64_t)n, NULL));
    assert_ok(nb_checkpoint_open(path, &c));
    assert_ok(nb_arena_create(&b.arena));
    b.checkpoint = c;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        (void)nb_bind_layer(&b, 1, 32, 0, "%s", refusals[i].name);
        assert_fails(b.status, NB_E_DATA, refusals[i].sentence);
        b.status = NB_OK;
    }
    nb_arena_destroy(b.arena);
    nb_checkpoint_close(c);
}

/* Every byte at every place of a row of scales: only the codes of NaN are refused. */
static void finds_nan(void **state)
{
    enum { N_SCALES = 19 };
    unsigned char scales[N_SCALES];
    nb_arena *arena;
    (void)state;
    assert_ok(nb_arena_create(&arena));
    for (int is_mx = 0; is_mx < 2; is_mx++)
        for (int at = 0; at < N_SCALES; at++)
            for (int byte = 0; byte < 256; byte++) {
                const nb_stored codes = {.name = "w", .file = "f", .data = zeros};
                const nb_stored stored = {.name = "s", .file = "f", .data = scales};
                const nb_packed p = {.codes = &codes,
                                     .scales = &stored,
                                     .kind = is_mx ? NB_SCALE_MXFP4 : NB_SCALE_NVFP4,
                                     .n = 1,
                                     .k = (is_mx ? 32 : 16) * N_SCALES,
                                     .tensor_scale = 1};
                int is_nan = is_mx ? byte == 0xff : (byte & 0x7f) == 0x7f;
                char sentence[64];
                nb_weight w;
                for (int i = 0; i < N_SCALES; i++)
                    scales[i] = (unsigned char[]){0x7e, 0x00, 0xfe, 0x80}[i % 4];
                scales[at] = (unsigned char)byte;
                snprintf(sentence, sizeof sentence, "row 0, block %d is NaN", at);
                if (is_nan)
                    assert_fails(nb_packed_weight(&p, NULL, arena, &w), NB_E_DATA, sentence);
                else
                    assert_ok(nb_packed_weight(&p, NULL, arena, &w));
                nb_arena_reset(arena);
            }
    nb_arena_destroy(arena);
}

/* --- the scale of x --- */

static const nb_stored scaled_tensors[] = {
    T2("factor.weight", U8, 1, 16, zeros),
    T2("factor.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("factor.weight_scale_2", &one),
    NUMBER("factor.input_scale", &four),
    T2("reciprocal.weight_packed", U8, 1, 16, zeros),
    T2("reciprocal.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("reciprocal.weight_global_scale", &one),
    NUMBER("reciprocal.input_global_scale", &four),
    T2("none.weight", U8, 1, 16, zeros),
    T2("none.weight_scale", F8_E4M3, 1, 2, zeros),
    NUMBER("none.weight_scale_2", &one),
};

static void keeps_the_scale_of_x(void **state)
{
    nb_binder b = {.status = NB_OK};
    nb_checkpoint *c;
    const char *path = scratch_path(state, "m.safetensors");
    size_t n = sizeof scaled_tensors / sizeof *scaled_tensors;
    assert_ok(nb_safetensors_write(path, scaled_tensors, (int64_t)n, NULL));
    assert_ok(nb_checkpoint_open(path, &c));
    assert_ok(nb_arena_create(&b.arena));
    b.checkpoint = c;
    assert_true(nb_bind_layer(&b, 1, 32, 0, "factor").w.input_scale == 4.0f);
    assert_true(nb_bind_layer(&b, 1, 32, 0, "reciprocal").w.input_scale == 0.25f);
    assert_true(nb_bind_layer(&b, 1, 32, 0, "none").w.input_scale == 0.0f);
    assert_ok(b.status);
    nb_arena_destroy(b.arena);
    nb_checkpoint_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expands_as_the_libraries),
        cmocka_unit_test(finds_nan),
        cmocka_unit_test_setup_teardown(keeps_the_scale_of_x, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(refuses, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
