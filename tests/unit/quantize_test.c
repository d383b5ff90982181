/* nb_quantize: what is converted and what is kept, in files and folders, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "kernels/base/cpu.h"
#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "kernels/base/rng.h"
#include "models/checkpoint.h"
#include "models/quantize.h"
#include "tests/unit/scratch.h"

static nb_device *device;
static nb_stream *stream;
static atomic_int stop;
static nb_quantize_result result;

static int open_all(void **state)
{
    (void)state;
    return nb_device_open_cpu(nb_cpu_caps(), &device) ||
           nb_stream_create(device, NB_COMPUTE_F32, 2, &stop, &stream);
}

static int close_all(void **state)
{
    (void)state;
    nb_stream_destroy(stream);
    nb_device_close(device);
    return 0;
}

/* ---- files to convert ---- */

static float values[65536]; /* random, to be shared by tensors */

static nb_stored tensor(const char *name, nb_dtype dtype, int64_t rows, int64_t columns)
{
    nb_stored t = {.name = name, .dtype = dtype, .rank = columns ? 2 : 1};
    t.shape[0] = rows;
    t.shape[1] = columns;
    t.bytes = (size_t)nb_stored_count(&t) * nb_dtype_bytes(dtype);
    size_t start = 0; /* not the same for all */
    for (const char *c = name; *c; c++) start = (start * 31 + (size_t)*c) % 40000;
    t.data = values + start;
    assert_true(t.bytes + start * sizeof *values <= sizeof values);
    return t;
}

static void draw_values(void)
{
    nb_mt19937 g;
    nb_mt19937_init(&g, 5);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        values[i] = (float)(int32_t)nb_mt19937_next(&g) * 0x1p-31f;
}

static const char *write_tensors(const char *path, const nb_stored *tensors, int64_t n)
{
    assert_ok(nb_safetensors_write(path, tensors, n, NULL));
    return path;
}

static nb_quantize_args args_of(const char *in, const char *out)
{
    return (nb_quantize_args){.input = in, .output = out};
}

static nb_status run(const nb_quantize_args *args)
{
    return nb_quantize(stream, args, &result);
}

static nb_checkpoint *open_output(const char *path)
{
    nb_checkpoint *c;
    assert_ok(nb_checkpoint_open(path, &c));
    return c;
}

static const nb_stored *find(const nb_checkpoint *c, const char *name)
{
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (!t) fail_msg("%s is not in %s", name, nb_checkpoint_path(c));
    return t;
}

static void check_same(const nb_stored *a, const nb_stored *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank || a->bytes != b->bytes ||
        memcmp(a->shape, b->shape, (size_t)a->rank * sizeof a->shape[0]) != 0 ||
        memcmp(a->data, b->data, a->bytes) != 0)
        fail_msg("%s and %s differ", a->name, b->name);
}

static float scalar(const nb_checkpoint *c, const char *name)
{
    return nb_load_f32(NB_DTYPE_F32, find(c, name)->data, 0);
}

static void check_empty(void **state, const char *but)
{
    char command[512];
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = '%s'", (char *)*state, but);
    if (system(command) != 0) fail_msg("something was left in %s", (char *)*state);
}

/* ---- against the libraries' own files ---- */

struct writer {
    const char *name;
    nb_fp4_rule dialect;
    nb_quant_format format;
    int rows_are_padded;
};

/* All that the library wrote of the same input; it may have left cases out. */
static void compare_written(const nb_checkpoint *ours, const nb_checkpoint *golden)
{
    int n = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(golden); i++) {
        const nb_stored *t = nb_checkpoint_tensor(golden, i);
        const nb_stored *mine = nb_checkpoint_find(ours, t->name);
        if (nb_name_ends_with(t->name, ".dequantized")) continue;
        if (!mine && nb_name_ends_with(t->name, ".weight_scale")) continue; /* FP8, odd K */
        if (!mine) fail_msg("%s is missing", t->name);
        if (t->dtype == NB_DTYPE_F8_E4M3 || t->dtype == NB_DTYPE_U8 || t->bytes == 4) n++;
        check_same(mine, t);
    }
    assert_true(n >= 40);
}

