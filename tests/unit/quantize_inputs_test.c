/* nb_quantize with a calibration: the scales of inputs, in all dialects, and what the
 * configuration says of them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "kernels/base/json.h"
#include "models/checkpoint.h"
#include "models/packed.h"
#include "models/quantize.h"
#include "tests/unit/scratch.h"
#include "tests/unit/stream.h"

static nb_quantize_result result;

/* ---- a calibration ---- */

struct known {
    const char *module; /* NULL: the end */
    float amax;
};

static float amax_of(void *arg, const char *module, int64_t k)
{
    assert_int_equal(k, 32);
    for (const struct known *known = arg; known->module; known++)
        if (strcmp(known->module, module) == 0) return known->amax;
    return 0;
}

static void calibrate(nb_quantize_args *args, struct known *known)
{
    args->input_amax = amax_of;
    args->calibration_arg = known;
}

/* ---- files ---- */

static float values[32 * 32];

static nb_stored matrix(const char *name)
{
    nb_stored t = {.name = name, .dtype = NB_DTYPE_F32, .rank = 2, .shape = {32, 32}};
    t.bytes = sizeof values;
    t.data = values;
    return t;
}

static void write_matrices(const char *path, const char *const *names, int n)
{
    nb_stored tensors[8];
    for (int i = 0; i < n; i++) tensors[i] = matrix(names[i]);
    assert_ok(nb_safetensors_write(path, tensors, n, NULL));
}

static nb_checkpoint *open_output(const char *path)
{
    nb_checkpoint *c;
    assert_ok(nb_checkpoint_open(path, &c));
    return c;
}

static float number(const nb_checkpoint *c, const char *name, int rank)
{
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (!t) fail_msg("%s is not in %s", name, nb_checkpoint_path(c));
    assert_int_equal(t->dtype, NB_DTYPE_F32);
    assert_int_equal(t->rank, rank);
    assert_int_equal(nb_stored_count(t), 1);
    return nb_load_f32(t->dtype, t->data, 0);
}

/* ---- values ---- */

static const char *const six[] = {"a.weight", "b.weight", "unseen.weight",
                                  "c.weight", "d.weight", "e.weight"};

/* Of all six only two have inputs that a scale can be made of. */
static struct known two_of_six[] = {{"a", 3.7f},     {"b", 7.0f},     {"c", NAN},
                                    {"d", INFINITY}, {"e", 0x1p-89f}, {NULL, 0}};

struct writer {
    nb_fp4_rule dialect;
    nb_quant_format format;
    int rank;
    const char *suffix;
    float a, b;
};

/* Those of compressed-tensors are what its generate_gparam and calculate_qparams return. */
static const struct writer writers[] = {
    {NB_FP4_MODELOPT, NB_QUANT_NVFP4, 0, "input_scale", 3.7f / 2688.0f, 7.0f / 2688.0f},
    {NB_FP4_MODELOPT, NB_QUANT_FP8, 0, "input_scale", 0x1.0ea0eap-7f, 0x1p-6f},
    {NB_FP4_COMPRESSED_TENSORS, NB_QUANT_NVFP4, 1, "input_global_scale", 0x1.6b3e44p+9f,
     0x1.800002p+8f},
    {NB_FP4_COMPRESSED_TENSORS, NB_QUANT_FP8, 1, "input_scale", 0x1.0ea0eap-7f, 0x1p-6f},
    {NB_FP4_COMFY, NB_QUANT_NVFP4, 0, "input_scale", 3.7f / 2688.0f, 7.0f / 2688.0f},
    {NB_FP4_COMFY, NB_QUANT_FP8, 0, "input_scale", 0x1.0ea0eap-7f, 0x1p-6f},
};

/* Everything else is what it is without a calibration. */
static void check_rest(const nb_checkpoint *with, const nb_checkpoint *without, int n_more)
{
    int64_t n = nb_checkpoint_n_tensors(without);
    assert_int_equal(nb_checkpoint_n_tensors(with), n + n_more);
    for (int64_t i = 0; i < n; i++) {
        const nb_stored *t = nb_checkpoint_tensor(without, i);
        const nb_stored *same = nb_checkpoint_find(with, t->name);
        assert_non_null(same);
        assert_int_equal(same->bytes, t->bytes);
        assert_memory_equal(same->data, t->data, t->bytes);
    }
}

