#include "models/packed.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/a4.h"

enum { NAME_BYTES = 512, E4M3_NAN = 0x7f, E8M0_NAN = 0xff };

#define TENSOR_FORMAT "%s: tensor %.300s: "

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static int is_ceil(int64_t padded, int64_t n, int64_t multiple)
{
    return padded == round_up(n, multiple);
}

/* --- what is beside a module --- */

/* Bytes of X in X.weight or X.weight_packed. */
static int module_bytes(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? (int)(dot - name) : 0;
}

static const nb_stored *beside(const nb_checkpoint *c, const nb_stored *t, const char *part)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%.*s.%s", module_bytes(t->name), t->name, part);
    return nb_checkpoint_find(c, name);
}

static nb_status need(const nb_checkpoint *c, const nb_stored *t, const char *part,
                      const nb_stored **out)
{
    *out = beside(c, t, part);
    if (*out) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "%.*s.%s is missing", t->file, t->name,
                   module_bytes(t->name), t->name, part);
}

int nb_packed_says_comfy(const nb_checkpoint *c, const char *module)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.comfy_quant", module);
    if (nb_checkpoint_find(c, name)) return 1;
    for (int i = 0; i < nb_checkpoint_n_files(c); i++)
        if (nb_container_metadata(nb_checkpoint_file(c, i), "_quantization_metadata")) return 1;
    return 0;
}

/* --- shapes --- */

static nb_status wrong_shape(const nb_stored *t, int64_t rows, int64_t columns)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(2, NB_SHAPE(rows, columns), want),
                   nb_shape_text(t->rank, t->shape, found));
}

static int has_shape(const nb_stored *t, int64_t rows, int64_t columns)
{
    return t->rank == 2 && t->shape[0] == rows && t->shape[1] == columns;
}

/* Rows without padding: comfy's are padded, and only a bias says how many there were. */
static void find_rows(const nb_checkpoint *c, int64_t wanted, int is_comfy, nb_packed *p)
{
    int64_t rows = p->codes->shape[0];
    const nb_stored *bias = is_comfy && !wanted ? beside(c, p->codes, "bias") : NULL;
    if (bias && bias->rank == 1) wanted = bias->shape[0];
    p->n = is_comfy && wanted && is_ceil(rows, wanted, NB_COMFY_ROW_MULTIPLE) ? wanted : rows;
}

/* --- the forms --- */

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

/* Two numbers are one too many to choose from; weight_packed has only ever the reciprocal. */
static nb_status find_number(const nb_checkpoint *c, nb_packed *p)
{
    const nb_stored *factor = beside(c, p->codes, "weight_scale_2");
    const nb_stored *reciprocal = beside(c, p->codes, "weight_global_scale");
    int is_packed = nb_name_ends_with(p->codes->name, ".weight_packed");
    if (factor && reciprocal)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "has two scales, %s and %s", p->codes->file,
                       p->codes->name, factor->name, reciprocal->name);
    if (!reciprocal && is_packed) return need(c, p->codes, "weight_global_scale", &reciprocal);
    if (!reciprocal) NB_TRY(need(c, p->codes, "weight_scale_2", &factor));
    p->dialect = reciprocal ? NB_FP4_COMPRESSED_TENSORS : NB_FP4_MODELOPT;
    return read_number(reciprocal ? reciprocal : factor, &p->tensor_scale);
}

/* The calibrated scale of x, which only NVFP4 has; files without one let it be found anew. */
static nb_status find_input_scale(const nb_checkpoint *c, nb_packed *p)
{
    const nb_stored *factor = beside(c, p->codes, "input_scale");
    const nb_stored *reciprocal = beside(c, p->codes, "input_global_scale");
    const nb_stored *t = factor ? factor : reciprocal;
    float value;
    if (!t) return NB_OK;
    if (factor && reciprocal)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "has two scales, %s and %s", p->codes->file,
                       p->codes->name, factor->name, reciprocal->name);
    NB_TRY(read_number(t, &value));
    p->input_scale = reciprocal ? 1.0f / value : value;
    if (p->input_scale >= NB_A4_SMALLEST) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "the scale is %g", t->file, t->name, (double)value);
}

static nb_status find_nvfp4(const nb_checkpoint *c, int64_t n, nb_packed *p)
{
    char module[NAME_BYTES];
    int64_t columns = p->k / NB_NVFP4_BLOCK;
    p->kind = NB_SCALE_NVFP4;
    NB_TRY(find_number(c, p));
    NB_TRY(find_input_scale(c, p));
    if (p->k % NB_NVFP4_BLOCK)
        return wrong_shape(p->codes, p->codes->shape[0], round_up(p->k, NB_NVFP4_BLOCK) / 2);
    snprintf(module, sizeof module, "%.*s", module_bytes(p->codes->name), p->codes->name);
    int may_tile = p->dialect == NB_FP4_MODELOPT, says = nb_packed_says_comfy(c, module);
    find_rows(c, n, may_tile, p);
    int plain = has_shape(p->scales, p->n, columns);
    p->is_tiled =
        may_tile && (!plain || says) &&
        has_shape(p->scales, round_up(p->n, NB_TILE_ROWS), round_up(columns, NB_TILE_COLUMNS));
    if (p->is_tiled) p->dialect = NB_FP4_COMFY;
    if (!p->is_tiled && may_tile && says)
        return wrong_shape(p->scales, round_up(p->n, NB_TILE_ROWS),
                           round_up(columns, NB_TILE_COLUMNS));
    if (!p->is_tiled) p->n = p->codes->shape[0];
    return plain || p->is_tiled ? NB_OK : wrong_shape(p->scales, p->n, columns);
}

