#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "models/safetensors.h"

enum { ALIGNMENT = 8 }; /* of the data's start: the largest element */

static int compare_elements(const void *a, const void *b)
{
    const nb_stored *x = *(const nb_stored *const *)a, *y = *(const nb_stored *const *)b;
    size_t p = nb_dtype_bytes(x->dtype), q = nb_dtype_bytes(y->dtype);
    if (p != q) return p > q ? -1 : 1;
    return x < y ? -1 : x > y; /* both in the caller's array */
}

/* Takes `value`; 0 when memory is short. */
static int put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static int put_tensor(json_t *header, const nb_stored *t, size_t begin)
{
    json_t *shape = json_array();
    int ok = !json_object_get(header, t->name); /* two of one name */
    for (int i = 0; i < t->rank && ok; i++)
        ok = json_array_append_new(shape, json_integer(t->shape[i])) == 0;
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", nb_dtype_name(t->dtype), "shape", shape,
                  "data_offsets", (json_int_t)begin, (json_int_t)(begin + t->bytes));
    return put(header, t->name, entry) && ok;
}

static int put_metadata(json_t *header, const char *const *metadata)
{
    json_t *object = json_object();
    int ok = 1;
    for (; *metadata && ok; metadata += 2)
        ok = put(object, metadata[0], json_string(metadata[1]));
    return put(header, "__metadata__", object) && ok;
}

/* The header's text, to be freed, or NULL when memory is short or a name is not UTF-8. */
static char *header_text(const nb_stored *const *tensors, int64_t n,
                         const char *const *metadata)
{
    json_t *header = json_object();
    size_t at = 0;
    int ok = !metadata || put_metadata(header, metadata);
    for (int64_t i = 0; i < n && ok; i++) {
        ok = put_tensor(header, tensors[i], at);
        at += tensors[i]->bytes;
    }
    char *text = ok ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

/* ---- piece by piece ---- */

struct nb_safetensors_writer {
    nb_file_writer *file;
    size_t *offsets, *bytes; /* of each tensor as given */
    int64_t n, n_put;
};

static nb_status write_header(nb_file_writer *file, const char *text, size_t *data_start)
{
    static const char spaces[ALIGNMENT] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
    size_t bytes = strlen(text), padding = (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
    uint64_t header_bytes = bytes + padding;
    NB_TRY(nb_file_writer_write(file, &header_bytes, sizeof header_bytes));
    NB_TRY(nb_file_writer_write(file, text, bytes));
    NB_TRY(nb_file_writer_write(file, spaces, padding));
    *data_start = sizeof header_bytes + bytes + padding;
    return NB_OK;
}

static nb_status open_file(nb_safetensors_writer *w, const char *path, const nb_stored *tensors,
                           const nb_stored *const *order, const char *text)
{
    size_t at = 0;
    NB_TRY(nb_file_writer_open(path, &w->file));
    NB_TRY(write_header(w->file, text, &at));
    for (int64_t i = 0; i < w->n; i++) {
        int64_t index = order[i] - tensors;
        w->offsets[index] = at;
        w->bytes[index] = order[i]->bytes;
        at += order[i]->bytes;
    }
    return NB_OK;
}

static nb_status open_in_order(nb_safetensors_writer *w, const char *path,
                               const nb_stored *tensors, const nb_stored **order,
                               const char *const *metadata)
{
    for (int64_t i = 0; i < w->n; i++) order[i] = &tensors[i];
    qsort(order, (size_t)w->n, sizeof *order, compare_elements);
    char *text = header_text(order, w->n, metadata);
    nb_status status = text
                           ? open_file(w, path, tensors, order, text)
                           : nb_fail(NB_E_SYSTEM, "%s: a header of %lld tensors cannot be made",
                                     path, (long long)w->n);
    free(text);
    return status;
}

static void free_writer(nb_safetensors_writer *w)
{
    free(w->offsets);
    free(w->bytes);
    free(w);
}

nb_status nb_safetensors_writer_open(const char *path, const nb_stored *tensors, int64_t n,
                                     const char *const *metadata, nb_safetensors_writer **out)
{
    nb_status status = NB_E_SYSTEM;
    nb_safetensors_writer *w = calloc(1, sizeof *w);
    const nb_stored **order = malloc(((size_t)n + 1) * sizeof *order);
    if (w) {
        w->n = n;
        w->offsets = calloc((size_t)n + 1, sizeof *w->offsets);
        w->bytes = calloc((size_t)n + 1, sizeof *w->bytes);
    }
    if (w && order && w->offsets && w->bytes)
        status = open_in_order(w, path, tensors, order, metadata);
    else
        nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    free(order);
    if (!status)
        *out = w;
    else if (w)
        nb_safetensors_writer_abort(w);
    return status;
}

nb_status nb_safetensors_writer_put(nb_safetensors_writer *w, int64_t index, const void *data)
{
    assert(index >= 0 && index < w->n);
    w->n_put++;
    return nb_file_writer_write_at(w->file, w->offsets[index], data, w->bytes[index]);
}

nb_status nb_safetensors_writer_commit(nb_safetensors_writer *w)
{
    assert(w->n_put == w->n);
    nb_status status = nb_file_writer_commit(w->file);
    free_writer(w);
    return status;
}

void nb_safetensors_writer_abort(nb_safetensors_writer *w)
{
    if (!w) return;
    nb_file_writer_abort(w->file);
    free_writer(w);
}

/* ---- at once ---- */

nb_status nb_safetensors_write(const char *path, const nb_stored *tensors, int64_t n,
                               const char *const *metadata)
{
    nb_safetensors_writer *w;
    nb_status status = nb_safetensors_writer_open(path, tensors, n, metadata, &w);
    if (status) return status;
    for (int64_t i = 0; i < n && !status; i++)
        status = nb_safetensors_writer_put(w, i, tensors[i].data);
    if (!status) return nb_safetensors_writer_commit(w);
    nb_safetensors_writer_abort(w);
    return status;
}
