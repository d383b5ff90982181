/*
 * Each public function expands its name, finds the tensor (wanted), checks type and shape, and
 * makes a view (matrices) or a copy (vectors, odd scales). The first failure stays in the
 * binder; after it nothing is looked up and zeroed values are returned.
 */
#include "models/bind.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "models/lora.h"
#include "models/extras.h"
#include "models/packed.h"
#include "models/plausible.h"

enum { NAME_BYTES = 256, SCALE_BLOCK = 128 };

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* Expands `format`, the last parameter of the calling function, into `name`. */
#define EXPAND(name, format)                                                                   \
    do {                                                                                       \
        va_list args_;                                                                         \
        va_start(args_, format);                                                               \
        int bytes_ = vsnprintf(name, sizeof name, format, args_);                              \
        va_end(args_);                                                                         \
        assert(bytes_ >= 0 && (size_t)bytes_ < sizeof name);                                   \
        (void)bytes_;                                                                          \
    } while (0)

/* --- checks --- */

/* NULL, and the binder's status, if there is no such tensor. */
static const nb_stored *wanted(nb_binder *b, const char *name, int rank, const int64_t *shape)
{
    char want[NB_SHAPE_TEXT_BYTES];
    const nb_stored *t = nb_checkpoint_find_matrix(b->checkpoint, name);
    if (!t)
        b->status = nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found nothing",
                            nb_checkpoint_source(b->checkpoint), name,
                            nb_shape_text(rank, shape, want));
    return t;
}

static int is_f8(nb_dtype dtype)
{
    return dtype == NB_DTYPE_F8_E4M3 || dtype == NB_DTYPE_F8_E5M2;
}

static int is_matrix_type(nb_dtype dtype)
{
    return dtype == NB_DTYPE_F32 || dtype == NB_DTYPE_F16 || dtype == NB_DTYPE_BF16 ||
           is_f8(dtype);
}

static int is_block_type(nb_dtype dtype)
{
    return nb_dtype_elements(dtype) > 1;
}

static int is_float_type(nb_dtype dtype)
{
    return is_matrix_type(dtype) || dtype == NB_DTYPE_F64 || dtype == NB_DTYPE_F8_E8M0;
}

static nb_status check_type(const nb_stored *t, int good, const char *types)
{
    if (good) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name, types,
                   nb_dtype_name(t->dtype));
}

static nb_status wrong_shape(const nb_stored *t, int rank, const int64_t *shape)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(rank, shape, want), nb_shape_text(t->rank, t->shape, found));
}

/* The rank without trailing dimensions of 1. */
static int trimmed_rank(const nb_stored *t)
{
    int rank = t->rank;
    while (rank > 0 && t->shape[rank - 1] == 1) rank--;
    return rank;
}

/* Rows of k elements however the inner dimensions are written. A filter that is not square is
 * no [o, c, kh, kw] (some writers put channels last) and would be read as noise. */
static nb_status check_matrix_shape(const nb_stored *t, int64_t n, int64_t k)
{
    int rank = trimmed_rank(t);
    int64_t rows = rank > 0 ? t->shape[0] : 1;
    int good = rows == n && nb_stored_count(t) == n * k;
    if (rank == 4 && t->shape[2] != t->shape[3]) good = 0;
    return good ? NB_OK : wrong_shape(t, 2, (const int64_t[]){n, k});
}

static nb_status check_vector_shape(const nb_stored *t, int64_t n)
{
    int rank = trimmed_rank(t);
    int64_t count = rank > 0 ? t->shape[0] : 1;
    return rank <= 1 && count == n ? NB_OK : wrong_shape(t, 1, &n);
}

/* --- what is beside a matrix --- */

size_t nb_bind_part(const char *name)
{
    static const char *const parts[] = {
        "weight_scale", "weight_scale_2", "weight_global_scale", "weight_scale_inv",
        "scale_weight", "input_scale",    "input_global_scale",  "scale_input",
        "weight_shape", "comfy_quant",    "weight_zero_point"};
    const char *dot = strrchr(name, '.');
    if (!dot) return 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(dot + 1, parts[i]) == 0) return (size_t)(dot - name);
    return nb_extras_is_name(name) ? (size_t)(dot - name) : 0;
}

