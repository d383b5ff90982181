#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check/run.h"

static const double DEFAULT_NMSE = 1e-12; /* of values, that is 1e-6: a few F32 roundings */
static const double MAX_ERROR = 32;       /* of one element, in roots of the tolerated NMSE */

int nb_check_execute(nb_check *c, const nb_device *device, char *message)
{
    const struct setup *u = &c->setup;
    if (!c->stream && nb_stream_create(device, u->compute, u->threads, NULL, &c->stream)) {
        snprintf(message, MAX_TEXT, "%s", nb_error_message());
        return -1;
    }
    nb_arena_mark before = nb_arena_save(c->stream->arena);
    c->n_tensors = 0;
    u->op->run(c, u->shape);
    nb_arena_mark after = nb_arena_save(c->stream->arena);
    if (nb_stream_sync(c->stream)) {
        snprintf(message, MAX_TEXT, "%s", nb_error_message());
        return -1;
    }
    if (memcmp(&before, &after, sizeof before) != 0) {
        snprintf(message, MAX_TEXT, "scratch memory is not given back");
        return -1;
    }
    return 0;
}

static size_t row_bytes(const nb_tensor *t)
{
    return (size_t)t->shape[t->rank - 1] * nb_dtype_bytes(t->dtype);
}

static size_t row_offset(const struct entry *e, int64_t row)
{
    return (size_t)((unsigned char *)e->t.data - e->base) +
           (size_t)nb_check_row_at(&e->t, row) * nb_dtype_bytes(e->t.dtype);
}

/* The first row that this run computed. */
static int64_t first_row(const nb_check *c, const struct entry *e)
{
    return e->sliced ? c->first_row * (nb_check_n_rows(&e->t) / e->t.shape[0]) : 0;
}

int nb_check_undamaged(const nb_check *c, char *message)
{
    for (int i = 0; i < c->n_tensors; i++) {
        const struct entry *e = &c->tensors[i];
        unsigned char *now = malloc(e->bytes);
        if (!now) abort();
        memcpy(now, e->base, e->bytes);
        for (int64_t r = first_row(c, e); e->role != IN && r < nb_check_n_rows(&e->t); r++)
            memcpy(now + row_offset(e, r), e->before + row_offset(e, r), row_bytes(&e->t));
        size_t at = 0;
        while (at < e->bytes && now[at] == e->before[at]) at++;
        free(now);
        if (at == e->bytes) continue;
        snprintf(message, MAX_TEXT, "tensor %d: %s, %lld bytes from its start", i,
                 e->role == IN ? "an input was changed" : "a write outside the output",
                 (long long)at - (long long)row_offset(e, 0));
        return -1;
    }
    return 0;
}

struct error {
    double square, norm, worst; /* `worst`: largest |y - r| / (|r| + root mean square of r) */
    int64_t row, column;        /* where */
    float found, wanted;
    int mismatch; /* of NaN or infinity */
};

static const float *f32_row(const struct entry *e, int64_t row)
{
    return (const float *)(const void *)(e->base + row_offset(e, row));
}

static double mean_square(const struct entry *e)
{
    int64_t n = e->t.shape[e->t.rank - 1], n_finite = 0;
    double sum = 0;
    for (int64_t row = 0; row < nb_check_n_rows(&e->t); row++)
        for (int64_t i = 0; i < n; i++) {
            double r = f32_row(e, row)[i];
            if (!isfinite(r)) continue;
            sum += r * r;
            n_finite++;
        }
    return n_finite ? sum / (double)n_finite : 0;
}

static void add_error(struct error *error, float y, float r, double scale, int64_t row,
                      int64_t i)
{
    int same = isnan(r) ? isnan(y) : isinf(r) ? y == r : isfinite(y);
    if (same && !isfinite(r)) return;
    double difference = (double)y - r;
    double relative = difference == 0 ? 0 : fabs(difference) / (fabs((double)r) + scale);
    if (same) {
        error->square += difference * difference;
        error->norm += (double)r * r;
    }
    if (error->mismatch || (same && relative <= error->worst)) return;
    error->mismatch = !same;
    error->worst = relative;
    error->row = row;
    error->column = i;
    error->found = y;
    error->wanted = r;
}

int nb_check_close(const nb_check *c, const nb_check *expected, char *message)
{
    double nmse = c->setup.op->nmse[c->setup.compute];
    if (nmse == 0) nmse = DEFAULT_NMSE;
    for (int t = 0; t < c->n_tensors; t++) {
        const struct entry *y = &c->tensors[t], *r = &expected->tensors[t];
        struct error e = {.worst = 0};
        if (y->role == IN) continue;
        double scale = sqrt(mean_square(r));
        for (int64_t row = 0; row < nb_check_n_rows(&y->t); row++)
            for (int64_t i = 0; i < y->t.shape[y->t.rank - 1]; i++)
                add_error(&e, f32_row(y, row)[i], f32_row(r, row)[i], scale, row, i);
        int bad_sum = e.square > nmse * e.norm, bad_one = e.worst > MAX_ERROR * sqrt(nmse);
        if (!e.mismatch && !bad_sum && !bad_one) continue;
        snprintf(message, MAX_TEXT,
                 "tensor %d: NMSE %.2g (tolerance %.2g), worst at row %lld column %lld: "
                 "found %.9g, wanted %.9g",
                 t, e.norm > 0 ? e.square / e.norm : e.square, nmse, (long long)e.row,
                 (long long)e.column, (double)e.found, (double)e.wanted);
        return -1;
    }
    return 0;
}

int nb_check_equal(const nb_check *c, const nb_check *expected, char *message)
{
    for (int t = 0; t < c->n_tensors; t++) {
        const struct entry *y = &c->tensors[t], *r = &expected->tensors[t];
        for (int64_t row = first_row(c, y); row < nb_check_n_rows(&y->t); row++) {
            if (y->role == IN || row_bytes(&y->t) == 0) continue;
            if (!memcmp(f32_row(y, row), f32_row(r, row), row_bytes(&y->t))) continue;
            snprintf(message, MAX_TEXT, "tensor %d: row %lld is not equal to the bit", t,
                     (long long)row);
            return -1;
        }
    }
    return 0;
}
