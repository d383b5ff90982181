#include "models/quant_target.h"

#include <assert.h>
#include <string.h>

#include "kernels/fp8.h"
#include "models/packed.h"

int64_t nb_quant_multiple(nb_quant_format format)
{
    if (format == NB_QUANT_F32 || format == NB_QUANT_BF16) return 1;
    return format == NB_QUANT_MXFP4 ? NB_MXFP4_BLOCK : NB_NVFP4_BLOCK;
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

int64_t nb_quant_part_bytes(const nb_quant_part *part)
{
    int64_t bytes = (int64_t)nb_dtype_bytes(part->dtype);
    for (int i = 0; i < part->rank; i++) bytes *= part->shape[i];
    return bytes;
}

static nb_quant_part matrix(const char *suffix, nb_dtype dtype, int64_t rows, int64_t columns)
{
    return (nb_quant_part){suffix, dtype, 2, {rows, columns}};
}

/* One number; compressed-tensors makes a vector of it. */
static nb_quant_part number(const nb_quant_target *t, const char *suffix)
{
    int is_vector = t->dialect == NB_FP4_COMPRESSED_TENSORS;
    return (nb_quant_part){suffix, NB_DTYPE_F32, is_vector, {1, 0}};
}

/* Of the weight alone. */
static int weight_parts(const nb_quant_target *t, int64_t n, int64_t k,
                        nb_quant_part parts[NB_QUANT_MAX_PARTS])
{
    int is_ct = t->dialect == NB_FP4_COMPRESSED_TENSORS, is_comfy = t->dialect == NB_FP4_COMFY;
    const char *codes = is_ct ? ".weight_packed" : ".weight";
    int64_t columns = k / NB_NVFP4_BLOCK;
    switch (t->format) {
    case NB_QUANT_NVFP4:
        parts[0] = matrix(codes, NB_DTYPE_U8, is_comfy ? round_up(n, NB_COMFY_ROW_MULTIPLE) : n,
                          k / 2);
        parts[1] = matrix(".weight_scale", NB_DTYPE_F8_E4M3, n, columns);
        if (is_comfy)
            parts[1] = matrix(".weight_scale", NB_DTYPE_F8_E4M3, round_up(n, NB_TILE_ROWS),
                              round_up(columns, NB_TILE_COLUMNS));
        parts[2] = number(t, is_ct ? ".weight_global_scale" : ".weight_scale_2");
        return 3;
    case NB_QUANT_MXFP4:
        parts[0] = matrix(codes, NB_DTYPE_U8, n, k / 2);
        parts[1] = matrix(".weight_scale", NB_DTYPE_U8, n, k / NB_MXFP4_BLOCK);
        return 2;
    case NB_QUANT_FP8:
        parts[0] = matrix(".weight", NB_DTYPE_F8_E4M3, n, k);
        parts[1] = number(t, ".weight_scale");
        return 2;
    default:
        parts[0] =
            matrix(".weight", t->format == NB_QUANT_F32 ? NB_DTYPE_F32 : NB_DTYPE_BF16, n, k);
        return 1;
    }
}

int nb_quant_parts(const nb_quant_target *t, int64_t n, int64_t k,
                   nb_quant_part parts[NB_QUANT_MAX_PARTS])
{
    int n_parts = weight_parts(t, n, k, parts), is_nvfp4 = t->format == NB_QUANT_NVFP4;
    if (t->input_amax == 0) return n_parts;
    assert(is_nvfp4 || t->format == NB_QUANT_FP8);
    int is_reciprocal = is_nvfp4 && t->dialect == NB_FP4_COMPRESSED_TENSORS;
    parts[n_parts] = number(t, is_reciprocal ? ".input_global_scale" : ".input_scale");
    return n_parts + 1;
}

static uint8_t *zeros(nb_stream *s, int64_t bytes)
{
    uint8_t *data = nb_stream_tensor(s, NB_DTYPE_U8, 1, &bytes).data;
    if (data) memset(data, 0, (size_t)bytes);
    return data;
}

/* Codes high nibble first, rows behind the last filled with zeros. */
static const uint8_t *comfy_codes(nb_stream *s, const nb_quant_part *part, const uint8_t *codes,
                                  int64_t n, int64_t k)
{
    uint8_t *out = zeros(s, nb_quant_part_bytes(part));
    for (int64_t i = 0; out && i < n * k / 2; i++)
        out[i] = (uint8_t)(codes[i] << 4 | codes[i] >> 4);
    return out;
}

static const uint8_t *comfy_scales(nb_stream *s, const nb_quant_part *part,
                                   const uint8_t *scales, int64_t n, int64_t columns)
{
    uint8_t *out = zeros(s, nb_quant_part_bytes(part));
    for (int64_t r = 0; out && r < n; r++)
        for (int64_t c = 0; c < columns; c++)
            out[nb_tiled_place(r, c, columns)] = scales[r * columns + c];
    return out;
}

static void encode_nvfp4(nb_stream *s, const nb_quant_target *t, const nb_weight *w, float amax,
                         const float *importance, const void **data)
{
    nb_fp4_options options = {
        .rule = t->dialect, .method = t->method, .importance = importance, .amax = amax};
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    int64_t columns = w->k / NB_NVFP4_BLOCK;
    uint8_t *codes = zeros(s, w->n * w->k / 2), *scales = zeros(s, w->n * columns);
    float *tensor_scale = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, NB_SHAPE(1)));
    if (s->status) return;
    nb_quantize_nvfp4(s, w, &options, codes, scales, tensor_scale);
    nb_quant_parts(t, w->n, w->k, parts);
    int is_comfy = t->dialect == NB_FP4_COMFY;
    data[0] = is_comfy ? comfy_codes(s, &parts[0], codes, w->n, w->k) : codes;
    data[1] = is_comfy ? comfy_scales(s, &parts[1], scales, w->n, columns) : scales;
    data[2] = tensor_scale;
}

