#include "models/quant_source.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/fp4.h"
#include "models/bind.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

enum { COMFY_ROWS = 128, COMFY_COLUMNS = 4 };

/* ---- names ---- */

/* Cuts `suffix` off a name; 0 if it does not end so, or what is left is too long. */
static int cut(const char *name, const char *suffix, char module[NB_MODULE_BYTES])
{
    size_t n = strlen(name), m = strlen(suffix);
    if (n <= m || n - m >= NB_MODULE_BYTES || strcmp(name + n - m, suffix) != 0) return 0;
    memcpy(module, name, n - m);
    module[n - m] = 0;
    return 1;
}

int nb_quant_module_of(const nb_stored *t, char module[NB_MODULE_BYTES])
{
    if (t->rank != 2 || t->shape[0] < 1 || t->shape[1] < 1) return 0;
    switch (t->dtype) {
    case NB_DTYPE_U8:
        return cut(t->name, ".weight_packed", module) || cut(t->name, ".weight", module);
    case NB_DTYPE_F32:
    case NB_DTYPE_F16:
    case NB_DTYPE_BF16:
    case NB_DTYPE_F8_E4M3:
    case NB_DTYPE_F8_E5M2:
        return cut(t->name, ".weight", module);
    default:
        return nb_dtype_elements(t->dtype) > 1 && cut(t->name, ".weight", module);
    }
}

int nb_quant_is_part(const nb_stored *t, char module[NB_MODULE_BYTES])
{
    static const char *const suffixes[] = {
        ".weight_scale",      ".weight_scale_2", ".weight_global_scale", ".weight_scale_inv",
        ".scale_weight",      ".input_scale",    ".input_global_scale",  ".scale_input",
        ".weight_zero_point", ".comfy_quant",    ".weight_shape"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (cut(t->name, suffixes[i], module)) return 1;
    return 0;
}

static const nb_stored *beside(const nb_checkpoint *c, const char *module, const char *part)
{
    char name[NB_MODULE_BYTES + 32];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return nb_checkpoint_find(c, name);
}

static nb_status missing(const nb_quant_source *q, const char *part)
{
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "%s.%s is missing", q->tensor->file,
                   q->tensor->name, q->module, part);
}

static nb_status wrong_shape(const nb_stored *t, int64_t rows, int64_t columns)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    int64_t shape[2] = {rows, columns};
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(2, shape, want), nb_shape_text(t->rank, t->shape, found));
}

static int has_shape(const nb_stored *t, int64_t rows, int64_t columns)
{
    return t->rank == 2 && t->shape[0] == rows && t->shape[1] == columns;
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* ---- forms ---- */

/* A number beside the weight: finite, not 0. */
static nb_status read_number(const nb_stored *t, float *out)
{
    if (t->dtype != NB_DTYPE_F32 || nb_stored_count(t) != 1)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted one F32", t->file, t->name);
    float value = nb_load_f32(t->dtype, t->data, 0);
    if (!isfinite(value) || value == 0)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "the scale is %g", t->file, t->name,
                       (double)value);
    *out = value;
    return NB_OK;
}

/* comfy's files say so in their metadata, or by a tensor beside the weight. */
static int says_comfy(const nb_checkpoint *c, const nb_quant_source *q)
{
    if (beside(c, q->module, "comfy_quant")) return 1;
    for (int i = 0; i < nb_checkpoint_n_files(c); i++)
        if (nb_container_metadata(nb_checkpoint_file(c, i), "_quantization_metadata")) return 1;
    return 0;
}

static nb_status find_nvfp4(const nb_checkpoint *c, nb_quant_source *q)
{
    int packed = nb_name_ends_with(q->tensor->name, "_packed");
    const char *part = packed ? "weight_global_scale" : "weight_scale_2";
    const nb_stored *number = beside(c, q->module, part), *bias;
    int64_t columns = q->k / NB_NVFP4_BLOCK;
    int64_t tiled_rows = round_up(q->n, COMFY_ROWS);
    int64_t tiled_columns = round_up(columns, COMFY_COLUMNS);
    if (!number) return missing(q, part);
    if (q->k % NB_NVFP4_BLOCK) return wrong_shape(q->tensor, q->n, round_up(q->k, 16) / 2);
    NB_TRY(read_number(number, &q->tensor_scale));
    q->kind = NB_SOURCE_NVFP4;
    q->is_reciprocal = packed;
    int plain = has_shape(q->scales, q->n, columns);
    int tiled = !packed && has_shape(q->scales, tiled_rows, tiled_columns);
    q->is_comfy = tiled && (!plain || says_comfy(c, q));
    if (!plain && !tiled) return wrong_shape(q->scales, q->n, columns);
    /* Rows were padded to 16; only a bias says how many there were. */
    bias = q->is_comfy ? beside(c, q->module, "bias") : NULL;
    if (bias && bias->rank == 1 && round_up(bias->shape[0], 16) == q->n) q->n = bias->shape[0];
    return NB_OK;
}