static nb_status find_mxfp4(nb_packed *p)
{
    p->kind = NB_SCALE_MXFP4;
    if (nb_name_ends_with(p->codes->name, "_packed")) p->dialect = NB_FP4_COMPRESSED_TENSORS;
    if (p->k % NB_MXFP4_BLOCK)
        return wrong_shape(p->codes, p->n, round_up(p->k, NB_MXFP4_BLOCK) / 2);
    if (!has_shape(p->scales, p->n, p->k / NB_MXFP4_BLOCK))
        return wrong_shape(p->scales, p->n, p->k / NB_MXFP4_BLOCK);
    return NB_OK;
}

nb_status nb_packed_find(const nb_checkpoint *c, const nb_stored *codes, int64_t n,
                         nb_packed *out)
{
    nb_packed p = {.codes = codes, .dialect = NB_FP4_MODELOPT, .tensor_scale = 1};
    if (codes->rank != 2 || codes->shape[0] < 1 || codes->shape[1] < 1)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted a matrix of packed codes", codes->file,
                       codes->name);
    p.n = codes->shape[0];
    p.k = 2 * codes->shape[1];
    NB_TRY(need(c, codes, "weight_scale", &p.scales));
    switch (p.scales->dtype) {
    case NB_DTYPE_F8_E4M3:
        NB_TRY(find_nvfp4(c, n, &p));
        break;
    case NB_DTYPE_U8:
    case NB_DTYPE_F8_E8M0:
        NB_TRY(find_mxfp4(&p));
        break;
    default:
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted F8_E4M3, F8_E8M0 or U8, found %s",
                       p.scales->file, p.scales->name, nb_dtype_name(p.scales->dtype));
    }
    *out = p;
    return NB_OK;
}

/* --- the weight --- */

int64_t nb_tiled_place(int64_t row, int64_t column, int64_t columns)
{
    int64_t tile = row / NB_TILE_ROWS * (round_up(columns, NB_TILE_COLUMNS) / NB_TILE_COLUMNS) +
                   column / NB_TILE_COLUMNS;
    return tile * NB_TILE_ROWS * NB_TILE_COLUMNS + row % 32 * 16 + row % NB_TILE_ROWS / 32 * 4 +
           column % NB_TILE_COLUMNS;
}

static void untile(const nb_packed *p, int64_t columns, uint8_t *out)
{
    const uint8_t *scales = p->scales->data;
    for (int64_t row = 0; row < p->n; row++)
        for (int64_t i = 0; i < columns; i++)
            out[row * columns + i] = scales[nb_tiled_place(row, i, columns)];
}

/* Is any of eight scales NaN? E4M3: a byte of 7 bits that are all ones carries into its eighth
 * when 1 is added; E8M0: the complement has a byte of zeros. */
static int any_nan(uint64_t word, int is_nvfp4)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    if (is_nvfp4) return (((word & ~tops) + ones) & tops) != 0;
    return ((~word - ones) & word & tops) != 0;
}

/* Scales before the first word of eight that has a NaN in it. */
static int64_t sound_scales(const uint8_t *scales, int64_t n, int is_nvfp4)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, scales + i, sizeof word);
        if (any_nan(word, is_nvfp4)) break;
    }
    return i;
}

/* Every scale of a model is looked at before its first step, so eight at a time. */
static nb_status check_scales(const nb_packed *p, const uint8_t *scales, int64_t columns)
{
    int is_nvfp4 = p->kind == NB_SCALE_NVFP4;
    uint8_t mask = is_nvfp4 ? 0x7f : 0xff, nan = is_nvfp4 ? E4M3_NAN : E8M0_NAN;
    int64_t n = p->n * columns;
    for (int64_t i = sound_scales(scales, n, is_nvfp4); i < n; i++)
        if ((scales[i] & mask) == nan)
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "the scale of row %lld, block %lld is NaN",
                           p->scales->file, p->scales->name, (long long)(i / columns),
                           (long long)(i % columns));
    return NB_OK;
}

nb_status nb_packed_weight(const nb_packed *p, const nb_device *device, nb_arena *arena,
                           nb_weight *out)
{
    nb_weight w = {.data = p->codes->data,
                   .dtype = NB_DTYPE_F4_E2M1X2,
                   .n = p->n,
                   .k = p->k,
                   .scale_kind = p->kind,
                   .scales = p->scales->data,
                   .scale = 1.0f,
                   .input_scale = p->input_scale,
                   .high_first = p->dialect == NB_FP4_COMFY,
                   .device = device};
    int64_t columns = p->k >> nb_weight_block_bits(&w);
    float *values = nb_arena_alloc(arena, NB_SCALE_CODES * sizeof *values);
    uint8_t *plain = p->is_tiled ? nb_arena_alloc(arena, (size_t)(p->n * columns)) : NULL;
    if (!values || (p->is_tiled && !plain)) return NB_E_SYSTEM;
    if (p->is_tiled) {
        untile(p, columns, plain);
        w.scales = plain;
    }
    NB_TRY(check_scales(p, w.scales, columns));
    nb_weight_scale_values(p->kind, p->tensor_scale, p->dialect == NB_FP4_COMPRESSED_TENSORS,
                           values);
    w.scale_values = values;
    *out = w;
    return NB_OK;
}