/* --- scales of FP8 --- */

static int is_scale_name(const char *name)
{
    return nb_name_ends_with(name, ".weight_scale") ||
           nb_name_ends_with(name, ".scale_weight") ||
           nb_name_ends_with(name, ".weight_scale_inv") ||
           nb_name_ends_with(name, "scaled_fp8");
}

static int is_scaled(nb_binder *b)
{
    int64_t n = nb_checkpoint_n_tensors(b->checkpoint);
    if (!b->scaled) b->scaled = -1;
    for (int64_t i = 0; b->scaled < 0 && i < n; i++)
        if (is_scale_name(nb_checkpoint_tensor(b->checkpoint, i)->name)) b->scaled = 1;
    return b->scaled > 0;
}

/* Finite, and not all zero: a writer that fails leaves such scales. */
static nb_status check_scale_values(const nb_stored *t)
{
    int64_t n = nb_stored_count(t);
    int any = 0;
    for (int64_t i = 0; i < n; i++) {
        float value = nb_load_f32(t->dtype, t->data, i);
        if (!isfinite(value))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "scale %lld is not finite", t->file,
                           t->name, (long long)i);
        any |= value != 0.0f;
    }
    return any ? NB_OK
               : nb_fail(NB_E_DATA, TENSOR_FORMAT "the scale is zero", t->file, t->name);
}

/* All elements as aligned F32: where they lie, or copied. NULL when memory is short. */
static const float *aligned_f32(nb_binder *b, const nb_stored *t)
{
    int64_t n = nb_stored_count(t);
    if (t->dtype == NB_DTYPE_F32 && (uintptr_t)t->data % sizeof(float) == 0) return t->data;
    float *copy = nb_arena_alloc(b->arena, (size_t)n * sizeof *copy);
    for (int64_t i = 0; copy && i < n; i++) copy[i] = nb_load_f32(t->dtype, t->data, i);
    return copy;
}

static int64_t blocks(int64_t n)
{
    return (n + SCALE_BLOCK - 1) / SCALE_BLOCK;
}

/* What the shape of scale `t` says about the matrix; NB_SCALE_NONE is one number. */
static nb_status scale_kind_of(const nb_stored *t, const nb_weight *w, nb_scale_kind *out)
{
    int64_t block_shape[2] = {blocks(w->n), blocks(w->k)};
    int by_block = nb_name_ends_with(t->name, "_inv");
    if (nb_stored_count(t) == 1) {
        *out = NB_SCALE_NONE;
        return NB_OK;
    }
    if (!by_block) {
        *out = NB_SCALE_ROW;
        return check_vector_shape(t, w->n);
    }
    *out = NB_SCALE_BLOCK128;
    if (t->rank == 2 && t->shape[0] == block_shape[0] && t->shape[1] == block_shape[1])
        return NB_OK;
    return wrong_shape(t, 2, block_shape);
}

static nb_status apply_scale(nb_binder *b, const nb_stored *t, nb_weight *w)
{
    nb_scale_kind kind;
    NB_TRY(check_type(t, is_float_type(t->dtype), "a floating type"));
    NB_TRY(scale_kind_of(t, w, &kind));
    NB_TRY(check_scale_values(t));
    if (kind == NB_SCALE_NONE) {
        w->scale = nb_load_f32(t->dtype, t->data, 0);
        return NB_OK;
    }
    const float *scales = aligned_f32(b, t);
    if (!scales) return NB_E_SYSTEM;
    w->scale_kind = kind;
    w->scales = scales;
    return NB_OK;
}

