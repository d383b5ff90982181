/*
 * nb_quantize of every form that weights come in: what comes out computes the same, has the
 * names that it should have, and what is kept can still be read.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "models/canonical.h"
#include "models/quant_source.h"
#include "models/quantize.h"
#include "tests/unit/scratch.h"
#include "tests/unit/stream.h"

#define NUNCHAKU_FP4  "golden/flux/models/nunchaku/svdq-fp4_r16-flux.1-dev.safetensors"
#define NUNCHAKU_INT4 "golden/flux/models/nunchaku/svdq-int4-flux.1-dev"
#define GGUF          "golden/flux/models/gguf/flux1-dev.gguf"

static nb_quantize_result result;

static nb_status convert(const char *in, const char *out, nb_quant_format format,
                         nb_fp4_rule dialect, const char *keep)
{
    nb_quantize_args args = {.input = in, .output = out, .keep = &keep, .n_keep = keep != NULL};
    args.target.format = format;
    args.target.dialect = dialect;
    return nb_quantize(stream, &args, &result);
}

static nb_checkpoint *opened(const char *path)
{
    nb_checkpoint *c;
    assert_ok(nb_checkpoint_open(path, &c));
    return c;
}

/* Under canonical names. */
static nb_checkpoint *canonical(const char *path)
{
    nb_checkpoint *c;
    assert_ok(nb_canonical_open(path, &c));
    return c;
}

static const nb_stored *find(const nb_checkpoint *c, const char *name)
{
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (!t) fail_msg("%s is not in %s", name, nb_checkpoint_path(c));
    return t;
}

static float value(const nb_stored *t, int64_t i)
{
    return nb_load_f32(t->dtype, t->data, i);
}

/* ---- AWQ and SVDQuant, against what Model-Optimizer computes ---- */

/* x W'ᵀ + b, of the expanded W' alone. */
static void check_product(const nb_checkpoint *c, const char *module)
{
    char name[64];
    double low = INFINITY, high = -INFINITY, worst = 0;
    snprintf(name, sizeof name, "%s.input", module);
    const nb_stored *x = find(c, name);
    snprintf(name, sizeof name, "%s.output", module);
    const nb_stored *y = find(c, name);
    snprintf(name, sizeof name, "%s.weight", module);
    const nb_stored *w = find(c, name);
    snprintf(name, sizeof name, "%s.bias", module);
    const nb_stored *b = find(c, name);
    int64_t n = y->shape[1], k = x->shape[1];
    assert_true(w->dtype == NB_DTYPE_F32 && w->shape[0] == n && w->shape[1] == k);
    for (int64_t i = 0; i < nb_stored_count(y); i++) {
        double sum = (double)value(b, i % n), wanted = (double)value(y, i);
        for (int64_t j = 0; j < k; j++)
            sum += (double)value(x, i / n * k + j) * (double)value(w, i % n * k + j);
        worst = fmax(worst, fabs(sum - wanted));
        low = fmin(low, wanted);
        high = fmax(high, wanted);
    }
    if (!(worst <= 1e-5 * (high - low)))
        fail_msg("%s: off by %g of %g", module, worst, high - low);
}

static void expands_model_optimizer(void **state)
{
    static const char *const files[] = {"golden/fp4/modelopt-awq.safetensors",
                                        "golden/fp4/modelopt-svdquant.safetensors"};
    static const char *const layers[] = {"layer0", "layer1", "layer2", "layer3"};
    for (int i = 0; i < 2; i++) {
        const char *out = scratch_path(state, "out.safetensors");
        assert_ok(convert(files[i], out, NB_QUANT_F32, NB_FP4_MODELOPT, NULL));
        assert_int_equal(result.n_converted, 4);
        nb_checkpoint *c = opened(out);
        for (int j = 0; j < 4; j++) check_product(c, layers[j]);
        assert_null(nb_checkpoint_find(c, "layer0.pre_quant_scale"));
        assert_null(nb_checkpoint_find(c, "layer0.svdquant_lora_a"));
        assert_null(nb_checkpoint_find(c, "layer0.input_scale"));
        nb_checkpoint_close(c);
    }
}