static void compare_values(const nb_checkpoint *expanded, const nb_checkpoint *golden,
                           int rows_are_padded)
{
    char name[256];
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(golden); i++) {
        const nb_stored *t = nb_checkpoint_tensor(golden, i);
        if (!nb_name_ends_with(t->name, ".dequantized")) continue;
        snprintf(name, sizeof name, "%.*sweight", (int)(strlen(t->name) - 11), t->name);
        const nb_stored *w = find(expanded, name);
        assert_int_equal(w->dtype, NB_DTYPE_F32);
        assert_true(rows_are_padded ? w->bytes >= t->bytes : w->bytes == t->bytes);
        for (int64_t k = 0; k < nb_stored_count(t); k++)
            if (nb_load_f32(w->dtype, w->data, k) != nb_load_f32(t->dtype, t->data, k))
                fail_msg("%s: value %d differs", t->name, (int)k);
    }
}

static void test_goldens(void **state)
{
    static const struct writer writers[] = {
        {"modelopt-nvfp4", NB_FP4_MODELOPT, NB_QUANT_NVFP4, 0},
        {"modelopt-mxfp4", NB_FP4_MODELOPT, NB_QUANT_MXFP4, 0},
        {"modelopt-fp8", NB_FP4_MODELOPT, NB_QUANT_FP8, 0},
        {"compressed-tensors-nvfp4", NB_FP4_COMPRESSED_TENSORS, NB_QUANT_NVFP4, 0},
        {"compressed-tensors-mxfp4", NB_FP4_COMPRESSED_TENSORS, NB_QUANT_MXFP4, 0},
        {"compressed-tensors-fp8", NB_FP4_COMPRESSED_TENSORS, NB_QUANT_FP8, 0},
        {"comfy-nvfp4", NB_FP4_COMFY, NB_QUANT_NVFP4, 1},
        {"comfy-fp8", NB_FP4_COMFY, NB_QUANT_FP8, 0},
    };
    for (size_t i = 0; i < sizeof writers / sizeof *writers; i++) {
        const struct writer *w = &writers[i];
        const char *out = scratch_path(state, "a.safetensors");
        const char *back = scratch_path(state, "b.safetensors");
        char path[128];
        snprintf(path, sizeof path, "golden/fp4/%s.safetensors", w->name);
        nb_quantize_args args = args_of("golden/fp4/input.safetensors", out);
        args.target.format = w->format;
        args.target.dialect = w->dialect;
        assert_ok(run(&args));
        args = args_of(out, back);
        args.target.format = NB_QUANT_F32;
        assert_ok(run(&args));
        nb_checkpoint *golden = open_output(path), *written = open_output(out);
        nb_checkpoint *expanded = open_output(back);
        compare_written(written, golden);
        compare_values(expanded, golden, w->rows_are_padded);
        nb_checkpoint_close(golden);
        nb_checkpoint_close(written);
        nb_checkpoint_close(expanded);
    }
}

/* ---- files ---- */

static void test_copies(void **state)
{
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    static const char *const keep[] = {"kept.?", "*.embedding.weight"};
    static const char *const metadata[] = {"format", "pt", "note", "by hand", NULL};
    nb_stored tensors[] = {tensor("a.weight", NB_DTYPE_F32, 6, 32),
                           tensor("a.bias", NB_DTYPE_F32, 6, 0),
                           tensor("odd.weight", NB_DTYPE_BF16, 6, 24),
                           tensor("a.weights", NB_DTYPE_F32, 4, 16),
                           tensor("ids.weight", NB_DTYPE_I64, 4, 16),
                           tensor("kept.1.weight", NB_DTYPE_F16, 4, 16),
                           tensor("kept.12.weight", NB_DTYPE_F16, 4, 16),
                           tensor("norm.weight", NB_DTYPE_F32, 16, 0),
                           tensor("x.embedding.weight", NB_DTYPE_F32, 4, 16)};
    static const char *const copied[] = {
        "a.bias",      "odd.weight",    "a.weights",         "ids.weight",
        "norm.weight", "kept.1.weight", "x.embedding.weight"};
    static uint16_t halves[6 * 24];
    for (int i = 0; i < 6 * 24; i++) halves[i] = nb_f16_from_f32(values[i]);
    tensors[2].data = tensors[5].data = tensors[6].data = halves; /* other bits may be a NaN */
    assert_ok(nb_safetensors_write(in, tensors, 9, metadata));
    nb_quantize_args args = args_of(in, out);
    args.keep = keep;
    args.n_keep = 2;
    assert_ok(run(&args));
    assert_int_equal(result.n_converted, 2);
    assert_int_equal(result.n_copied, 7);
    nb_checkpoint *a = open_output(in), *b = open_output(out);
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        check_same(find(a, copied[i]), find(b, copied[i]));
    assert_int_equal(find(b, "a.weight")->dtype, NB_DTYPE_U8);
    assert_int_equal(find(b, "kept.12.weight_scale")->dtype, NB_DTYPE_F8_E4M3);
    assert_int_equal(nb_checkpoint_n_tensors(b), 9 + 2 * 2);
    const nb_container *f = nb_checkpoint_file(b, 0);
    assert_string_equal(nb_container_metadata(f, "format"), "pt");
    assert_string_equal(nb_container_metadata(f, "note"), "by hand");
    nb_checkpoint_close(a);
    nb_checkpoint_close(b);
}

