#include "pipeline/dump.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "models/safetensors.h"

struct nb_dump {
    nb_stored *tensors;
    int64_t n, capacity;
};

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for the tensors to be dumped");
}

nb_status nb_dump_create(nb_dump **out)
{
    nb_dump *d = calloc(1, sizeof *d);
    if (!d) return no_memory();
    *out = d;
    return NB_OK;
}

void nb_dump_destroy(nb_dump *d)
{
    if (!d) return;
    for (int64_t i = 0; i < d->n; i++) {
        free((void *)d->tensors[i].data);
        free((void *)d->tensors[i].name);
    }
    free(d->tensors);
    free(d);
}

static nb_status make_room(nb_dump *d)
{
    if (d->n < d->capacity) return NB_OK;
    int64_t capacity = 2 * d->capacity + 16;
    nb_stored *tensors = realloc(d->tensors, (size_t)capacity * sizeof *tensors);
    if (!tensors) return no_memory();
    d->tensors = tensors;
    d->capacity = capacity;
    return NB_OK;
}

nb_status nb_dump_tensor(nb_dump *d, const char *name, int rank, const int64_t *shape,
                         float **out)
{
    for (int64_t i = 0; i < d->n; i++)
        if (strcmp(d->tensors[i].name, name) == 0) {
            *out = (float *)d->tensors[i].data;
            return NB_OK;
        }
    assert(rank <= NB_STORED_MAX_RANK);
    NB_TRY(make_room(d));
    nb_stored t = {.file = "", .dtype = NB_DTYPE_F32, .rank = rank};
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    t.bytes = (size_t)nb_stored_count(&t) * sizeof **out;
    float *data = calloc(1, t.bytes ? t.bytes : 1);
    char *copy = strdup(name);
    if (!data || !copy) {
        free(data);
        free(copy);
        return no_memory();
    }
    t.name = copy;
    t.data = data;
    d->tensors[d->n++] = t;
    *out = data;
    return NB_OK;
}

nb_status nb_dump_write(const nb_dump *d, const char *path)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    return nb_safetensors_write(path, d->tensors, d->n, metadata);
}
