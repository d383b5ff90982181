/*
 * The quantisers against the libraries that write such checkpoints: the same bytes, and the
 * same values when expanded again (golden/make_fp4.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "kernels/fp4.h"
#include "kernels/fp8.h"
#include "models/safetensors.h"
#include "tests/unit/scratch.h"

static nb_device *device;
static nb_stream *stream;
static nb_safetensors *input;

static int open_all(void **state)
{
    (void)state;
    return nb_device_open_cpu(nb_cpu_caps(), &device) ||
           nb_stream_create(device, NB_COMPUTE_F32, 2, NULL, &stream) ||
           nb_safetensors_open("golden/fp4/input.safetensors", &input);
}

static int close_all(void **state)
{
    (void)state;
    nb_safetensors_close(input);
    nb_stream_destroy(stream);
    nb_device_close(device);
    return 0;
}

/* What one library made of one tensor, and what is compared with it. */
struct golden {
    const nb_safetensors *file;
    char name[64];
    nb_weight w;
    uint8_t *codes, *scales; /* ours */
};

static const nb_stored *part(const struct golden *g, const char *suffix)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", g->name, suffix);
    const nb_stored *t = nb_safetensors_find(g->file, name);
    if (!t) fail_msg("%s is not in the golden file", name);
    return t;
}

static void same_bytes(const struct golden *g, const char *suffix, const void *ours,
                       size_t bytes)
{
    const nb_stored *t = part(g, suffix);
    const uint8_t *a = ours, *b = t->data;
    if (t->bytes != bytes) fail_msg("%s: %zu bytes, not %zu", t->name, bytes, t->bytes);
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %zu is %02x, the library's %02x", t->name, i, a[i], b[i]);
}

/* Value `i` of row `row` out of `codes`, as the format multiplies it. */
typedef float value_fn(const struct golden *g, int64_t row, int64_t i, float tensor_scale);

static void same_values(const struct golden *g, value_fn *value, float tensor_scale)
{
    const nb_stored *t = part(g, "dequantized");
    assert_int_equal(nb_stored_count(t), g->w.n * g->w.k);
    for (int64_t row = 0; row < g->w.n; row++)
        for (int64_t i = 0; i < g->w.k; i++) {
            float ours = value(g, row, i, tensor_scale);
            float theirs = nb_load_f32(NB_DTYPE_F32, t->data, row * g->w.k + i);
            if (ours != theirs)
                fail_msg("%s: [%d, %d] is %.9g, the library's %.9g", t->name, (int)row, (int)i,
                         (double)ours, (double)theirs);
        }
}

/* Runs `check` for every tensor of the input that the library's file holds. */
static void for_each(const char *path, const char *codes_name, void (*check)(struct golden *))
{
    nb_safetensors *file;
    int n_cases = 0;
    assert_ok(nb_safetensors_open(path, &file));
    for (int64_t i = 0; i < nb_safetensors_n_tensors(input); i++) {
        const nb_stored *t = nb_safetensors_tensor(input, i);
        struct golden g = {.file = file};
        char name[96];
        snprintf(g.name, sizeof g.name, "%.*s", (int)(strlen(t->name) - strlen(".weight")),
                 t->name);
        snprintf(name, sizeof name, "%s.%s", g.name, codes_name);
        if (!nb_safetensors_find(file, name)) continue;
        g.w = (nb_weight){.data = t->data,
                          .dtype = t->dtype,
                          .n = t->shape[0],
                          .k = t->shape[1],
                          .scale = 1,
                          .device = device};
        g.codes = malloc((size_t)(g.w.n * g.w.k));
        g.scales = malloc((size_t)(g.w.n * g.w.k));
        assert_true(g.codes && g.scales);
        check(&g);
        free(g.codes);
        free(g.scales);
        n_cases++;
    }
    nb_safetensors_close(file);
    assert_true(n_cases >= 20);
}

static unsigned code_at(const struct golden *g, int64_t row, int64_t i)
{
    return g->codes[(row * g->w.k + i) / 2] >> (i % 2 * 4) & 15;
}

/* ---- NVFP4 ---- */

static float quantize_nvfp4(struct golden *g, nb_fp4_rule rule)
{
    float tensor_scale = 0;
    nb_fp4_options options = {.rule = rule, .method = NB_FP4_MAX};
    nb_quantize_nvfp4(stream, &g->w, &options, g->codes, g->scales, &tensor_scale);
    assert_ok(nb_stream_sync(stream));
    return tensor_scale;
}

static float nvfp4_scale(const struct golden *g, int64_t row, int64_t i)
{
    return nb_f32_from_e4m3(g->scales[(row * g->w.k + i) / NB_NVFP4_BLOCK]);
}

static float nvfp4_value(const struct golden *g, int64_t row, int64_t i, float tensor_scale)
{
    return nb_f32_from_e2m1(code_at(g, row, i)) * (nvfp4_scale(g, row, i) * tensor_scale);
}

static float nvfp4_value_reciprocal(const struct golden *g, int64_t row, int64_t i, float scale)
{
    return nb_f32_from_e2m1(code_at(g, row, i)) * (nvfp4_scale(g, row, i) / scale);
}

static void check_modelopt_nvfp4(struct golden *g)
{
    float tensor_scale = quantize_nvfp4(g, NB_FP4_MODELOPT);
    size_t n = (size_t)(g->w.n * g->w.k);
    same_bytes(g, "weight_scale_2", &tensor_scale, sizeof tensor_scale);
    same_bytes(g, "weight_scale", g->scales, n / NB_NVFP4_BLOCK);
    same_bytes(g, "weight", g->codes, n / 2);
    same_values(g, nvfp4_value, tensor_scale);
}