/* From one quantised form to another: the old scales go, and nothing is rounded on the way. */
static void test_again(void **state)
{
    const char *in = scratch_path(state, "in.safetensors");
    const char *four = scratch_path(state, "four.safetensors");
    const char *plain = scratch_path(state, "plain.safetensors");
    const char *direct = scratch_path(state, "direct.safetensors");
    const char *again = scratch_path(state, "again.safetensors");
    nb_stored tensors[] = {tensor("a.weight", NB_DTYPE_F32, 40, 64),
                           tensor("a.bias", NB_DTYPE_F32, 40, 0)};
    write_tensors(in, tensors, 2);
    nb_quantize_args args = args_of(in, four);
    args.target.dialect = NB_FP4_COMFY;
    assert_ok(run(&args)); /* 40 rows become 48, and the bias says that they are 40 */
    args = args_of(four, plain);
    args.target.format = NB_QUANT_F32;
    assert_ok(run(&args));
    for (int i = 0; i < 2; i++) {
        args = args_of(i ? plain : four, i ? direct : again);
        args.target.format = NB_QUANT_MXFP4;
        args.target.dialect = NB_FP4_COMPRESSED_TENSORS;
        assert_ok(run(&args));
    }
    nb_checkpoint *a = open_output(again), *b = open_output(direct);
    assert_int_equal(nb_checkpoint_n_tensors(a), 3);
    for (int64_t i = 0; i < 3; i++)
        check_same(nb_checkpoint_tensor(a, i), nb_checkpoint_tensor(b, i));
    assert_null(nb_container_metadata(nb_checkpoint_file(a, 0), "_quantization_metadata"));
    assert_int_equal(find(a, "a.weight_packed")->shape[0], 40);
    nb_checkpoint_close(a);
    nb_checkpoint_close(b);
}

/* ---- what the sweep is told ---- */

static float weights_of_inputs[32];

static const float *importance(void *arg, const char *module, int64_t k)
{
    (void)arg;
    assert_string_equal(module, "a");
    assert_int_equal(k, 32);
    return weights_of_inputs;
}

static void test_importance(void **state)
{
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    nb_stored t = tensor("a.weight", NB_DTYPE_F32, 64, 32);
    uint8_t codes[64 * 16], scales[64 * 2];
    float tensor_scale;
    for (int i = 0; i < 32; i++) weights_of_inputs[i] = (float)(i % 5);
    nb_quantize_args args = args_of(write_tensors(in, &t, 1), out);
    args.target.method = NB_FP4_SWEEP;
    args.importance = importance;
    assert_ok(run(&args));
    nb_weight w = {
        .data = t.data, .dtype = t.dtype, .n = 64, .k = 32, .scale = 1, .device = device};
    nb_fp4_options options = {.method = NB_FP4_SWEEP, .importance = weights_of_inputs};
    nb_quantize_nvfp4(stream, &w, &options, codes, scales, &tensor_scale);
    assert_ok(nb_stream_sync(stream));
    nb_checkpoint *c = open_output(out);
    assert_memory_equal(find(c, "a.weight")->data, codes, sizeof codes);
    assert_memory_equal(find(c, "a.weight_scale")->data, scales, sizeof scales);
    nb_checkpoint_close(c);
}

/* ---- an LLM's folder ---- */

