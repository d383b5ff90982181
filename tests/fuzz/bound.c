#include "tests/fuzz/bound.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 64, NAME_BYTES = 200, MOST_PRODUCTS = 1 << 16 };

void must(int condition)
{
    if (!condition) abort();
}

int refused(nb_status status, const char *file)
{
    size_t n = strlen(file);
    if (!status) return 0;
    must(status == NB_E_DATA || status == NB_E_NOINPUT);
    must(strncmp(nb_error_message(), file, n) == 0);
    return 1;
}

static nb_stream *stream_of(nb_compute compute)
{
    static nb_stream *streams[NB_COMPUTE_COUNT];
    static nb_device *device;
    nb_stream **stream = &streams[compute];
    if (!device) must(!nb_device_open("cpu", &device));
    if (!*stream) must(!nb_stream_create(device, compute, 1, NULL, stream));
    return *stream;
}

nb_stream *fuzz_stream(void)
{
    return stream_of(NB_COMPUTE_F32);
}

void read_weight(const nb_weight *w)
{
    float row[STEP];
    for (int64_t i = 0; i < w->n; i++)
        for (int64_t k = 0; k < w->k; k += STEP) {
            int64_t count = w->k - k < STEP ? w->k - k : STEP;
            nb_weight_decode_ref(w, i, k, count, row);
        }
    for (int64_t i = 0; w->column_scales && i < w->k; i++) must(isfinite(w->column_scales[i]));
    const nb_low_rank *b = &w->low_rank;
    for (int64_t i = 0; i < b->rank * w->k; i++)
        must(isfinite(nb_load_f32(b->dtype, b->down, i)));
    for (int64_t i = 0; i < b->rank * w->n; i++)
        must(isfinite(nb_load_f32(b->dtype, b->up, i)));
}

static nb_tensor ones(nb_stream *s, int64_t rows, int64_t columns)
{
    float *data = nb_arena_alloc(s->arena, (size_t)(rows * columns) * sizeof *data);
    must(data != NULL);
    for (int64_t i = 0; i < rows * columns; i++) data[i] = 1;
    return nb_tensor_view(s->device, data, NB_DTYPE_F32, 2, (const int64_t[]){rows, columns});
}

/* Products of one row and of several with a matrix that lies in its file, by whatever this
 * processor has. What comes out may be anything. */
static void multiply(const nb_layer *l)
{
    static const int64_t rows[] = {1, 19};
    if (l->w.n * l->w.k > MOST_PRODUCTS) return;
    for (int compute = 0; compute < NB_COMPUTE_COUNT; compute++) {
        nb_stream *s = stream_of((nb_compute)compute);
        nb_arena_mark mark = nb_arena_save(s->arena);
        for (int i = 0; i < 2; i++)
            nb_layer_forward(s, l, ones(s, rows[i], l->w.n), ones(s, rows[i], l->w.k),
                             NB_ACT_NONE);
        must(!nb_stream_sync(s));
        nb_arena_rewind(s->arena, mark);
    }
}

static void read_layer(const nb_checkpoint *c, const nb_stored *t, int64_t n, int64_t k)
{
    nb_stream *s = fuzz_stream();
    nb_binder b = {.checkpoint = c, .device = s->device, .arena = s->arena};
    nb_arena_mark mark = nb_arena_save(s->arena);
    char bias[NAME_BYTES + 8];
    int stem = (int)(strlen(t->name) - strlen(".weight"));
    snprintf(bias, sizeof bias, "%.*s.bias", stem, t->name);
    nb_layer l =
        nb_bind_layer(&b, n, k, nb_checkpoint_find(c, bias) != NULL, "%.*s", stem, t->name);
    must(b.status || (l.w.n == n && l.w.k == k));
    if (!b.status) read_weight(&l.w);
    if (!b.status) multiply(&l);
    nb_arena_rewind(s->arena, mark);
}

void read_layers(const nb_checkpoint *c)
{
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        size_t bytes = strlen(t->name);
        if (t->rank < 1 || !nb_name_ends_with(t->name, ".weight")) continue;
        if (bytes >= NAME_BYTES || nb_stored_count(t) == 0) continue;
        int64_t k = nb_stored_count(t) / t->shape[0];
        read_layer(c, t, t->shape[0], t->dtype == NB_DTYPE_U8 ? 2 * k : k);
        if (t->shape[0] > 1) read_layer(c, t, t->shape[0] - 1, k);
    }
}