static void check_compressed_nvfp4(struct golden *g)
{
    float tensor_scale = quantize_nvfp4(g, NB_FP4_COMPRESSED_TENSORS);
    size_t n = (size_t)(g->w.n * g->w.k);
    same_bytes(g, "weight_global_scale", &tensor_scale, sizeof tensor_scale);
    same_bytes(g, "weight_scale", g->scales, n / NB_NVFP4_BLOCK);
    same_bytes(g, "weight_packed", g->codes, n / 2);
    same_values(g, nvfp4_value_reciprocal, tensor_scale);
}

/* High nibble first, rows padded to 16, scales in tiles of 128 rows and 4 columns. */
static void check_comfy_nvfp4(struct golden *g)
{
    float tensor_scale = quantize_nvfp4(g, NB_FP4_COMFY);
    int64_t n = g->w.n, k = g->w.k, columns = k / NB_NVFP4_BLOCK;
    int64_t rows16 = (n + 15) / 16 * 16, tiles = (columns + 3) / 4;
    int64_t n_scales = (n + 127) / 128 * tiles * 512;
    uint8_t *codes = calloc(1, (size_t)(rows16 * k / 2));
    uint8_t *scales = calloc(1, (size_t)n_scales);
    assert_true(codes && scales);
    for (int64_t i = 0; i < n * k / 2; i++)
        codes[i] = (uint8_t)(g->codes[i] >> 4 | g->codes[i] << 4);
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < columns; c++)
            scales[(r / 128 * tiles + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4] =
                g->scales[r * columns + c];
    same_bytes(g, "weight_scale_2", &tensor_scale, sizeof tensor_scale);
    same_bytes(g, "weight_scale", scales, (size_t)n_scales);
    same_bytes(g, "weight", codes, (size_t)(rows16 * k / 2));
    same_values(g, nvfp4_value, tensor_scale);
    free(codes);
    free(scales);
}

static void test_nvfp4(void **state)
{
    (void)state;
    for_each("golden/fp4/modelopt-nvfp4.safetensors", "weight", check_modelopt_nvfp4);
    for_each("golden/fp4/compressed-tensors-nvfp4.safetensors", "weight_packed",
             check_compressed_nvfp4);
    for_each("golden/fp4/comfy-nvfp4.safetensors", "weight", check_comfy_nvfp4);
}

/* ---- MXFP4 ---- */

static float mxfp4_value(const struct golden *g, int64_t row, int64_t i, float tensor_scale)
{
    (void)tensor_scale;
    return nb_f32_from_e2m1(code_at(g, row, i)) *
           nb_f32_from_e8m0(g->scales[(row * g->w.k + i) / NB_MXFP4_BLOCK]);
}

static void check_mxfp4(struct golden *g, nb_fp4_rule rule, const char *codes_name)
{
    size_t n = (size_t)(g->w.n * g->w.k);
    nb_quantize_mxfp4(stream, &g->w, rule, g->codes, g->scales);
    assert_ok(nb_stream_sync(stream));
    same_bytes(g, "weight_scale", g->scales, n / NB_MXFP4_BLOCK);
    same_bytes(g, codes_name, g->codes, n / 2);
    same_values(g, mxfp4_value, 1);
}

static void check_modelopt_mxfp4(struct golden *g)
{
    check_mxfp4(g, NB_FP4_MODELOPT, "weight");
}

static void check_compressed_mxfp4(struct golden *g)
{
    check_mxfp4(g, NB_FP4_COMPRESSED_TENSORS, "weight_packed");
}

static void test_mxfp4(void **state)
{
    (void)state;
    for_each("golden/fp4/modelopt-mxfp4.safetensors", "weight", check_modelopt_mxfp4);
    for_each("golden/fp4/compressed-tensors-mxfp4.safetensors", "weight_packed",
             check_compressed_mxfp4);
}

/* ---- FP8 ---- */

static float fp8_value(const struct golden *g, int64_t row, int64_t i, float tensor_scale)
{
    return nb_f32_from_e4m3(g->codes[row * g->w.k + i]) * tensor_scale;
}

static void check_fp8(struct golden *g, nb_fp4_rule rule)
{
    float scale = 0;
    char dequantized[96];
    nb_quantize_fp8(stream, &g->w, rule, 0, g->codes, &scale);
    assert_ok(nb_stream_sync(stream));
    same_bytes(g, "weight_scale", &scale, sizeof scale);
    same_bytes(g, "weight", g->codes, (size_t)(g->w.n * g->w.k));
    snprintf(dequantized, sizeof dequantized, "%s.dequantized", g->name);
    if (nb_safetensors_find(g->file, dequantized)) same_values(g, fp8_value, scale);
}

static void check_modelopt_fp8(struct golden *g)
{
    check_fp8(g, NB_FP4_MODELOPT);
}

static void check_compressed_fp8(struct golden *g)
{
    check_fp8(g, NB_FP4_COMPRESSED_TENSORS);
}

static void check_comfy_fp8(struct golden *g)
{
    check_fp8(g, NB_FP4_COMFY);
}

static void test_fp8(void **state)
{
    (void)state;
    for_each("golden/fp4/modelopt-fp8.safetensors", "weight", check_modelopt_fp8);
    for_each("golden/fp4/compressed-tensors-fp8.safetensors", "weight", check_compressed_fp8);
    for_each("golden/fp4/comfy-fp8.safetensors", "weight", check_comfy_fp8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nvfp4), cmocka_unit_test(test_mxfp4), cmocka_unit_test(test_fp8)};
    return cmocka_run_group_tests(tests, open_all, close_all);
}