/* Quantised again, it is what its expanded weights would be. */
static void quantises_effective_weights(void **state)
{
    const char *in = "golden/fp4/modelopt-svdquant.safetensors";
    const char *plain = scratch_path(state, "plain.safetensors");
    const char *direct = scratch_path(state, "direct.safetensors");
    const char *again = scratch_path(state, "again.safetensors");
    assert_ok(convert(in, plain, NB_QUANT_F32, NB_FP4_MODELOPT, NULL));
    for (int dialect = 0; dialect < NB_FP4_RULE_COUNT; dialect++) {
        assert_ok(convert(in, direct, NB_QUANT_NVFP4, (nb_fp4_rule)dialect, NULL));
        assert_ok(convert(plain, again, NB_QUANT_NVFP4, (nb_fp4_rule)dialect, NULL));
        nb_checkpoint *a = opened(direct), *b = opened(again);
        assert_int_equal(nb_checkpoint_n_tensors(a), nb_checkpoint_n_tensors(b));
        for (int64_t i = 0; i < nb_checkpoint_n_tensors(a); i++) {
            const nb_stored *t = nb_checkpoint_tensor(a, i), *u = find(b, t->name);
            assert_true(t->dtype == u->dtype && t->bytes == u->bytes);
            assert_memory_equal(t->data, u->data, t->bytes);
        }
        nb_checkpoint_close(a);
        nb_checkpoint_close(b);
    }
}

/* What is kept keeps all that is beside it. */
static void keeps_what_is_beside(void **state)
{
    const char *out = scratch_path(state, "out.safetensors");
    static const char *const parts[] = {"weight",         "weight_scale",    "weight_scale_2",
                                        "input_scale",    "pre_quant_scale", "svdquant_lora_a",
                                        "svdquant_lora_b"};
    const char *in = "golden/fp4/modelopt-svdquant.safetensors";
    assert_ok(convert(in, out, NB_QUANT_FP8, NB_FP4_MODELOPT, "layer1"));
    nb_checkpoint *a = opened(in), *b = opened(out);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer1.%s", parts[i]);
        const nb_stored *t = find(a, name), *u = find(b, name);
        assert_int_equal(t->bytes, u->bytes);
        assert_memory_equal(t->data, u->data, t->bytes);
    }
    assert_int_equal(find(b, "layer0.weight")->dtype, NB_DTYPE_F8_E4M3);
    assert_null(nb_checkpoint_find(b, "layer0.svdquant_lora_b"));
    nb_checkpoint_close(a);
    nb_checkpoint_close(b);
}

/* ---- FP8 ---- */

enum { ROWS = 256, COLUMNS = 384 };

static void expands_fp8(void **state)
{
    static uint8_t codes[ROWS * COLUMNS];
    static float rows[ROWS], blocks[2 * 3];
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    for (int i = 0; i < ROWS * COLUMNS; i++) codes[i] = (uint8_t)(i * 7 % 0x7f);
    for (int i = 0; i < ROWS; i++) rows[i] = 1.5f + (float)i;
    for (int i = 0; i < 6; i++) blocks[i] = 0.3f + (float)i;
#define W(name_)                                                                               \
    {.name = name_,                                                                            \
     .dtype = NB_DTYPE_F8_E4M3,                                                                \
     .rank = 2,                                                                                \
     .shape = {ROWS, COLUMNS},                                                                 \
     .data = codes,                                                                            \
     .bytes = sizeof codes}
    nb_stored t[] = {W("a.weight"),
                     {.name = "a.weight_scale",
                      .dtype = NB_DTYPE_F32,
                      .rank = 2,
                      .shape = {ROWS, 1},
                      .data = rows,
                      .bytes = sizeof rows},
                     W("b.weight"),
                     {.name = "b.weight_scale_inv",
                      .dtype = NB_DTYPE_F32,
                      .rank = 2,
                      .shape = {2, 3},
                      .data = blocks,
                      .bytes = sizeof blocks}};
    assert_ok(nb_safetensors_write(in, t, 4, NULL));
    assert_ok(convert(in, out, NB_QUANT_F32, NB_FP4_MODELOPT, NULL));
    nb_checkpoint *c = opened(out);
    assert_int_equal(nb_checkpoint_n_tensors(c), 2);
    const nb_stored *a = find(c, "a.weight"), *b = find(c, "b.weight");
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        float code = nb_f32_from_e4m3(codes[i]);
        int row = i / COLUMNS, block = row / 128 * 3 + i % COLUMNS / 128;
        assert_true(value(a, i) == code * rows[row]);
        assert_true(value(b, i) == code * blocks[block]);
    }
    nb_checkpoint_close(c);
}

