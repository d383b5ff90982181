/*
 * Reading: map, take the header's length, parse the header, turn each entry into an nb_stored
 * with all its numbers checked, sort by place to find overlaps, index by name. Names are copied
 * into one block so that the JSON tree, many times the size of the table, can go.
 */
#include "models/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors data is little-endian and is used where it lies"
#endif

enum { PREFIX_BYTES = 8 };
static const uint64_t MAX_HEADER_BYTES = 100u * 1000 * 1000; /* the format's own limit */

struct nb_safetensors {
    nb_buffer *buffer;
    char *path, *names;
    nb_stored *tensors; /* in the order of their data */
    const nb_stored **by_name;
    int64_t n_tensors;
    json_t *metadata; /* NULL: none */
};

/* --- one entry of the header --- */

struct entry {
    const char *path, *name;
    const json_t *json;
    const unsigned char *data; /* of the file's first tensor */
    size_t data_bytes;
};

#define TENSOR_FORMAT "%s: tensor %.300s: "

static nb_status read_dtype(const struct entry *e, nb_dtype *out)
{
    const json_t *dtype = json_object_get(e->json, "dtype");
    if (!json_is_string(dtype))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "has no dtype", e->path, e->name);
    *out = nb_dtype_from_name(json_string_value(dtype));
    if (*out == NB_DTYPE_COUNT)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "unknown dtype %.40s", e->path, e->name,
                       json_string_value(dtype));
    return NB_OK;
}

/* Shape, and the bytes that shape and type make. */
static nb_status read_shape(const struct entry *e, nb_stored *t)
{
    const json_t *shape = json_object_get(e->json, "shape");
    if (!json_is_array(shape))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "has no shape", e->path, e->name);
    size_t rank = json_array_size(shape);
    if (rank > NB_STORED_MAX_RANK)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "%zu dimensions, at most %d are possible",
                       e->path, e->name, rank, NB_STORED_MAX_RANK);
    int64_t bytes = (int64_t)nb_dtype_bytes(t->dtype);
    for (size_t i = 0; i < rank; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "dimension %zu is not a size", e->path,
                           e->name, i);
        t->shape[i] = json_integer_value(size);
        if (__builtin_mul_overflow(bytes, t->shape[i], &bytes))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "the shape is too large", e->path, e->name);
    }
    t->rank = (int)rank;
    t->bytes = (size_t)bytes;
    return NB_OK;
}

static nb_status read_offsets(const struct entry *e, nb_stored *t)
{
    const json_t *offsets = json_object_get(e->json, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "data_offsets are not two integers", e->path,
                       e->name);
    long long begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "data_offsets [%lld, %lld] are not a range",
                       e->path, e->name, begin, end);
    if ((uint64_t)end > e->data_bytes)
        return nb_fail(NB_E_DATA,
                       TENSOR_FORMAT "data_offsets [%lld, %lld] go beyond the file's %zu bytes "
                                     "of data; it may be cut short",
                       e->path, e->name, begin, end, e->data_bytes);
    char text[NB_SHAPE_TEXT_BYTES];
    if ((uint64_t)(end - begin) != t->bytes)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "%s of %s is %zu bytes, data_offsets hold %lld",
                       e->path, e->name, nb_dtype_name(t->dtype),
                       nb_shape_text(t->rank, t->shape, text), t->bytes, end - begin);
    t->data = e->data + begin;
    return NB_OK;
}

static nb_status read_entry(const struct entry *e, nb_stored *t)
{
    if (!json_is_object(e->json))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "its entry is not an object", e->path, e->name);
    t->file = e->path;
    NB_TRY(read_dtype(e, &t->dtype));
    NB_TRY(read_shape(e, t));
    return read_offsets(e, t);
}

/* --- the table --- */

/* The file ends with the last tensor: bytes behind it mean that the header is not this file's.
 */
static nb_status check_places(const nb_safetensors *f, const unsigned char *data, size_t bytes)
{
    size_t used;
    NB_TRY(nb_stored_sort_places(f->tensors, f->n_tensors, data, &used));
    if (used == bytes) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: wanted %zu bytes of tensors, found %zu", f->path, used,
                   bytes);
}

static nb_status index_names(nb_safetensors *f)
{
    const nb_stored **all = malloc(((size_t)f->n_tensors + 1) * sizeof *all);
    if (!all) return nb_fail(NB_E_SYSTEM, "%s: out of memory", f->path);
    for (int64_t i = 0; i < f->n_tensors; i++) all[i] = &f->tensors[i];
    const nb_stored *const *twice;
    nb_status status = nb_stored_index(all, f->n_tensors, &f->by_name, &twice);
    free(all);
    if (!status && twice) /* the JSON parser has refused it already */
        status = nb_fail(NB_E_DATA, TENSOR_FORMAT "is there twice", f->path, (*twice)->name);
    return status;
}

static int is_tensor(const char *name)
{
    return strcmp(name, "__metadata__") != 0;
}