static void encode_mxfp4(nb_stream *s, const nb_quant_target *t, const nb_weight *w,
                         const void **data)
{
    assert(t->dialect != NB_FP4_COMFY);
    uint8_t *codes = zeros(s, w->n * w->k / 2);
    uint8_t *scales = zeros(s, w->n * w->k / NB_MXFP4_BLOCK);
    if (s->status) return;
    nb_quantize_mxfp4(s, w, t->dialect, codes, scales);
    data[0] = codes;
    data[1] = scales;
}

static void encode_fp8(nb_stream *s, const nb_quant_target *t, const nb_weight *w, float amax,
                       const void **data)
{
    uint8_t *codes = zeros(s, w->n * w->k);
    float *scale = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, NB_SHAPE(1)));
    if (s->status) return;
    nb_quantize_fp8(s, w, t->dialect, amax, codes, scale);
    data[0] = codes;
    data[1] = scale;
}

/* Of the inputs; as it is stored. */
static const float *input_scale(nb_stream *s, const nb_quant_target *t)
{
    float *scale = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, NB_SHAPE(1)));
    if (scale)
        *scale = t->format == NB_QUANT_FP8 ? t->input_amax / 448.0f
                                           : nb_nvfp4_tensor_scale(t->dialect, t->input_amax);
    return scale;
}

struct plain_task {
    const nb_weight *w;
    float *f32;
    uint16_t *bf16; /* one of the two */
    float *scratch; /* [threads, k] for BF16 */
};

static void plain_row(void *arg, int64_t row, int thread)
{
    const struct plain_task *t = arg;
    int64_t k = t->w->k;
    float *values = t->f32 ? t->f32 + row * k : t->scratch + thread * k;
    nb_weight_decode_ref(t->w, row, 0, k, values);
    for (int64_t i = 0; !t->f32 && i < k; i++)
        t->bf16[row * k + i] = nb_bf16_from_f32(values[i]);
}

static void encode_plain(nb_stream *s, const nb_quant_target *t, const nb_weight *w,
                         const void **data)
{
    struct plain_task task = {.w = w};
    nb_dtype dtype = t->format == NB_QUANT_F32 ? NB_DTYPE_F32 : NB_DTYPE_BF16;
    void *out = nb_stream_tensor(s, dtype, 2, NB_SHAPE(w->n, w->k)).data;
    if (t->format == NB_QUANT_F32)
        task.f32 = out;
    else
        task.bf16 = out;
    task.scratch =
        nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(s->threads, w->k)));
    nb_parallel(s, w->n, plain_row, &task);
    data[0] = out;
}

void nb_quant_encode(nb_stream *s, const nb_quant_target *target, const nb_weight *w,
                     float amax, const float *importance, const void *data[NB_QUANT_MAX_PARTS])
{
    switch (target->format) {
    case NB_QUANT_NVFP4:
        encode_nvfp4(s, target, w, amax, importance, data);
        break;
    case NB_QUANT_MXFP4:
        encode_mxfp4(s, target, w, data);
        break;
    case NB_QUANT_FP8:
        encode_fp8(s, target, w, amax, data);
        break;
    default:
        encode_plain(s, target, w, data);
    }
    if (target->input_amax != 0) {
        nb_quant_part parts[NB_QUANT_MAX_PARTS];
        data[nb_quant_parts(target, w->n, w->k, parts) - 1] = input_scale(s, target);
    }
}