/* ---- nunchaku ---- */

/* The effective weights of all matrices as nibble image has them, and biases, are there. */
static int compare_modules(const nb_checkpoint *image, const nb_checkpoint *out)
{
    char name[NB_MODULE_BYTES + 8];
    int n = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(image); i++) {
        nb_quant_source source;
        nb_weight w;
        const float *none;
        const nb_stored *t = nb_checkpoint_tensor(image, i);
        if (!nb_quant_module_of(t, source.module)) continue;
        nb_arena_mark mark = nb_arena_save(stream->arena);
        assert_ok(nb_quant_source_find(image, t, &source));
        assert_ok(nb_quant_source_weight(stream, image, &source, &w, &none));
        const nb_stored *u = find(out, t->name);
        assert_true(u->shape[0] == w.n && u->shape[1] == w.k);
        for (int64_t j = 0; j < w.n * w.k; j++)
            assert_true(nb_load_f32(w.dtype, w.data, j) == value(u, j));
        snprintf(name, sizeof name, "%s.bias", source.module);
        const nb_stored *bias = find(image, name);
        u = find(out, name);
        assert_int_equal(u->bytes, bias->bytes);
        assert_memory_equal(u->data, bias->data, u->bytes);
        nb_arena_rewind(stream->arena, mark);
        n++;
    }
    return n;
}

static void expands_nunchaku(void **state)
{
    static const char *const files[] = {NUNCHAKU_FP4, NUNCHAKU_INT4};
    for (int i = 0; i < 2; i++) {
        const char *out = scratch_path(state, "out.safetensors");
        assert_ok(convert(files[i], out, NB_QUANT_F32, NB_FP4_MODELOPT, NULL));
        nb_checkpoint *image = canonical(files[i]), *c = opened(out);
        assert_int_equal(compare_modules(image, c), 36);
        assert_int_equal(result.n_converted, 26);
        assert_null(nb_checkpoint_find(c, "transformer_blocks.0.attn.to_q.column_scales"));
        assert_int_equal(find(c, "transformer_blocks.0.attn.norm_q.weight")->rank, 1);
        /* It is no file of nunchaku's any more. */
        const nb_container *f = nb_checkpoint_file(c, 0);
        assert_null(nb_container_metadata(f, "quantization_config"));
        const char *config = nb_container_metadata(f, "config");
        assert_true(config && strstr(config, "\"FluxTransformer2DModel\""));
        nb_checkpoint_close(image);
        nb_checkpoint_close(c);
    }
}