static void write_llm(void **state)
{
    char path[512];
    nb_stored first[] = {tensor("model.embed_tokens.weight", NB_DTYPE_F32, 8, 32),
                         tensor("model.layers.0.self_attn.q_proj.weight", NB_DTYPE_F32, 32, 32),
                         tensor("model.layers.0.self_attn.k_proj.weight", NB_DTYPE_F32, 16, 32),
                         tensor("model.layers.0.mlp.gate.weight", NB_DTYPE_F32, 4, 32)};
    nb_stored second[] = {
        tensor("model.layers.0.self_attn.v_proj.weight", NB_DTYPE_F32, 16, 32),
        tensor("model.layers.0.self_attn.o_proj.weight", NB_DTYPE_F32, 32, 32),
        tensor("model.norm.weight", NB_DTYPE_F32, 32, 0),
        tensor("lm_head.weight", NB_DTYPE_F32, 8, 32)};
    snprintf(path, sizeof path, "%s/llm", (char *)*state);
    assert_int_equal(mkdir(path, 0777), 0);
    write_tensors(scratch_path(state, "llm/model-00001-of-00002.safetensors"), first, 4);
    write_tensors(scratch_path(state, "llm/model-00002-of-00002.safetensors"), second, 4);
    scratch_write_text(
        scratch_path(state, "llm/model.safetensors.index.json"),
        "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {"
        "\"model.embed_tokens.weight\": \"model-00001-of-00002.safetensors\","
        "\"model.layers.0.self_attn.q_proj.weight\": \"model-00001-of-00002.safetensors\","
        "\"model.layers.0.self_attn.k_proj.weight\": \"model-00001-of-00002.safetensors\","
        "\"model.layers.0.mlp.gate.weight\": \"model-00001-of-00002.safetensors\","
        "\"model.layers.0.self_attn.v_proj.weight\": \"model-00002-of-00002.safetensors\","
        "\"model.layers.0.self_attn.o_proj.weight\": \"model-00002-of-00002.safetensors\","
        "\"model.norm.weight\": \"model-00002-of-00002.safetensors\","
        "\"lm_head.weight\": \"model-00002-of-00002.safetensors\"}}");
    scratch_write_text(scratch_path(state, "llm/config.json"),
                       "{\"model_type\": \"llama\", \"rope_theta\": 10000.0}");
    scratch_write_text(scratch_path(state, "llm/tokenizer.json"), "{}");
}

static json_t *load(const char *path)
{
    json_t *json;
    assert_ok(nb_json_load(path, &json));
    return json;
}

static void test_llm_modelopt(void **state)
{
    const char *q = "model.layers.0.self_attn.q_proj.weight_scale_2";
    write_llm(state);
    nb_quantize_args args = args_of(scratch_path(state, "llm"), scratch_path(state, "out"));
    assert_ok(run(&args));
    assert_int_equal(result.n_converted, 4);
    nb_checkpoint *c = open_output(args.output); /* checks that the index is right */
    float shared = scalar(c, q);
    assert_true(shared == scalar(c, "model.layers.0.self_attn.k_proj.weight_scale_2"));
    assert_true(shared == scalar(c, "model.layers.0.self_attn.v_proj.weight_scale_2"));
    assert_true(shared != scalar(c, "model.layers.0.self_attn.o_proj.weight_scale_2"));
    assert_int_equal(find(c, "lm_head.weight")->dtype, NB_DTYPE_F32);
    assert_int_equal(find(c, "model.embed_tokens.weight")->dtype, NB_DTYPE_F32);
    assert_int_equal(find(c, "model.layers.0.mlp.gate.weight")->dtype, NB_DTYPE_F32);
    int64_t bytes = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++)
        bytes += (int64_t)nb_checkpoint_tensor(c, i)->bytes;
    nb_checkpoint_close(c);

    json_t *index = load(scratch_path(state, "out/model.safetensors.index.json"));
    json_t *total = json_object_get(json_object_get(index, "metadata"), "total_size");
    assert_int_equal(json_integer_value(total), bytes);
    json_decref(index);
    json_t *file = load(scratch_path(state, "out/hf_quant_config.json"));
    json_t *quantization = json_object_get(file, "quantization");
    json_t *excluded = json_object_get(quantization, "exclude_modules");
    assert_string_equal(json_string_value(json_object_get(quantization, "quant_algo")),
                        "NVFP4");
    assert_int_equal(json_array_size(excluded), 3);
    json_decref(file);
    json_t *config = load(scratch_path(state, "out/config.json"));
    json_t *block = json_object_get(config, "quantization_config");
    assert_string_equal(json_string_value(json_object_get(block, "quant_method")), "modelopt");
    assert_string_equal(json_string_value(json_object_get(config, "model_type")), "llama");
    json_decref(config);
    assert_true(nb_file_exists(scratch_path(state, "out/tokenizer.json")));

    /* And back: no trace of the quantisation is left. */
    args = args_of(scratch_path(state, "out"), scratch_path(state, "back"));
    args.target.format = NB_QUANT_BF16;
    assert_ok(run(&args));
    assert_int_equal(result.n_converted, 4);
    config = load(scratch_path(state, "back/config.json"));
    assert_null(json_object_get(config, "quantization_config"));
    json_decref(config);
    assert_false(nb_file_exists(scratch_path(state, "back/hf_quant_config.json")));
    c = open_output(args.output);
    assert_int_equal(nb_checkpoint_n_tensors(c), 8);
    nb_checkpoint_close(c);
}