/* The reader sees what modelopt's file holds, whoever wrote it. */
static void check_read(const nb_checkpoint *c, nb_fp4_rule dialect)
{
    nb_packed p;
    const nb_stored *codes = nb_checkpoint_find(
        c, dialect == NB_FP4_COMPRESSED_TENSORS ? "a.weight_packed" : "a.weight");
    assert_non_null(codes);
    assert_ok(nb_packed_find(c, codes, 32, &p));
    assert_true(fabsf(p.input_scale - 3.7f / 2688.0f) < 1e-9f);
}

static void test_values(void **state)
{
    write_matrices(scratch_path(state, "in.safetensors"), six, 6);
    for (size_t i = 0; i < sizeof writers / sizeof *writers; i++) {
        const struct writer *w = &writers[i];
        char name[64];
        nb_quantize_args args = {.input = scratch_path(state, "in.safetensors"),
                                 .output = scratch_path(state, "plain")};
        args.target = (nb_quant_target){.format = w->format, .dialect = w->dialect};
        assert_ok(nb_quantize(stream, &args, &result));
        assert_int_equal(result.n_input_scales, 0);
        nb_checkpoint *plain = open_output(args.output);
        args.output = scratch_path(state, "calibrated");
        calibrate(&args, two_of_six);
        assert_ok(nb_quantize(stream, &args, &result));
        assert_int_equal(result.n_input_scales, 2);
        nb_checkpoint *c = open_output(args.output);
        snprintf(name, sizeof name, "a.%s", w->suffix);
        assert_true(number(c, name, w->rank) == w->a);
        snprintf(name, sizeof name, "b.%s", w->suffix);
        assert_true(number(c, name, w->rank) == w->b);
        check_rest(c, plain, 2);
        if (w->format == NB_QUANT_NVFP4) check_read(c, w->dialect);
        nb_checkpoint_close(c);
        nb_checkpoint_close(plain);
    }
}

/* Formats without such a scale, and layers that are left as they are. */
static void test_none(void **state)
{
    const char *in = scratch_path(state, "in.safetensors"), *keep[] = {"a"};
    nb_quantize_args args = {.input = in, .output = scratch_path(state, "out.safetensors")};
    write_matrices(in, six, 6);
    calibrate(&args, two_of_six);
    args.target.format = NB_QUANT_MXFP4;
    assert_ok(nb_quantize(stream, &args, &result));
    assert_int_equal(result.n_converted, 6);
    assert_int_equal(result.n_input_scales, 0);
    args.target.format = NB_QUANT_BF16;
    assert_ok(nb_quantize(stream, &args, &result));
    assert_int_equal(result.n_input_scales, 0);
    args.target.format = NB_QUANT_NVFP4;
    args.keep = keep;
    args.n_keep = 1;
    assert_ok(nb_quantize(stream, &args, &result));
    assert_int_equal(result.n_input_scales, 1);
    nb_checkpoint *c = open_output(args.output);
    assert_null(nb_checkpoint_find(c, "a.input_scale"));
    number(c, "b.input_scale", 0);
    nb_checkpoint_close(c);
}

/* ---- layers that are fused later ---- */

#define LAYER "model.layers.0.self_attn."

static const char *const attention[] = {LAYER "q_proj.weight", LAYER "k_proj.weight",
                                        LAYER "v_proj.weight", LAYER "o_proj.weight"};

static struct known not_of_v[] = {
    {LAYER "q_proj", 1}, {LAYER "k_proj", 5}, {LAYER "o_proj", 2}, {NULL, 0}};

static void write_llm(void **state)
{
    char path[512];
    snprintf(path, sizeof path, "%s/llm", (char *)*state);
    assert_int_equal(mkdir(path, 0777), 0);
    write_matrices(scratch_path(state, "llm/model.safetensors"), attention, 4);
    scratch_write_text(scratch_path(state, "llm/config.json"), "{\"model_type\": \"llama\"}");
}

static void test_shared(void **state)
{
    write_llm(state);
    nb_quantize_args args = {.input = scratch_path(state, "llm"),
                             .output = scratch_path(state, "out")};
    calibrate(&args, not_of_v);
    assert_ok(nb_quantize(stream, &args, &result));
    assert_int_equal(result.n_input_scales, 3);
    nb_checkpoint *c = open_output(args.output);
    assert_true(number(c, LAYER "q_proj.input_scale", 0) == 5.0f / 2688.0f);
    assert_true(number(c, LAYER "k_proj.input_scale", 0) == 5.0f / 2688.0f);
    assert_true(number(c, LAYER "o_proj.input_scale", 0) == 2.0f / 2688.0f);
    assert_null(nb_checkpoint_find(c, LAYER "v_proj.input_scale"));
    nb_checkpoint_close(c);
    args.output = scratch_path(state, "own");
    args.target.dialect = NB_FP4_COMPRESSED_TENSORS;
    assert_ok(nb_quantize(stream, &args, &result));
    c = open_output(args.output);
    assert_true(number(c, LAYER "q_proj.input_global_scale", 1) == 2688.0f);
    nb_checkpoint_close(c);
}

