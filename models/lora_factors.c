/*
 * Adapters that are products of two matrices, each of low rank, as branches of low rank.
 *
 *     LoHa   (A1 B1) * (A2 B2), element by element: column (r, s) of `up` is column r of A1
 *            times column s of A2, row (r, s) of `down` likewise: rank r1 r2
 *     LoKr   W1 kron W2 = (A1 kron A2) (B1 kron B2): rank r1 r2, where the rank of a W that is
 *            stored whole is the smaller one of its sides, and one of its factors the identity
 *
 * alpha is divided by the rank of LoHa's first product, of LoKr's second (or the first, if only
 * that is one); with both of LoKr's stored whole it means nothing.
 *
 * Source: LyCORIS (Yeh et al. 2023), sections 3 and 4; FedPara (Hyeon-Woo et al. 2021),
 * proposition 1, for the rank.
 */
#include <string.h>

#include "models/lora_terms.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* --- elements --- */

static double element(const nb_stored *t, int64_t row, int64_t column, int64_t columns)
{
    if (!t) return row == column;
    return nb_load_f32(t->dtype, t->data, row * columns + column);
}

double nb_lora_up_at(const nb_lora_term *t, int64_t row, int64_t r)
{
    const nb_lora_factor *a = &t->factors[0], *b = &t->factors[1];
    switch (t->form) {
    case NB_LORA_HADAMARD:
        return element(a->up, row, r / b->rank, a->rank) *
               element(b->up, row, r % b->rank, b->rank);
    case NB_LORA_KRONECKER:
        return element(a->up, row / b->n, r / b->rank, a->rank) *
               element(b->up, row % b->n, r % b->rank, b->rank);
    default:
        return element(a->up, row, r, a->rank);
    }
}

double nb_lora_down_at(const nb_lora_term *t, int64_t r, int64_t column)
{
    const nb_lora_factor *a = &t->factors[0], *b = &t->factors[1];
    switch (t->form) {
    case NB_LORA_HADAMARD:
        return element(a->down, r / b->rank, column, a->k) *
               element(b->down, r % b->rank, column, b->k);
    case NB_LORA_KRONECKER:
        return element(a->down, r / b->rank, column / b->k, a->k) *
               element(b->down, r % b->rank, column % b->k, b->k);
    default:
        return element(a->down, r, column, a->k);
    }
}

/* --- factors --- */

static nb_status wrong_shape(const nb_stored *t, int64_t rows, int64_t columns)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(2, NB_SHAPE(rows, columns), want),
                   nb_shape_text(t->rank, t->shape, found));
}

/* W stored whole: the identity stands on its longer side. */
static nb_status whole(const nb_stored *w, nb_lora_factor *out)
{
    NB_TRY(nb_lora_matrix_shape(w, &out->n, &out->k));
    out->rank = out->n < out->k ? out->n : out->k;
    out->up = out->n < out->k ? NULL : w;
    out->down = out->n < out->k ? w : NULL;
    return NB_OK;
}

static nb_status pair(const nb_stored *a, const nb_stored *b, nb_lora_factor *out)
{
    int64_t rank;
    NB_TRY(nb_lora_matrix_shape(a, &out->n, &out->rank));
    NB_TRY(nb_lora_matrix_shape(b, &rank, &out->k));
    if (rank != out->rank) return wrong_shape(b, out->rank, out->k);
    out->up = a;
    out->down = b;
    return NB_OK;
}

/* Of the three parts from `first` on: W, or A and B. */
static nb_status find_factor(const char *kind, const nb_stored *const parts[NB_LORA_N_PARTS],
                             int first, const nb_stored *some, nb_lora_factor *out)
{
    const nb_stored *w = parts[first], *a = parts[first + 1], *b = parts[first + 2];
    if (w && (a || b))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "%.300s means the same", w->file, w->name,
                       (a ? a : b)->name);
    if (w) return whole(w, out);
    if (a && b) return pair(a, b, out);
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "other parts of its %s adapter are missing",
                   some->file, some->name, kind);
}

static nb_status check_products(const nb_lora_factor *f)
{
    if (f[1].n != f[0].n) return wrong_shape(f[1].up, f[0].n, f[1].rank);
    if (f[1].k != f[0].k) return wrong_shape(f[1].down, f[1].rank, f[0].k);
    return NB_OK;
}

nb_status nb_lora_product(const char *kind, const nb_stored *const parts[NB_LORA_N_PARTS],
                          nb_lora_term *term, int64_t *divisor)
{
    nb_lora_factor f[2] = {{.up = NULL}};
    const nb_stored *some = NULL;
    int is_loha = strcmp(kind, "LoHa") == 0;
    for (int i = NB_LORA_N_PARTS - 1; i >= 0; i--)
        if (parts[i]) some = parts[i];
    NB_TRY(find_factor(kind, parts, NB_LORA_W1, some, &f[0]));
    NB_TRY(find_factor(kind, parts, NB_LORA_W2, some, &f[1]));
    if (is_loha) NB_TRY(check_products(f));
    if (__builtin_mul_overflow(f[0].rank, f[1].rank, &term->rank) ||
        __builtin_mul_overflow(f[0].n, is_loha ? 1 : f[1].n, &term->rows) ||
        __builtin_mul_overflow(f[0].k, is_loha ? 1 : f[1].k, &term->columns))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "its %s adapter is too large", some->file,
                       some->name, kind);
    term->form = is_loha ? NB_LORA_HADAMARD : NB_LORA_KRONECKER;
    term->factors[0] = f[0];
    term->factors[1] = f[1];
    term->some = some;
    *divisor = 0;
    if (is_loha || parts[NB_LORA_W1_B]) *divisor = f[0].rank;
    if (!is_loha && parts[NB_LORA_W2_B]) *divisor = f[1].rank;
    return NB_OK;
}