static nb_status find_packed(const nb_checkpoint *c, nb_quant_source *q)
{
    q->k = 2 * q->tensor->shape[1];
    q->scales = beside(c, q->module, "weight_scale");
    if (!q->scales) return missing(q, "weight_scale");
    if (q->scales->dtype == NB_DTYPE_F8_E4M3) return find_nvfp4(c, q);
    if (q->scales->dtype != NB_DTYPE_U8 && q->scales->dtype != NB_DTYPE_F8_E8M0)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted F8_E4M3 or U8, found %s",
                       q->scales->file, q->scales->name, nb_dtype_name(q->scales->dtype));
    q->kind = NB_SOURCE_MXFP4;
    if (q->k % NB_MXFP4_BLOCK || !has_shape(q->scales, q->n, q->k / NB_MXFP4_BLOCK))
        return wrong_shape(q->scales, q->n, q->k / NB_MXFP4_BLOCK);
    return NB_OK;
}

static nb_status find_fp8(const nb_checkpoint *c, const nb_device *device, nb_arena *arena,
                          nb_quant_source *q)
{
    nb_binder b = {.checkpoint = c, .device = device, .arena = arena};
    q->kind = NB_SOURCE_FP8;
    q->w = nb_bind_weight(&b, q->n, q->k, "%s.weight", q->module);
    return b.status;
}

/* What multiplies the input or adds to the product is not in the weight. */
static nb_status refuse_extras(const nb_checkpoint *c, const nb_quant_source *q)
{
    static const char *const extras[] = {"pre_quant_scale", "svdquant_lora_a",
                                         "svdquant_lora_b", "weight_zero_point"};
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++)
        if (beside(c, q->module, extras[i]))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "a weight with %s cannot be converted yet",
                           q->tensor->file, q->tensor->name, extras[i]);
    return NB_OK;
}

nb_status nb_quant_source_find(const nb_checkpoint *c, const nb_stored *t,
                               const nb_device *device, nb_arena *arena, nb_quant_source *out)
{
    nb_quant_source q = {.tensor = t, .n = t->shape[0], .k = t->shape[1], .tensor_scale = 1};
    if (!nb_quant_module_of(t, q.module))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "is no weight matrix", t->file, t->name);
    NB_TRY(refuse_extras(c, &q));
    if (t->dtype == NB_DTYPE_U8) {
        NB_TRY(find_packed(c, &q));
    } else if (t->dtype == NB_DTYPE_F8_E4M3 || t->dtype == NB_DTYPE_F8_E5M2) {
        NB_TRY(find_fp8(c, device, arena, &q));
    } else {
        q.kind = nb_dtype_elements(t->dtype) > 1 ? NB_SOURCE_BLOCKS : NB_SOURCE_PLAIN;
        q.w = (nb_weight){.data = t->data,
                          .dtype = t->dtype,
                          .n = q.n,
                          .k = q.k,
                          .scale = 1.0f,
                          .device = device};
    }
    *out = q;
    return NB_OK;
}

/* ---- expanding ---- */

struct expand_task {
    const nb_quant_source *q;
    float *out; /* [n, k] */
};

/* The place of scale [row][column] in tiles of 128 rows and 4 columns; `columns` is a multiple
 * of 4. */
static int64_t tiled_place(int64_t row, int64_t column, int64_t columns)
{
    int64_t tile = row / COMFY_ROWS * (columns / COMFY_COLUMNS) + column / COMFY_COLUMNS;
    return tile * COMFY_ROWS * COMFY_COLUMNS + row % 32 * 16 + row % COMFY_ROWS / 32 * 4 +
           column % COMFY_COLUMNS;
}

static float step_of(const nb_quant_source *q, int64_t row, int64_t column)
{
    const uint8_t *scales = q->scales->data;
    int64_t columns = q->scales->shape[1];
    int64_t place = q->is_comfy ? tiled_place(row, column, columns) : row * columns + column;
    if (q->kind == NB_SOURCE_MXFP4) return nb_f32_from_e8m0(scales[place]);
    float s = nb_f32_from_e4m3(scales[place]);
    return q->is_reciprocal ? s / q->tensor_scale : s * q->tensor_scale;
}

static void expand_row(void *arg, int64_t row, int thread)
{
    const struct expand_task *t = arg;
    const nb_quant_source *q = t->q;
    const uint8_t *codes = (const uint8_t *)q->tensor->data + row * q->k / 2;
    int64_t block = q->kind == NB_SOURCE_MXFP4 ? NB_MXFP4_BLOCK : NB_NVFP4_BLOCK;
    (void)thread;
    for (int64_t k0 = 0; k0 < q->k; k0 += block) {
        float step = step_of(q, row, k0 / block);
        for (int64_t i = k0; i < k0 + block; i++) {
            int high = (i % 2 == 1) != q->is_comfy;
            t->out[row * q->k + i] = nb_f32_from_e2m1(codes[i / 2] >> (high ? 4 : 0)) * step;
        }
    }
}

nb_weight nb_quant_source_weight(nb_stream *s, const nb_quant_source *q)
{
    if (q->w.data) return q->w; /* as it lies */
    nb_tensor out = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(q->n, q->k));
    struct expand_task t = {.q = q, .out = nb_tensor_f32(out)};
    nb_parallel(s, q->n, expand_row, &t);
    return (nb_weight){.data = out.data,
                       .dtype = NB_DTYPE_F32,
                       .n = q->n,
                       .k = q->k,
                       .scale = 1.0f,
                       .device = s->device};
}