/* A folder of two files becomes diffusers' folder, and its kept layers stay floats. */
static void converts_nunchaku_folders(void **state)
{
    const char *out = scratch_path(state, "out");
    assert_ok(convert(NUNCHAKU_INT4, out, NB_QUANT_NVFP4, NB_FP4_MODELOPT, "*.norm*.linear"));
    assert_int_equal(result.n_expanded, 4); /* modulations: two, and one of each single block */
    nb_checkpoint *c = opened(scratch_path(state, "out/diffusion_pytorch_model.safetensors"));
    const nb_stored *kept = find(c, "transformer_blocks.0.norm1.linear.weight");
    assert_true(kept->dtype == NB_DTYPE_BF16 && kept->shape[0] == 768);
    assert_int_equal(find(c, "x_embedder.weight")->dtype, NB_DTYPE_BF16);
    const nb_stored *q = find(c, "transformer_blocks.0.attn.to_q.weight");
    assert_true(q->dtype == NB_DTYPE_U8 && q->shape[0] == 128 && q->shape[1] == 64);
    /* Fused later, so of one scale, as Model-Optimizer has it. */
    float scale = value(find(c, "transformer_blocks.0.attn.to_q.weight_scale_2"), 0);
    assert_true(scale == value(find(c, "transformer_blocks.0.attn.to_k.weight_scale_2"), 0));
    nb_checkpoint_close(c);
    json_t *config;
    assert_ok(nb_json_load(scratch_path(state, "out/config.json"), &config));
    assert_string_equal(json_string_value(json_object_get(config, "_class_name")),
                        "FluxTransformer2DModel");
    assert_true(json_is_object(json_object_get(config, "quantization_config")));
    json_decref(config);
}

/* ---- GGUF ---- */

static void converts_gguf(void **state)
{
    const char *out = scratch_path(state, "out.safetensors");
    nb_checkpoint *in = opened(GGUF);
    assert_ok(convert(GGUF, out, NB_QUANT_NVFP4, NB_FP4_COMFY, "img_in"));
    nb_checkpoint *c = opened(out);
    const nb_stored *from = find(in, "img_in.weight"), *kept = find(c, "img_in.weight");
    assert_true(nb_dtype_elements(from->dtype) > 1 && kept->dtype == NB_DTYPE_BF16);
    assert_int_equal(result.n_expanded, 1);
    nb_weight w = {.data = from->data,
                   .dtype = from->dtype,
                   .n = from->shape[0],
                   .k = from->shape[1],
                   .scale = 1};
    static float row[4096];
    for (int64_t i = 0; i < w.n; i++) {
        nb_weight_decode_ref(&w, i, 0, w.k, row);
        for (int64_t j = 0; j < w.k; j++)
            assert_true(value(kept, i * w.k + j) == nb_f32_from_bf16(nb_bf16_from_f32(row[j])));
    }
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(in); i++) /* all under their own names */
        assert_non_null(nb_checkpoint_find(c, nb_checkpoint_tensor(in, i)->name));
    nb_checkpoint_close(in);
    nb_checkpoint_close(c);
}

static void append(uint8_t **at, const void *data, size_t bytes)
{
    memcpy(*at, data, bytes);
    *at += bytes;
}

static void append_text(uint8_t **at, const char *text)
{
    append(at, &(uint64_t){strlen(text)}, 8);
    append(at, text, strlen(text));
}

/* Two tensors of Q8_0 that are no matrices of layers: a table [2, 32], and one [2, 16, 2] whose
 * blocks run on over its rows. All steps are 0.5, codes 0, 1, 2 ... */
static void write_blocks(const char *path)
{
    enum { ARRAY = 9, I32 = 5, Q8_0 = 8, BLOCK = 34, EACH = 96 };
    static const char *const names[2] = {"table", "cube.weight"};
    static uint8_t file[1024];
    uint8_t *at = file;
    append(&at, "GGUF", 4);
    append(&at, (const uint32_t[]){3, 2, 0, 1, 0}, 20); /* version, tensors, keys */
    append_text(&at, "comfy.gguf.orig_shape.cube.weight");
    append(&at, (const uint32_t[]){ARRAY, I32, 3, 0, 2, 16, 2}, 28);
    for (uint64_t i = 0; i < 2; i++) {
        append_text(&at, names[i]);
        append(&at, (const uint32_t[]){2, 32, 0, 2, 0, Q8_0}, 24); /* rank, sizes, type */
        append(&at, &(uint64_t){EACH * i}, 8);
    }
    size_t n = ((size_t)(at - file) + 31) / 32 * 32;
    for (size_t i = 0; i < 4; i++) {
        uint8_t *block = file + n + i / 2 * EACH + i % 2 * BLOCK;
        append(&block, &(uint16_t){nb_f16_from_f32(0.5f)}, 2);
        for (size_t j = 0; j < 32; j++) block[j] = (uint8_t)(i % 2 * 32 + j);
    }
    scratch_write(path, file, n + EACH + 2 * BLOCK);
}