/* Memory for as many tensors and names as the header can hold. */
static nb_status reserve(nb_safetensors *f, json_t *header)
{
    size_t n = json_object_size(header), name_bytes = 1;
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value) name_bytes += strlen(name) + 1;
    f->tensors = calloc(n + 1, sizeof *f->tensors);
    f->names = malloc(name_bytes);
    if (f->tensors && f->names) return NB_OK;
    return nb_fail(NB_E_SYSTEM, "%s: out of memory: a table of %zu tensors", f->path, n);
}

static nb_status read_table(nb_safetensors *f, json_t *header, size_t data_at)
{
    struct entry e = {.path = f->path};
    const char *file = nb_buffer_data(f->buffer);
    char *names = f->names;
    json_t *json;
    e.data = (const unsigned char *)file + data_at;
    e.data_bytes = nb_buffer_bytes(f->buffer) - data_at;
    json_object_foreach(header, e.name, json)
    {
        if (!is_tensor(e.name)) continue;
        nb_stored *t = &f->tensors[f->n_tensors];
        e.json = json;
        NB_TRY(read_entry(&e, t));
        size_t bytes = strlen(e.name) + 1;
        memcpy(names, e.name, bytes);
        t->name = names;
        names += bytes;
        f->n_tensors++;
    }
    NB_TRY(check_places(f, e.data, e.data_bytes));
    return index_names(f);
}

static nb_status read_header(nb_safetensors *f, json_t *header, size_t data_at)
{
    if (!json_is_object(header))
        return nb_fail(NB_E_DATA, "%s: the safetensors header is not a JSON object", f->path);
    json_t *metadata = json_object_get(header, "__metadata__");
    if (metadata && !json_is_object(metadata))
        return nb_fail(NB_E_DATA, "%s: __metadata__ is not a JSON object", f->path);
    f->metadata = json_incref(metadata);
    NB_TRY(reserve(f, header));
    return read_table(f, header, data_at);
}

static nb_status read_file(nb_safetensors *f)
{
    const unsigned char *file = nb_buffer_data(f->buffer);
    size_t bytes = nb_buffer_bytes(f->buffer);
    uint64_t header_bytes;
    if (bytes < PREFIX_BYTES)
        return nb_fail(NB_E_DATA, "%s: not a safetensors file: only %zu bytes", f->path, bytes);
    memcpy(&header_bytes, file, sizeof header_bytes);
    if (header_bytes > MAX_HEADER_BYTES)
        return nb_fail(NB_E_DATA,
                       "%s: not a safetensors file: a header of %llu bytes, at most %llu are "
                       "allowed",
                       f->path, (unsigned long long)header_bytes,
                       (unsigned long long)MAX_HEADER_BYTES);
    if (header_bytes > bytes - PREFIX_BYTES)
        return nb_fail(NB_E_DATA,
                       "%s: a header of %llu bytes in a file of %zu; it may be cut short",
                       f->path, (unsigned long long)header_bytes, bytes);
    json_t *header;
    NB_TRY(nb_json_parse(f->path, (const char *)file + PREFIX_BYTES, (size_t)header_bytes,
                         &header));
    nb_status status = read_header(f, header, PREFIX_BYTES + (size_t)header_bytes);
    json_decref(header);
    return status;
}

nb_status nb_safetensors_open_buffer(const char *path, nb_buffer *buffer, nb_safetensors **out)
{
    nb_safetensors *f = calloc(1, sizeof *f);
    if (!f) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    f->buffer = nb_buffer_ref(buffer);
    f->path = strdup(path);
    nb_status status = f->path ? read_file(f) : nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    if (status)
        nb_safetensors_close(f);
    else
        *out = f;
    return status;
}

nb_status nb_safetensors_open(const char *path, nb_safetensors **out)
{
    nb_buffer *buffer;
    NB_TRY(nb_file_map(path, &buffer));
    nb_status status = nb_safetensors_open_buffer(path, buffer, out);
    nb_buffer_unref(buffer);
    return status;
}

void nb_safetensors_close(nb_safetensors *f)
{
    if (!f) return;
    nb_buffer_unref(f->buffer);
    json_decref(f->metadata);
    free(f->by_name);
    free(f->tensors);
    free(f->names);
    free(f->path);
    free(f);
}

int64_t nb_safetensors_n_tensors(const nb_safetensors *f)
{
    return f->n_tensors;
}

const nb_stored *nb_safetensors_tensor(const nb_safetensors *f, int64_t index)
{
    return &f->tensors[index];
}

const nb_stored *nb_safetensors_find(const nb_safetensors *f, const char *name)
{
    return nb_stored_find(f->by_name, f->n_tensors, name);
}

const char *nb_safetensors_metadata(const nb_safetensors *f, const char *key)
{
    return json_string_value(json_object_get(f->metadata, key));
}

const char *nb_safetensors_metadata_next(const nb_safetensors *f, const char *key)
{
    void *at = key ? json_object_iter_at(f->metadata, key) : NULL;
    at = key ? json_object_iter_next(f->metadata, at) : json_object_iter(f->metadata);
    return at ? json_object_iter_key(at) : NULL;
}

const char *nb_safetensors_path(const nb_safetensors *f)
{
    return f->path;
}

const nb_buffer *nb_safetensors_buffer(const nb_safetensors *f)
{
    return f->buffer;
}
