#include "models/extras.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 512 };

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* The two families of names; a matrix has those of one. */
static const struct names {
    const char *scales, *down, *up;
} families[] = {{"pre_quant_scale", "svdquant_lora_a", "svdquant_lora_b"},
                {"column_scales", "low_rank_down", "low_rank_up"}};
enum { MODELOPT, OTHERS, N_FAMILIES };

int nb_extras_is_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    for (int i = 0; dot && i < N_FAMILIES; i++)
        if (strcmp(dot + 1, families[i].scales) == 0 ||
            strcmp(dot + 1, families[i].down) == 0 || strcmp(dot + 1, families[i].up) == 0)
            return 1;
    return 0;
}

static const nb_stored *beside(const nb_checkpoint *c, const nb_stored *t, const char *part)
{
    char name[NAME_BYTES];
    const char *dot = strrchr(t->name, '.');
    snprintf(name, sizeof name, "%.*s.%s", dot ? (int)(dot - t->name) : 0, t->name, part);
    return nb_checkpoint_find(c, name);
}

static nb_status wrong_shape(const nb_stored *t, int rank, const int64_t *wanted)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(rank, wanted, want), nb_shape_text(t->rank, t->shape, found));
}

static nb_status check_float(const nb_stored *t)
{
    if (t->dtype == NB_DTYPE_F32 || t->dtype == NB_DTYPE_F16 || t->dtype == NB_DTYPE_BF16)
        return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted F32, F16 or BF16, found %s", t->file,
                   t->name, nb_dtype_name(t->dtype));
}

/* All elements as F32 in the arena, each times its column's scale unless that is NULL. */
static nb_status to_f32(const nb_stored *t, const float *scales, int64_t columns,
                        nb_arena *arena, float **out)
{
    int64_t n = nb_stored_count(t);
    float *values = nb_arena_alloc(arena, (size_t)n * sizeof *values);
    if (!values) return NB_E_SYSTEM;
    for (int64_t i = 0; i < n; i++) {
        values[i] = nb_load_f32(t->dtype, t->data, i);
        if (scales) values[i] *= scales[i % columns];
        if (!isfinite(values[i]))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "element %lld is not finite", t->file,
                           t->name, (long long)i);
    }
    *out = values;
    return NB_OK;
}

static nb_status bind_scales(const nb_stored *t, nb_arena *arena, nb_weight *w)
{
    float *scales = NULL;
    NB_TRY(check_float(t));
    if (t->rank < 1 || nb_stored_count(t) != w->k || t->shape[t->rank - 1] != w->k)
        return wrong_shape(t, 1, &w->k);
    NB_TRY(to_f32(t, NULL, w->k, arena, &scales));
    w->column_scales = scales;
    return NB_OK;
}

static nb_status check_branch(const nb_stored *down, const nb_stored *up, const nb_weight *w)
{
    int64_t rank = down->rank == 2 ? down->shape[0] : 0;
    NB_TRY(check_float(down));
    NB_TRY(check_float(up));
    if (rank < 1 || down->shape[1] != w->k)
        return wrong_shape(down, 2, (const int64_t[]){rank > 0 ? rank : 1, w->k});
    if (up->rank != 2 || up->shape[0] != w->n || up->shape[1] != rank)
        return wrong_shape(up, 2, (const int64_t[]){w->n, rank});
    return NB_OK;
}

/* `of_scaled`: down is of the x that is scaled already. */
static nb_status bind_branch(const nb_stored *down, const nb_stored *up, int of_scaled,
                             nb_arena *arena, nb_weight *w)
{
    nb_low_rank r = {.down = down->data, .up = up->data, .dtype = down->dtype};
    NB_TRY(check_branch(down, up, w));
    r.rank = down->shape[0];
    if ((of_scaled && w->column_scales) || down->dtype != up->dtype) {
        float *values = NULL;
        NB_TRY(to_f32(down, of_scaled ? w->column_scales : NULL, w->k, arena, &values));
        r.down = values;
        NB_TRY(to_f32(up, NULL, r.rank, arena, &values));
        r.up = values;
        r.dtype = NB_DTYPE_F32;
    }
    w->low_rank = r;
    return NB_OK;
}

static nb_status missing(const nb_stored *there, const nb_stored *matrix, const char *part)
{
    const char *dot = strrchr(matrix->name, '.');
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "%.*s.%s is missing", there->file, there->name,
                   dot ? (int)(dot - matrix->name) : 0, matrix->name, part);
}

static nb_status bind_family(const nb_checkpoint *c, const nb_stored *matrix, int family,
                             nb_arena *arena, nb_weight *w)
{
    const struct names *names = &families[family];
    const nb_stored *scales = beside(c, matrix, names->scales);
    const nb_stored *down = beside(c, matrix, names->down);
    const nb_stored *up = beside(c, matrix, names->up);
    if (down && !up) return missing(down, matrix, names->up);
    if (up && !down) return missing(up, matrix, names->down);
    if (scales) NB_TRY(bind_scales(scales, arena, w));
    if (down) NB_TRY(bind_branch(down, up, family == MODELOPT, arena, w));
    return NB_OK;
}

nb_status nb_extras_bind(const nb_checkpoint *c, const nb_stored *matrix, nb_arena *arena,
                         nb_weight *w)
{
    if (beside(c, matrix, "weight_zero_point"))
        return nb_fail(NB_E_DATA,
                       TENSOR_FORMAT "a weight with weight_zero_point cannot be computed yet",
                       matrix->file, matrix->name);
    for (int i = 0; i < N_FAMILIES; i++) NB_TRY(bind_family(c, matrix, i, arena, w));
    return NB_OK;
}

/* The name of the first that is there, or NULL. */
static const char *first_beside(const nb_checkpoint *c, const nb_stored *matrix)
{
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *const parts[] = {families[i].scales, families[i].down, families[i].up};
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
            if (beside(c, matrix, parts[p])) return parts[p];
    }
    return NULL;
}

int nb_extras_any(const nb_checkpoint *c, const nb_stored *matrix)
{
    return first_beside(c, matrix) != NULL;
}

nb_status nb_extras_refuse(const nb_checkpoint *c, const nb_stored *matrix)
{
    const char *part = first_beside(c, matrix);
    if (!part) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "%s belongs beside a linear layer, not here",
                   matrix->file, matrix->name, part);
}