/* The scale beside `X.weight`, in *out, or NULL; two are one too many to choose from. */
static nb_status find_scale(const nb_binder *b, const nb_stored *weight, const nb_stored **out)
{
    static const char *const suffixes[] = {"weight_scale", "scale_weight", "weight_scale_inv"};
    char name[NAME_BYTES + 32];
    *out = NULL;
    if (!nb_name_ends_with(weight->name, ".weight")) return NB_OK;
    int stem = (int)(strlen(weight->name) - strlen("weight"));
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        snprintf(name, sizeof name, "%.*s%s", stem, weight->name, suffixes[i]);
        const nb_stored *t = nb_checkpoint_find(b->checkpoint, name);
        if (t && *out)
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "has two scales, %s and %s", weight->file,
                           weight->name, (*out)->name, name);
        if (t) *out = t;
    }
    return NB_OK;
}

static nb_status lacks_scale(const nb_stored *t)
{
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "%s without a scale in a scaled checkpoint",
                   t->file, t->name, nb_dtype_name(t->dtype));
}

/* --- binding --- */

static nb_status bind_packed(nb_binder *b, const nb_stored *t, int64_t n, int64_t k,
                             nb_weight *out)
{
    nb_packed p;
    NB_TRY(nb_packed_find(b->checkpoint, t, n, &p));
    if (!b->looked) {
        b->looked = 1;
        NB_TRY(nb_plausible_check(b->checkpoint));
    }
    if (p.n != n || p.k != k) return wrong_shape(t, 2, (const int64_t[]){n, k / 2});
    return nb_packed_weight(&p, b->device, b->arena, out);
}

/* Blocks have all their scales in them, and no decoder multiplies by one beside them: X.scale,
 * which llama.cpp writes beside its NVFP4, or what is a scale of FP8. */
static nb_status refuse_block_scale(const nb_binder *b, const nb_stored *t,
                                    const nb_stored *scale)
{
    char name[NAME_BYTES + 32];
    if (!is_block_type(t->dtype) || !nb_name_ends_with(t->name, ".weight")) return NB_OK;
    int stem = (int)(strlen(t->name) - strlen("weight"));
    snprintf(name, sizeof name, "%.*sscale", stem, t->name);
    if (!scale) scale = nb_checkpoint_find(b->checkpoint, name);
    if (!scale) return NB_OK;
    return nb_fail(NB_E_DATA,
                   TENSOR_FORMAT "a scale beside blocks of %s, which cannot be applied",
                   scale->file, scale->name, nb_dtype_name(t->dtype));
}

static nb_status bind_plain(nb_binder *b, const nb_stored *t, int64_t n, int64_t k,
                            nb_weight *out)
{
    const nb_stored *scale;
    NB_TRY(check_type(t, is_matrix_type(t->dtype) || is_block_type(t->dtype),
                      "F32, F16, BF16, F8_E4M3 or F8_E5M2"));
    NB_TRY(check_matrix_shape(t, n, k));
    if (k % nb_dtype_elements(t->dtype))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted columns in blocks of %lld, found %lld",
                       t->file, t->name, (long long)nb_dtype_elements(t->dtype), (long long)k);
    nb_weight w = {.data = t->data, .dtype = t->dtype, .n = n, .k = k, .scale = 1.0f};
    w.device = b->device;
    NB_TRY(find_scale(b, t, &scale));
    NB_TRY(refuse_block_scale(b, t, scale));
    if (scale) NB_TRY(apply_scale(b, scale, &w));
    if (!scale && is_f8(t->dtype) && is_scaled(b)) return lacks_scale(t);
    *out = w;
    return NB_OK;
}

static nb_status bind_matrix(nb_binder *b, const nb_stored *t, int64_t n, int64_t k,
                             nb_weight *out)
{
    if (t->dtype == NB_DTYPE_U8) return bind_packed(b, t, n, k, out);
    return bind_plain(b, t, n, k, out);
}

/* The weight of a linear layer, with what is beside it. */
static nb_status bind_product(nb_binder *b, const nb_stored *t, int64_t n, int64_t k,
                              nb_weight *out)
{
    nb_weight w = {0};
    NB_TRY(bind_matrix(b, t, n, k, &w));
    w.exact_inputs = t->exact_inputs;
    if (b->no_extras)
        NB_TRY(nb_extras_refuse(b->checkpoint, t));
    else
        NB_TRY(nb_extras_bind(b->checkpoint, t, b->arena, &w));
    *out = w;
    return NB_OK;
}