static void expands_blocks_of_no_matrix(void **state)
{
    const char *in = scratch_path(state, "in.gguf");
    const char *out = scratch_path(state, "out.safetensors");
    write_blocks(in);
    for (int is_f32 = 0; is_f32 < 2; is_f32++) {
        nb_dtype dtype = is_f32 ? NB_DTYPE_F32 : NB_DTYPE_BF16;
        nb_quant_format format = is_f32 ? NB_QUANT_F32 : NB_QUANT_NVFP4;
        assert_ok(convert(in, out, format, NB_FP4_MODELOPT, NULL));
        assert_true(result.n_expanded == (is_f32 ? 0 : 2));
        assert_true(result.n_converted == (is_f32 ? 2 : 0));
        nb_checkpoint *c = opened(out);
        const nb_stored *table = find(c, "table"), *cube = find(c, "cube.weight");
        assert_true(table->dtype == dtype && table->rank == 2 && table->shape[1] == 32);
        assert_true(cube->dtype == dtype && cube->rank == 3 && cube->shape[2] == 2);
        for (int i = 0; i < 64; i++) {
            assert_true(value(table, i) == 0.5f * (float)i);
            assert_true(value(cube, i) == 0.5f * (float)i);
        }
        nb_checkpoint_close(c);
    }
}

/* ---- NVFP4 that is kept beside NVFP4 of another layout ---- */

static void write_two(const char *path, const char *const *metadata)
{
    static float data[2][128 * 64];
    nb_stored t[2];
    for (int i = 0; i < 2 * 128 * 64; i++)
        data[i / 8192][i % 8192] = (float)(i * 37 % 101) - 50;
    for (int i = 0; i < 2; i++)
        t[i] = (nb_stored){.name = i ? "b.weight" : "a.weight",
                           .dtype = NB_DTYPE_F32,
                           .rank = 2,
                           .shape = {128, 64},
                           .data = data[i],
                           .bytes = sizeof data[i]};
    assert_ok(nb_safetensors_write(path, t, 2, metadata));
}