/* ---- configurations ---- */

/* As the presets NVFP4, NVFP4A16 and FP8 of compressed-tensors 0.20 are written. */
#define WEIGHTS_4                                                                              \
    "{\"dynamic\": false, \"group_size\": 16, \"num_bits\": 4, \"scale_dtype\": "              \
    "\"torch.float8_e4m3fn\", \"strategy\": \"tensor_group\", \"symmetric\": true, \"type\": " \
    "\"float\"}"
#define INPUTS_4                                                                               \
    "{\"dynamic\": \"local\", \"group_size\": 16, \"num_bits\": 4, \"observer\": "             \
    "\"static_minmax\", \"scale_dtype\": \"torch.float8_e4m3fn\", \"strategy\": "              \
    "\"tensor_group\", \"symmetric\": true, \"type\": \"float\"}"
#define WEIGHTS_8                                                                              \
    "{\"dynamic\": false, \"group_size\": null, \"num_bits\": 8, \"strategy\": \"tensor\", "   \
    "\"symmetric\": true, \"type\": \"float\"}"
#define INPUTS_8                                                                               \
    "{\"dynamic\": false, \"group_size\": null, \"num_bits\": 8, \"observer\": "               \
    "\"static_minmax\", \"strategy\": \"tensor\", \"symmetric\": true, \"type\": \"float\"}"
#define GROUP(format, inputs, target, weights)                                                 \
    "{\"format\": \"" format "\", \"input_activations\": " inputs                              \
    ", \"output_activations\": null, \"targets\": [\"" target "\"], \"weights\": " weights "}"
#define PACK "nvfp4-pack-quantized"

static struct known all_four[] = {{LAYER "q_proj", 1},
                                  {LAYER "k_proj", 1},
                                  {LAYER "v_proj", 1},
                                  {LAYER "o_proj", 1},
                                  {NULL, 0}};
static struct known nothing[] = {{NULL, 0}};

static void check_groups(const char *folder, const char *want)
{
    char path[600];
    json_t *config, *groups = json_loads(want, 0, NULL);
    assert_non_null(groups);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(nb_json_load(path, &config));
    json_t *block = json_object_get(config, "quantization_config");
    json_t *found = json_object_get(block, "config_groups");
    if (!json_equal(found, groups)) {
        json_dumpf(found, stderr, JSON_INDENT(1));
        fail_msg("wanted %s", want);
    }
    json_decref(groups);
    json_decref(config);
}

static void test_config(void **state)
{
    static const struct {
        nb_quant_format format;
        struct known *known;
        const char *groups;
    } cases[] = {
        {NB_QUANT_NVFP4, nothing,
         "{\"group_0\": " GROUP(PACK, "null", "Linear", WEIGHTS_4) "}"},
        {NB_QUANT_NVFP4, all_four,
         "{\"group_0\": " GROUP(PACK, INPUTS_4, "Linear", WEIGHTS_4) "}"},
        {NB_QUANT_NVFP4, not_of_v,
         "{\"group_0\": " GROUP(PACK, INPUTS_4, "Linear", WEIGHTS_4) ", \"group_1\": " GROUP(
             PACK, "null", LAYER "v_proj", WEIGHTS_4) "}"},
        {NB_QUANT_FP8, all_four,
         "{\"group_0\": " GROUP("float-quantized", INPUTS_8, "Linear", WEIGHTS_8) "}"},
    };
    write_llm(state);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[32];
        snprintf(out, sizeof out, "out%d", (int)i);
        nb_quantize_args args = {.input = scratch_path(state, "llm"),
                                 .output = scratch_path(state, out)};
        args.target.dialect = NB_FP4_COMPRESSED_TENSORS;
        args.target.format = cases[i].format;
        calibrate(&args, cases[i].known);
        assert_ok(nb_quantize(stream, &args, &result));
        check_groups(args.output, cases[i].groups);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_values), TEST(test_none), TEST(test_shared),
                                       TEST(test_config)};
    for (int i = 0; i < 32 * 32; i++) values[i] = (float)(i % 37 - 18) / 16.0f;
    return cmocka_run_group_tests(tests, open_all, close_all);
}
