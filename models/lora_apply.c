/*
 * Terms become branches: the matrix's own branch, if its file has one, and every term's pair
 * are copied side by side.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "models/lora_terms.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* A branch while it is filled: down [rank, k], up [n, rank]. */
struct branch {
    nb_dtype dtype;
    int64_t n, k, rank;
    void *down, *up;
    int64_t filled; /* of its ranks */
};

/* Infinite where a float cannot hold it. */
static float as_float(double value)
{
    return fabs(value) <= FLT_MAX ? (float)value : INFINITY;
}

static void put(nb_dtype dtype, void *data, int64_t i, float value)
{
    if (dtype == NB_DTYPE_F32)
        ((float *)data)[i] = value;
    else
        ((uint16_t *)data)[i] = nb_bf16_from_f32(value);
}

static nb_status wrong_shape(const nb_stored *t, int64_t rows, int64_t columns,
                             const int64_t found_shape[2])
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(2, NB_SHAPE(rows, columns), want),
                   nb_shape_text(2, found_shape, found));
}

static nb_status check_shapes(const nb_lora_term *t, const nb_weight *w)
{
    const nb_lora_factor *f = &t->factors[0];
    if (t->n_rows == w->n && (!t->rank || t->columns == w->k)) return NB_OK;
    if (t->form != NB_LORA_PLAIN || !t->rank) /* told by what it makes */
        return wrong_shape(t->some, w->n, w->k, NB_SHAPE(t->n_rows, t->columns));
    if (t->columns != w->k) return wrong_shape(f->down, f->rank, w->k, NB_SHAPE(f->rank, f->k));
    return wrong_shape(f->up, w->n, f->rank, NB_SHAPE(t->n_rows, f->rank));
}

/* All numbers are finite, and stay so times `scale` as `dtype`. */
static nb_status check_numbers(const nb_stored *t, double scale, nb_dtype dtype)
{
    int64_t n = nb_stored_count(t);
    for (int64_t i = 0; i < n; i++) {
        double value = nb_load_f32(t->dtype, t->data, i), scaled = scale * value;
        if (!isfinite(value))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "element %lld is not finite", t->file,
                           t->name, (long long)i);
        int fits = fabs(scaled) <= FLT_MAX;
        if (fits && dtype == NB_DTYPE_BF16) fits = isfinite(nb_round_bf16((float)scaled));
        if (!fits)
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "element %lld times %g is too large for %s",
                           t->file, t->name, (long long)i, scale, nb_dtype_name(dtype));
    }
    return NB_OK;
}

/* The branch that the matrix has without LoRA. */
static void fill_own(struct branch *b, const nb_low_rank *own)
{
    for (int64_t i = 0; i < own->rank * b->k; i++)
        put(b->dtype, b->down, i, nb_load_f32(own->dtype, own->down, i));
    for (int64_t n = 0; n < b->n; n++)
        for (int64_t r = 0; r < own->rank; r++)
            put(b->dtype, b->up, n * b->rank + r,
                nb_load_f32(own->dtype, own->up, n * own->rank + r));
    b->filled = own->rank;
}

/* What is stored is finite, and so is what it is stored as, times the scale. */
static nb_status check_term(const nb_lora_term *t, nb_dtype dtype)
{
    int is_plain = t->form == NB_LORA_PLAIN;
    for (int i = 0; i < 2; i++) {
        const nb_lora_factor *f = &t->factors[i];
        if (f->down) NB_TRY(check_numbers(f->down, 1, is_plain ? dtype : NB_DTYPE_F32));
        if (f->up)
            NB_TRY(
                check_numbers(f->up, is_plain ? t->scale : 1, is_plain ? dtype : NB_DTYPE_F32));
    }
    return NB_OK;
}