/* 128 rows and 4 columns of scales: their shape does not tell tiles from rows. */
static void never_mixes_layouts(void **state)
{
    static const nb_fp4_rule from[] = {NB_FP4_COMFY, NB_FP4_MODELOPT, NB_FP4_COMFY};
    static const nb_fp4_rule to[] = {NB_FP4_MODELOPT, NB_FP4_COMFY, NB_FP4_COMFY};
    const char *in = scratch_path(state, "in.safetensors");
    const char *four = scratch_path(state, "four.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    const char *before = scratch_path(state, "before.safetensors");
    const char *after = scratch_path(state, "after.safetensors");
    write_two(in, NULL);
    for (int i = 0; i < 3; i++) {
        int stays = from[i] == to[i];
        assert_ok(convert(in, four, NB_QUANT_NVFP4, from[i], NULL));
        assert_ok(convert(four, out, NB_QUANT_NVFP4, to[i], "b"));
        assert_int_equal(result.n_expanded, !stays);
        assert_ok(convert(four, before, NB_QUANT_BF16, NB_FP4_MODELOPT, NULL));
        assert_ok(convert(out, after, NB_QUANT_BF16, NB_FP4_MODELOPT, NULL));
        nb_checkpoint *a = opened(before), *b = opened(after), *c = opened(out);
        assert_int_equal(find(c, "b.weight")->dtype, stays ? NB_DTYPE_U8 : NB_DTYPE_BF16);
        assert_int_equal(find(c, "a.weight")->dtype, NB_DTYPE_U8);
        const nb_stored *t = find(a, "b.weight"), *u = find(b, "b.weight");
        assert_memory_equal(t->data, u->data, t->bytes);
        nb_checkpoint_close(a);
        nb_checkpoint_close(b);
        nb_checkpoint_close(c);
    }
}

/* Layers of comfy's that ask for unrounded inputs do so ever after. */
static void keeps_exact_inputs(void **state)
{
    static const nb_quant_format formats[] = {NB_QUANT_NVFP4, NB_QUANT_FP8};
    const char *in = scratch_path(state, "in.safetensors");
    const char *noted = scratch_path(state, "noted.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    static const char *const metadata[] = {
        "_quantization_metadata",
        "{\"format_version\": \"1.0\", \"layers\": {\"a\": {\"format\": \"float8_e4m3fn\", "
        "\"full_precision_matrix_mult\": true}, \"b\": {\"format\": \"float8_e4m3fn\"}}}",
        NULL};
    write_two(in, NULL);
    assert_ok(convert(in, out, NB_QUANT_FP8, NB_FP4_COMFY, NULL));
    nb_checkpoint *c = opened(out);
    nb_stored t[4];
    for (int i = 0; i < 4; i++) t[i] = *nb_checkpoint_tensor(c, i);
    assert_ok(nb_safetensors_write(noted, t, 4, metadata));
    nb_checkpoint_close(c);
    for (int i = 0; i < 2; i++) {
        assert_ok(convert(noted, out, formats[i], NB_FP4_COMFY, NULL));
        c = opened(out);
        assert_true(find(c, "a.weight")->exact_inputs);
        assert_false(find(c, "b.weight")->exact_inputs);
        nb_checkpoint_close(c);
    }
}

/* ---- what is refused ---- */

static void refuses(void **state)
{
    static const float data[16 * 16];
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
#define M(name_)                                                                               \
    {.name = name_,                                                                            \
     .dtype = NB_DTYPE_F32,                                                                    \
     .rank = 2,                                                                                \
     .shape = {16, 16},                                                                        \
     .data = data,                                                                             \
     .bytes = sizeof data}
    nb_stored lora[] = {M("transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
                        M("transformer.transformer_blocks.0.attn.to_q.lora_B.weight")};
    assert_ok(nb_safetensors_write(in, lora, 2, NULL));
    assert_fails(convert(in, out, NB_QUANT_NVFP4, NB_FP4_MODELOPT, NULL), NB_E_DATA,
                 "in.safetensors: is a LoRA");
    nb_stored branch[] = {M("a.weight"), M("a.svdquant_lora_a")};
    assert_ok(nb_safetensors_write(in, branch, 2, NULL));
    assert_fails(convert(in, out, NB_QUANT_F32, NB_FP4_MODELOPT, NULL), NB_E_DATA,
                 "a.svdquant_lora_b is missing");
    nb_stored scales[] = {M("a.weight"), M("a.pre_quant_scale")};
    assert_ok(nb_safetensors_write(in, scales, 2, NULL));
    assert_fails(convert(in, out, NB_QUANT_F32, NB_FP4_MODELOPT, NULL), NB_E_DATA,
                 "a.pre_quant_scale: wanted [16], found [16, 16]");
    assert_false(nb_file_exists(out));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(expands_model_optimizer),
        TEST(quantises_effective_weights),
        TEST(keeps_what_is_beside),
        TEST(expands_fp8),
        TEST(expands_nunchaku),
        TEST(converts_nunchaku_folders),
        TEST(converts_gguf),
        TEST(never_mixes_layouts),
        TEST(expands_blocks_of_no_matrix),
        TEST(keeps_exact_inputs),
        TEST(refuses),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