static nb_status bind_stored(nb_binder *b, const nb_stored *t, nb_weight *out)
{
    int64_t n = t->shape[0], k = t->shape[1];
    nb_packed p;
    if (t->dtype == NB_DTYPE_U8) {
        NB_TRY(nb_packed_find(b->checkpoint, t, 0, &p));
        n = p.n;
        k = p.k;
    }
    return bind_product(b, t, n, k, out);
}

nb_weight nb_bind_stored(nb_binder *b, const nb_stored *t)
{
    nb_weight w = {0};
    assert(t->rank == 2);
    if (!b->status) b->status = bind_stored(b, t, &w);
    return w;
}

static nb_weight product_named(nb_binder *b, int64_t n, int64_t k, const char *name)
{
    nb_weight w = {0};
    const nb_stored *t = b->status ? NULL : wanted(b, name, 2, NB_SHAPE(n, k));
    if (t) b->status = bind_product(b, t, n, k, &w);
    return w;
}

static nb_weight table_named(nb_binder *b, int64_t n, int64_t k, const char *name)
{
    nb_weight w = {0};
    const nb_stored *t = b->status ? NULL : wanted(b, name, 2, NB_SHAPE(n, k));
    if (t) b->status = bind_matrix(b, t, n, k, &w);
    if (t && !b->status) b->status = nb_extras_refuse(b->checkpoint, t);
    return w;
}

static nb_status bind_vector(nb_binder *b, const nb_stored *t, int64_t n, nb_tensor *out)
{
    NB_TRY(check_type(t, is_float_type(t->dtype), "a floating type"));
    NB_TRY(check_vector_shape(t, n));
    if (is_f8(t->dtype) && is_scaled(b)) return lacks_scale(t);
    float *data = nb_arena_alloc(b->arena, (size_t)n * sizeof *data);
    if (!data) return NB_E_SYSTEM;
    for (int64_t i = 0; i < n; i++) data[i] = nb_load_f32(t->dtype, t->data, i);
    *out = nb_tensor_view(b->device, data, NB_DTYPE_F32, 1, &n);
    return NB_OK;
}

static nb_tensor vector_named(nb_binder *b, int64_t n, const char *name)
{
    nb_tensor v = {0};
    const nb_stored *t = b->status ? NULL : wanted(b, name, 1, &n);
    if (t) b->status = bind_vector(b, t, n, &v);
    return v;
}

nb_layer nb_bind_layer(nb_binder *b, int64_t n, int64_t k, int has_bias, const char *format,
                       ...)
{
    char layer[NAME_BYTES], name[NAME_BYTES + 8];
    nb_layer l = {0};
    EXPAND(layer, format);
    snprintf(name, sizeof name, "%s.weight", layer);
    l.w = product_named(b, n, k, name);
    snprintf(name, sizeof name, "%s.bias", layer);
    if (has_bias) l.bias = vector_named(b, n, name);
    const nb_loras *loras = nb_checkpoint_loras(b->checkpoint);
    if (loras && !b->status)
        b->status = nb_loras_apply(loras, layer, b->arena, &l.w, nb_tensor_f32(l.bias));
    return l;
}

nb_weight nb_bind_weight(nb_binder *b, int64_t n, int64_t k, const char *format, ...)
{
    char name[NAME_BYTES];
    EXPAND(name, format);
    return table_named(b, n, k, name);
}

nb_tensor nb_bind_vector(nb_binder *b, int64_t n, const char *format, ...)
{
    char name[NAME_BYTES];
    EXPAND(name, format);
    return vector_named(b, n, name);
}

int nb_bind_has(const nb_binder *b, const char *format, ...)
{
    char name[NAME_BYTES];
    EXPAND(name, format);
    return nb_checkpoint_find(b->checkpoint, name) != NULL;
}