/* Products of finite numbers may be none: both halves are looked at when they are there. */
static nb_status check_filled(const struct branch *b, const nb_lora_term *t)
{
    int good = 1;
    for (int64_t i = 0; i < t->rank * b->k; i++)
        good &= isfinite(nb_load_f32(b->dtype, b->down, b->filled * b->k + i));
    for (int64_t n = 0; n < b->n; n++)
        for (int64_t r = 0; r < t->rank; r++)
            good &= isfinite(nb_load_f32(b->dtype, b->up, n * b->rank + b->filled + r));
    if (good) return NB_OK;
    return nb_fail(NB_E_DATA,
                   TENSOR_FORMAT "its adapter has numbers that are too large for %s times %g",
                   t->some->file, t->some->name, nb_dtype_name(b->dtype), t->scale);
}

static nb_status fill_term(struct branch *b, const nb_lora_term *t)
{
    NB_TRY(check_term(t, b->dtype));
    for (int64_t r = 0; r < t->rank; r++)
        for (int64_t i = 0; i < b->k; i++)
            put(b->dtype, b->down, (b->filled + r) * b->k + i,
                as_float(nb_lora_down_at(t, r, i)));
    for (int64_t n = 0; n < b->n; n++) {
        int64_t row = (t->first_row + n) % t->rows;
        for (int64_t r = 0; r < t->rank; r++)
            put(b->dtype, b->up, n * b->rank + b->filled + r,
                as_float(t->scale * nb_lora_up_at(t, row, r)));
    }
    NB_TRY(check_filled(b, t));
    b->filled += t->rank;
    return NB_OK;
}

static nb_status add_bias(const nb_lora_term *t, float *bias, int64_t n)
{
    if (!t->bias) return NB_OK;
    if (!bias)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "the layer that it is for has no bias",
                       t->bias->file, t->bias->name);
    NB_TRY(check_numbers(t->bias, t->scale, NB_DTYPE_F32));
    for (int64_t i = 0; i < n; i++) {
        double value = nb_load_f32(t->bias->dtype, t->bias->data, (t->first_row + i) % t->rows);
        bias[i] = (float)(bias[i] + t->scale * value);
    }
    return NB_OK;
}

static int is_for(const nb_lora_term *t, const char *module)
{
    return strcmp(t->module, module) == 0;
}

static nb_status fill_branch(const nb_loras *l, const char *module, struct branch *b,
                             float *bias)
{
    for (int64_t i = 0; i < l->n_terms; i++) {
        const nb_lora_term *t = &l->terms[i];
        if (!is_for(t, module)) continue;
        NB_TRY(fill_term(b, t));
        NB_TRY(add_bias(t, bias, b->n));
    }
    return NB_OK;
}

nb_status nb_loras_apply(const nb_loras *l, const char *module, nb_arena *arena, nb_weight *w,
                         float *bias)
{
    struct branch b = {.dtype = l->compute == NB_COMPUTE_F32 ? NB_DTYPE_F32 : NB_DTYPE_BF16,
                       .n = w->n,
                       .k = w->k,
                       .rank = w->low_rank.rank};
    int64_t n_terms = 0;
    for (int64_t i = 0; i < l->n_terms; i++) {
        if (!is_for(&l->terms[i], module)) continue;
        NB_TRY(check_shapes(&l->terms[i], w));
        b.rank += l->terms[i].rank;
        n_terms++;
    }
    if (!n_terms) return NB_OK;
    if (!b.rank) return fill_branch(l, module, &b, bias); /* biases alone */
    size_t bytes = (size_t)b.rank * nb_dtype_bytes(b.dtype);
    b.down = nb_arena_alloc(arena, bytes * (size_t)b.k);
    b.up = nb_arena_alloc(arena, bytes * (size_t)b.n);
    if (!b.down || !b.up) return NB_E_SYSTEM;
    fill_own(&b, &w->low_rank);
    NB_TRY(fill_branch(l, module, &b, bias));
    w->low_rank = (nb_low_rank){.down = b.down, .up = b.up, .dtype = b.dtype, .rank = b.rank};
    return NB_OK;
}
