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
    int ok = 1;
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

static nb_status write_all(nb_file_writer *w, const char *text, const nb_stored *const *tensors,
                           int64_t n)
{
    static const char spaces[ALIGNMENT] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
    size_t bytes = strlen(text), padding = (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
    uint64_t header_bytes = bytes + padding;
    NB_TRY(nb_file_writer_write(w, &header_bytes, sizeof header_bytes));
    NB_TRY(nb_file_writer_write(w, text, bytes));
    NB_TRY(nb_file_writer_write(w, spaces, padding));
    for (int64_t i = 0; i < n; i++)
        NB_TRY(nb_file_writer_write(w, tensors[i]->data, tensors[i]->bytes));
    return NB_OK;
}

static nb_status write_file(const char *path, const char *text, const nb_stored *const *tensors,
                            int64_t n)
{
    nb_file_writer *w;
    NB_TRY(nb_file_writer_open(path, &w));
    nb_status status = write_all(w, text, tensors, n);
    if (!status) return nb_file_writer_commit(w);
    nb_file_writer_abort(w);
    return status;
}

nb_status nb_safetensors_write(const char *path, const nb_stored *tensors, int64_t n,
                               const char *const *metadata)
{
    const nb_stored **order = malloc(((size_t)n + 1) * sizeof *order);
    if (!order) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    for (int64_t i = 0; i < n; i++) order[i] = &tensors[i];
    qsort(order, (size_t)n, sizeof *order, compare_elements);
    char *text = header_text(order, n, metadata);
    nb_status status = text
                           ? write_file(path, text, order, n)
                           : nb_fail(NB_E_SYSTEM, "%s: a header of %lld tensors cannot be made",
                                     path, (long long)n);
    free(text);
    free(order);
    return status;
}