static void test_llm_compressed(void **state)
{
    write_llm(state);
    nb_quantize_args args =
        args_of(scratch_path(state, "llm"), scratch_path(state, "out.safetensors"));
    args.target.dialect = NB_FP4_COMPRESSED_TENSORS;
    assert_ok(run(&args)); /* into one file */
    nb_checkpoint *c = open_output(args.output);
    assert_true(scalar(c, "model.layers.0.self_attn.q_proj.weight_global_scale") !=
                scalar(c, "model.layers.0.self_attn.k_proj.weight_global_scale"));
    assert_int_equal(find(c, "model.layers.0.self_attn.v_proj.weight_packed")->shape[1], 16);
    nb_checkpoint_close(c);
    args.output = scratch_path(state, "out");
    assert_ok(run(&args));
    json_t *config = load(scratch_path(state, "out/config.json"));
    json_t *block = json_object_get(config, "quantization_config");
    json_t *ignore = json_object_get(block, "ignore");
    assert_string_equal(json_string_value(json_object_get(block, "format")),
                        "nvfp4-pack-quantized");
    assert_int_equal(json_array_size(ignore), 2); /* lm_head, the router */
    json_decref(config);
    assert_false(nb_file_exists(scratch_path(state, "out/hf_quant_config.json")));
}

/* ---- refusals ---- */

static void test_not_finite(void **state)
{
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const keep[] = {"bad"};
    static float data[4 * 32];
    nb_stored tensors[] = {tensor("a.weight", NB_DTYPE_F32, 6, 32),
                           tensor("bad.weight", NB_DTYPE_F32, 4, 32)};
    tensors[1].data = data;
    for (int i = 0; i < 9; i++) {
        static const int places[] = {0, 77, 127};
        memset(data, 0, sizeof data);
        data[places[i / 3]] = bad[i % 3];
        nb_quantize_args args = args_of(write_tensors(in, tensors, 2), out);
        args.target.format = i % 2 ? NB_QUANT_NVFP4 : NB_QUANT_FP8;
        assert_fails(run(&args), NB_E_DATA, "in.safetensors: tensor bad.weight: holds a NaN");
        check_empty(state, "in.safetensors");
        args.keep = keep;
        args.n_keep = 1; /* also where it is only copied */
        assert_fails(run(&args), NB_E_DATA, "in.safetensors: tensor bad.weight: holds a NaN");
    }
}

static void test_refusals(void **state)
{
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    nb_stored plain = tensor("a.weight", NB_DTYPE_F32, 6, 32);
    nb_quantize_args args = args_of(write_tensors(in, &plain, 1), out);
    args.target = (nb_quant_target){.format = NB_QUANT_MXFP4, .dialect = NB_FP4_COMFY};
    assert_fails(run(&args), NB_E_USAGE, "comfy has no MXFP4");
    args.target = (nb_quant_target){.format = NB_QUANT_FP8, .method = NB_FP4_SWEEP};
    assert_fails(run(&args), NB_E_USAGE, "only NVFP4");
    args = args_of(in, in);
    assert_fails(run(&args), NB_E_USAGE, "is what is read");
    args = args_of(scratch_path(state, "nothing"), out);
    assert_fails(run(&args), NB_E_NOINPUT, "nothing");
    args = args_of(in, scratch_path(state, "no/out.safetensors"));
    assert_fails(run(&args), NB_E_CANTCREATE, "its folder is not there");
    args = args_of(in, *state);
    assert_fails(run(&args), NB_E_CANTCREATE, "is a folder");
    check_empty(state, "in.safetensors");
}

/* Quantised weights that lack something or contradict themselves. */
static void test_broken_forms(void **state)
{
    static const float zero = 0, one = 1;
    const char *in = scratch_path(state, "in.safetensors");
    nb_quantize_args args = args_of(in, scratch_path(state, "out.safetensors"));
    nb_stored t[4] = {tensor("a.weight", NB_DTYPE_U8, 8, 16),
                      tensor("a.weight_scale", NB_DTYPE_F8_E4M3, 8, 2),
                      tensor("a.weight_scale_2", NB_DTYPE_F32, 1, 0),
                      tensor("a.weight_zero_point", NB_DTYPE_F32, 32, 0)};
    args.target.format = NB_QUANT_F32;
    t[2].data = &one;
    write_tensors(in, t, 1);
    assert_fails(run(&args), NB_E_DATA, "a.weight_scale is missing");
    write_tensors(in, t, 2);
    assert_fails(run(&args), NB_E_DATA, "a.weight_scale_2 is missing");
    write_tensors(in, t, 4);
    assert_fails(run(&args), NB_E_DATA, "a weight with weight_zero_point");
    t[2].data = &zero;
    write_tensors(in, t, 3);
    assert_fails(run(&args), NB_E_DATA, "the scale is 0");
    t[2].data = &one;
    t[1].shape[0] = 2;
    t[1].shape[1] = 8;
    write_tensors(in, t, 3);
    assert_fails(run(&args), NB_E_DATA, "a.weight_scale: wanted [8, 2], found [2, 8]");
    t[1].dtype = NB_DTYPE_I8;
    write_tensors(in, t, 3);
    assert_fails(run(&args), NB_E_DATA, "wanted F8_E4M3, F8_E8M0 or U8, found I8");
    check_empty(state, "in.safetensors");
}

static void test_folders_refused(void **state)
{
    write_llm(state);
    nb_quantize_args args = args_of(scratch_path(state, "llm"), scratch_path(state, "llm/out"));
    assert_fails(run(&args), NB_E_USAGE, "which is read");
    args.output = scratch_path(state, "full");
    assert_int_equal(mkdir(args.output, 0777), 0);
    scratch_write_text(scratch_path(state, "full/file"), "mine");
    assert_fails(run(&args), NB_E_CANTCREATE, "is there already");
    static const char *const names[] = {"transformer"};
    args.components = names;
    args.n_components = 1;
    args.output = scratch_path(state, "out");
    assert_fails(run(&args), NB_E_USAGE, "has no components");
}

/* Stopping leaves nothing; what a killed run left is removed, what a living one has is not. */
static void test_leftovers(void **state)
{
    char living[128];
    snprintf(living, sizeof living, "out.tmp%ld", (long)getppid());
    write_llm(state);
    assert_int_equal(mkdir(scratch_path(state, "out.tmp999999999"), 0777), 0);
    scratch_write_text(scratch_path(state, "out.tmp999999999/model.safetensors"), "half");
    scratch_write_text(scratch_path(state, "out.tmp1a"), "not ours");
    assert_int_equal(mkdir(scratch_path(state, living), 0777), 0);
    nb_quantize_args args = args_of(scratch_path(state, "llm"), scratch_path(state, "out"));
    atomic_store(&stop, 1);
    assert_fails(run(&args), NB_E_STOPPED, "stopped");
    atomic_store(&stop, 0);
    stream->status = NB_OK; /* the fault was the test's */
    assert_false(nb_file_exists(scratch_path(state, "out")));
    assert_false(nb_file_exists(scratch_path(state, "out.tmp999999999")));
    assert_true(nb_file_exists(scratch_path(state, "out.tmp1a")));
    assert_true(nb_file_exists(scratch_path(state, living)));
    assert_ok(run(&args));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_goldens),         TEST(test_copies),       TEST(test_again),
        TEST(test_importance),      TEST(test_llm_modelopt), TEST(test_llm_compressed),
        TEST(test_not_finite),      TEST(test_refusals),     TEST(test_broken_forms),
        TEST(test_folders_refused), TEST(test_leftovers)};
    draw_values();
    return cmocka_run_group_tests(tests, open_all, close_all);
}
