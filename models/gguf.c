/*
 * Reading: one pass over the keys, which are all skipped but for strings, the alignment and
 * original shapes; one over the descriptions of tensors; then, when it is known where the data
 * begins, places are checked. A cursor never moves behind the end: what cannot be taken is a
 * sentence and the end of reading.
 */
#include "models/gguf.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/arena.h"
#include "kernels/base/file.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the numbers of GGUF files are little-endian and are used where they lie"
#endif

enum {
    MAX_RANK = 4,            /* the format's own limit */
    MAX_NESTING = 4,         /* of arrays in arrays */
    DEFAULT_ALIGNMENT = 32,  /* where the file gives none */
    MAX_ALIGNMENT = 1 << 20, /* more is no alignment */
    MAX_COUNT = 1000000,     /* of tensors, and of keys */
    MIN_KEY_BYTES = 13,      /* of an empty name with a value of one byte */
    MIN_TENSOR_BYTES = 24,   /* of an empty name without sizes */
    NAME_BYTES = 4096,       /* of a key or a tensor: far more than any writer's */
};
static const char MAGIC[4] = {'G', 'G', 'U', 'F'};
static const char SHAPE_KEY[] = "comfy.gguf.orig_shape.";

#define TENSOR_FORMAT "%s: tensor %.300s: "

struct nb_gguf {
    nb_buffer *buffer;
    char *path;
    nb_arena *arena;    /* tensors and names */
    nb_stored *tensors; /* in the order of their data */
    const nb_stored **by_name;
    int64_t n_tensors;
    json_t *metadata; /* all keys: a string, the numbers of a shape, or null */
};

/* --- a cursor --- */

struct cursor {
    const char *path;
    const unsigned char *data;
    size_t bytes, at;
    const char *in; /* what is being read, for messages */
};

/* n bytes where they lie, or the sentence. */
static nb_status take(struct cursor *c, uint64_t n, const void **out)
{
    if (n > c->bytes - c->at)
        return nb_fail(NB_E_DATA, "%s: the file ends in its %s; it may be cut short", c->path,
                       c->in);
    *out = c->data + c->at;
    c->at += (size_t)n;
    return NB_OK;
}

static nb_status take_u32(struct cursor *c, uint32_t *out)
{
    const void *p = NULL;
    NB_TRY(take(c, sizeof *out, &p));
    memcpy(out, p, sizeof *out);
    return NB_OK;
}

static nb_status take_u64(struct cursor *c, uint64_t *out)
{
    const void *p = NULL;
    NB_TRY(take(c, sizeof *out, &p));
    memcpy(out, p, sizeof *out);
    return NB_OK;
}

static nb_status take_string(struct cursor *c, const char **text, size_t *bytes)
{
    uint64_t n;
    const void *p = NULL;
    NB_TRY(take_u64(c, &n));
    NB_TRY(take(c, n, &p));
    *text = p;
    *bytes = (size_t)n;
    return NB_OK;
}

/* A JSON string: NULL if it is none, as no UTF-8 or with a 0 inside. */
static json_t *text_of(const char *text, size_t bytes)
{
    return memchr(text, 0, bytes) ? NULL : json_stringn(text, bytes);
}

static nb_status take_name(struct cursor *c, json_t **out)
{
    const char *text;
    size_t bytes;
    NB_TRY(take_string(c, &text, &bytes));
    if (bytes > NAME_BYTES)
        return nb_fail(NB_E_DATA, "%s: a name of %zu bytes in its %s, at most %d are read",
                       c->path, bytes, c->in, NAME_BYTES);
    *out = text_of(text, bytes);
    return *out ? NB_OK
                : nb_fail(NB_E_DATA, "%s: a name in its %s is not UTF-8", c->path, c->in);
}

/* --- keys --- */

enum {
    VALUE_U32 = 4,
    VALUE_I32 = 5,
    VALUE_STRING = 8,
    VALUE_ARRAY = 9,
    VALUE_U64 = 10,
    VALUE_I64 = 11,
    N_VALUES = 13
};

/* Bytes of a value by its type; 0: they vary. */
static const size_t value_bytes[N_VALUES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static nb_status check_value_type(const struct cursor *c, uint32_t type)
{
    if (type < N_VALUES) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: unknown value type %u in its %s", c->path, type, c->in);
}

static nb_status skip_array(struct cursor *c, int depth);

static nb_status skip_values(struct cursor *c, uint32_t type, uint64_t n, int depth)
{
    const void *p = NULL;
    const char *text;
    size_t bytes;
    if (value_bytes[type]) {
        /* Of more than that the product might wrap around. */
        if (n > c->bytes) n = c->bytes;
        return take(c, n * value_bytes[type], &p);
    }
    for (; n; n--)
        NB_TRY(type == VALUE_STRING ? take_string(c, &text, &bytes) : skip_array(c, depth));
    return NB_OK;
}

static nb_status skip_array(struct cursor *c, int depth)
{
    uint32_t type;
    uint64_t n;
    if (depth == MAX_NESTING)
        return nb_fail(NB_E_DATA, "%s: arrays in arrays, %d deep, in its %s", c->path,
                       MAX_NESTING, c->in);
    NB_TRY(take_u32(c, &type));
    NB_TRY(check_value_type(c, type));
    NB_TRY(take_u64(c, &n));
    return skip_values(c, type, n, depth + 1);
}

/* Up to NB_STORED_MAX_RANK integers as a JSON array; null where the array is none of these. */
static nb_status take_shape(struct cursor *c, json_t **out)
{
    struct cursor peek = *c;
    uint32_t type;
    uint64_t n;
    NB_TRY(skip_array(c, 0)); /* all of it is there */
    NB_TRY(take_u32(&peek, &type));
    NB_TRY(take_u64(&peek, &n));
    int is_wide = type == VALUE_U64 || type == VALUE_I64;
    if ((!is_wide && type != VALUE_U32 && type != VALUE_I32) || n > NB_STORED_MAX_RANK)
        return NB_OK;
    json_t *shape = json_array();
    for (; shape && n; n--) {
        const void *p = NULL;
        int64_t size = 0;
        NB_TRY(take(&peek, value_bytes[type], &p));
        memcpy(&size, p, value_bytes[type]);
        json_array_append_new(shape, json_integer(size));
    }
    if (shape) *out = shape;
    return NB_OK;
}

static nb_status take_alignment(struct cursor *c, uint32_t type, uint64_t *out)
{
    uint32_t value;
    if (type != VALUE_U32)
        return nb_fail(NB_E_DATA, "%s: general.alignment is not a u32", c->path);
    NB_TRY(take_u32(c, &value));
    if (value == 0 || value > MAX_ALIGNMENT || (value & (value - 1)))
        return nb_fail(NB_E_DATA, "%s: general.alignment: wanted a power of two, found %u",
                       c->path, value);
    *out = value;
    return NB_OK;
}

/* The value behind `key`: what is kept of it, or null. */
static nb_status take_value(struct cursor *c, const char *key, uint64_t *alignment,
                            json_t **out)
{
    uint32_t type;
    const char *text;
    size_t bytes;
    NB_TRY(take_u32(c, &type));
    NB_TRY(check_value_type(c, type));
    if (strcmp(key, "general.alignment") == 0) return take_alignment(c, type, alignment);
    if (type == VALUE_ARRAY && strncmp(key, SHAPE_KEY, sizeof SHAPE_KEY - 1) == 0)
        return take_shape(c, out);
    if (type == VALUE_ARRAY) return skip_array(c, 0);
    if (type != VALUE_STRING) return skip_values(c, type, 1, 0);
    NB_TRY(take_string(c, &text, &bytes));
    json_t *value = text_of(text, bytes);
    if (value) *out = value;
    return NB_OK;
}

static nb_status read_key(nb_gguf *f, struct cursor *c, uint64_t *alignment)
{
    json_t *name, *value = NULL;
    NB_TRY(take_name(c, &name));
    const char *key = json_string_value(name);
    nb_status status = NB_OK;
    if (json_object_get(f->metadata, key))
        status = nb_fail(NB_E_DATA, "%s: key %.300s is there twice", f->path, key);
    if (!status) status = take_value(c, key, alignment, &value);
    if (!status && json_object_set_new(f->metadata, key, value ? value : json_null()) != 0)
        status = nb_fail(NB_E_SYSTEM, "%s: out of memory", f->path);
    json_decref(name);
    return status;
}

/* --- tensors --- */

/* What a type's number stands for; NB_DTYPE_COUNT: known, and not read. */
static const struct type {
    uint32_t id;
    nb_dtype dtype;
    const char *name;
} types[] = {
    {0, NB_DTYPE_F32, "F32"},        {1, NB_DTYPE_F16, "F16"},
    {2, NB_DTYPE_Q4_0, "Q4_0"},      {3, NB_DTYPE_Q4_1, "Q4_1"},
    {6, NB_DTYPE_Q5_0, "Q5_0"},      {7, NB_DTYPE_Q5_1, "Q5_1"},
    {8, NB_DTYPE_Q8_0, "Q8_0"},      {9, NB_DTYPE_COUNT, "Q8_1"},
    {10, NB_DTYPE_Q2_K, "Q2_K"},     {11, NB_DTYPE_Q3_K, "Q3_K"},
    {12, NB_DTYPE_Q4_K, "Q4_K"},     {13, NB_DTYPE_Q5_K, "Q5_K"},
    {14, NB_DTYPE_Q6_K, "Q6_K"},     {15, NB_DTYPE_COUNT, "Q8_K"},
    {16, NB_DTYPE_COUNT, "IQ2_XXS"}, {17, NB_DTYPE_COUNT, "IQ2_XS"},
    {18, NB_DTYPE_COUNT, "IQ3_XXS"}, {19, NB_DTYPE_COUNT, "IQ1_S"},
    {20, NB_DTYPE_IQ4_NL, "IQ4_NL"}, {21, NB_DTYPE_COUNT, "IQ3_S"},
    {22, NB_DTYPE_COUNT, "IQ2_S"},   {23, NB_DTYPE_IQ4_XS, "IQ4_XS"},
    {24, NB_DTYPE_I8, "I8"},         {25, NB_DTYPE_I16, "I16"},
    {26, NB_DTYPE_I32, "I32"},       {27, NB_DTYPE_I64, "I64"},
    {28, NB_DTYPE_F64, "F64"},       {29, NB_DTYPE_COUNT, "IQ1_M"},
    {30, NB_DTYPE_BF16, "BF16"},     {34, NB_DTYPE_COUNT, "TQ1_0"},
    {35, NB_DTYPE_COUNT, "TQ2_0"},   {39, NB_DTYPE_MXFP4, "MXFP4"},
    {40, NB_DTYPE_NVFP4, "NVFP4"},
};

static nb_status find_type(const char *path, const char *name, uint32_t id, nb_dtype *out)
{
    const struct type *type = NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].id == id) type = &types[i];
    if (!type) return nb_fail(NB_E_DATA, TENSOR_FORMAT "unknown type %u", path, name, id);
    if (type->dtype == NB_DTYPE_COUNT)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "type %u (%s) cannot be read", path, name, id,
                       type->name);
    *out = type->dtype;
    return NB_OK;
}

/* The bytes that shape and type make. */
static nb_status count_bytes(nb_stored *t)
{
    int64_t elements = nb_dtype_elements(t->dtype), n = 1, bytes;
    int64_t row = t->rank ? t->shape[t->rank - 1] : 1;
    char text[NB_SHAPE_TEXT_BYTES];
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "the shape %s is too large", t->file,
                           t->name, nb_shape_text(t->rank, t->shape, text));
    if (row % elements)
        return nb_fail(
            NB_E_DATA, TENSOR_FORMAT "rows of %lld elements, wanted whole blocks of %s, %lld",
            t->file, t->name, (long long)row, nb_dtype_name(t->dtype), (long long)elements);
    if (__builtin_mul_overflow(n / elements, (int64_t)nb_dtype_bytes(t->dtype), &bytes))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "the shape %s is too large", t->file, t->name,
                       nb_shape_text(t->rank, t->shape, text));
    t->bytes = (size_t)bytes;
    return NB_OK;
}

static nb_status take_sizes(struct cursor *c, nb_stored *t)
{
    uint32_t rank;
    uint64_t size;
    NB_TRY(take_u32(c, &rank));
    if (rank > MAX_RANK)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "%u dimensions, at most %d are possible",
                       t->file, t->name, rank, MAX_RANK);
    t->rank = (int)rank;
    for (int i = t->rank - 1; i >= 0; i--) {
        NB_TRY(take_u64(c, &size));
        if (size > INT64_MAX)
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "dimension %d is not a size", t->file,
                           t->name, i);
        t->shape[i] = (int64_t)size;
    }
    return NB_OK;
}

/* The shape that the tensor had before it was written, if the file says so. */
static nb_status restore_shape(const nb_gguf *f, nb_stored *t)
{
    char key[sizeof SHAPE_KEY + NAME_BYTES], text[NB_SHAPE_TEXT_BYTES];
    snprintf(key, sizeof key, "%s%s", SHAPE_KEY, t->name);
    const json_t *sizes = json_object_get(f->metadata, key);
    int64_t n = nb_stored_count(t), product = 1;
    int is_good = 1;
    if (!json_is_array(sizes)) return NB_OK;
    t->rank = (int)json_array_size(sizes);
    for (int i = 0; i < t->rank; i++) {
        t->shape[i] = json_integer_value(json_array_get(sizes, (size_t)i));
        is_good &= t->shape[i] >= 0 && !__builtin_mul_overflow(product, t->shape[i], &product);
    }
    if (!is_good || product != n)
        return nb_fail(NB_E_DATA,
                       TENSOR_FORMAT "orig_shape gives it %s, which is not its %lld elements",
                       t->file, t->name, nb_shape_text(t->rank, t->shape, text), (long long)n);
    if (t->rank && n && n / t->shape[0] % nb_dtype_elements(t->dtype))
        return nb_fail(NB_E_DATA,
                       TENSOR_FORMAT "orig_shape gives it %s, whose rows are not whole blocks "
                                     "of %s",
                       t->file, t->name, nb_shape_text(t->rank, t->shape, text),
                       nb_dtype_name(t->dtype));
    return NB_OK;
}

static nb_status read_tensor(const nb_gguf *f, struct cursor *c, nb_stored *t, uint64_t *offset)
{
    json_t *name;
    uint32_t type;
    NB_TRY(take_name(c, &name));
    size_t bytes = json_string_length(name) + 1;
    char *copy = nb_arena_alloc(f->arena, bytes);
    if (copy) memcpy(copy, json_string_value(name), bytes);
    json_decref(name);
    if (!copy) return NB_E_SYSTEM;
    *t = (nb_stored){.name = copy, .file = f->path};
    NB_TRY(take_sizes(c, t));
    NB_TRY(take_u32(c, &type));
    NB_TRY(take_u64(c, offset));
    NB_TRY(find_type(f->path, t->name, type, &t->dtype));
    NB_TRY(count_bytes(t));
    return restore_shape(f, t);
}

/* Where it lies in the data, which begin at `data`. */
static nb_status place(nb_stored *t, uint64_t offset, uint64_t alignment,
                       const unsigned char *data, size_t data_bytes)
{
    if (offset % alignment)
        return nb_fail(
            NB_E_DATA, TENSOR_FORMAT "offset %llu is no multiple of the alignment, %llu",
            t->file, t->name, (unsigned long long)offset, (unsigned long long)alignment);
    if (offset > data_bytes || t->bytes > data_bytes - offset)
        return nb_fail(NB_E_DATA,
                       TENSOR_FORMAT "%zu bytes at offset %llu go beyond the file's %zu bytes "
                                     "of data; it may be cut short",
                       t->file, t->name, t->bytes, (unsigned long long)offset, data_bytes);
    t->data = data + offset;
    return NB_OK;
}

/* --- the file --- */

static nb_status check_count(const struct cursor *c, uint64_t n, size_t least_bytes)
{
    uint64_t most = (c->bytes - c->at) / least_bytes;
    if (n <= most && n <= MAX_COUNT) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: %llu %s in a file of %zu bytes", c->path,
                   (unsigned long long)n, c->in, c->bytes);
}

static nb_status read_tensors(nb_gguf *f, struct cursor *c, uint64_t alignment)
{
    size_t n = (size_t)f->n_tensors;
    f->tensors = nb_arena_alloc(f->arena, (n + 1) * sizeof *f->tensors);
    uint64_t *offsets = nb_arena_alloc(f->arena, (n + 1) * sizeof *offsets);
    if (!f->tensors || !offsets) return NB_E_SYSTEM;
    for (size_t i = 0; i < n; i++) NB_TRY(read_tensor(f, c, &f->tensors[i], &offsets[i]));
    uint64_t begin = (c->at + alignment - 1) / alignment * alignment;
    size_t at = begin < c->bytes ? (size_t)begin : c->bytes, used;
    for (size_t i = 0; i < n; i++)
        NB_TRY(place(&f->tensors[i], offsets[i], alignment, c->data + at, c->bytes - at));
    return nb_stored_sort_places(f->tensors, f->n_tensors, c->data + at, &used);
}

static nb_status index_names(nb_gguf *f)
{
    const nb_stored **all = nb_arena_alloc(f->arena, ((size_t)f->n_tensors + 1) * sizeof *all);
    const nb_stored *const *twice;
    if (!all) return NB_E_SYSTEM;
    for (int64_t i = 0; i < f->n_tensors; i++) all[i] = &f->tensors[i];
    NB_TRY(nb_stored_index(all, f->n_tensors, &f->by_name, &twice));
    if (!twice) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "is there twice", f->path, (*twice)->name);
}

static nb_status check_version(const char *path, uint32_t version)
{
    if (version == 2 || version == 3) return NB_OK;
    if (version && (version & 0xffff) == 0)
        return nb_fail(NB_E_DATA,
                       "%s: a big-endian GGUF file; only little-endian ones are read", path);
    return nb_fail(NB_E_DATA, "%s: GGUF version %u, wanted 2 or 3", path, version);
}

static nb_status read_file(nb_gguf *f)
{
    struct cursor c = {.path = f->path,
                       .data = nb_buffer_data(f->buffer),
                       .bytes = nb_buffer_bytes(f->buffer),
                       .in = "header"};
    uint32_t version;
    uint64_t n_tensors, n_keys, alignment = DEFAULT_ALIGNMENT;
    if (!nb_gguf_is_one(c.data, c.bytes))
        return nb_fail(NB_E_DATA, "%s: not a GGUF file: it does not begin with \"GGUF\"",
                       f->path);
    c.at = sizeof MAGIC;
    NB_TRY(take_u32(&c, &version));
    NB_TRY(check_version(f->path, version));
    NB_TRY(take_u64(&c, &n_tensors));
    NB_TRY(take_u64(&c, &n_keys));
    c.in = "keys";
    NB_TRY(check_count(&c, n_keys, MIN_KEY_BYTES));
    for (; n_keys; n_keys--) NB_TRY(read_key(f, &c, &alignment));
    c.in = "tensors";
    NB_TRY(check_count(&c, n_tensors, MIN_TENSOR_BYTES));
    f->n_tensors = (int64_t)n_tensors;
    NB_TRY(read_tensors(f, &c, alignment));
    return index_names(f);
}

int nb_gguf_is_one(const void *data, size_t bytes)
{
    return bytes >= sizeof MAGIC && memcmp(data, MAGIC, sizeof MAGIC) == 0;
}

nb_status nb_gguf_open_buffer(const char *path, nb_buffer *buffer, nb_gguf **out)
{
    nb_gguf *f = calloc(1, sizeof *f);
    if (!f) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    f->buffer = nb_buffer_ref(buffer);
    f->path = strdup(path);
    f->metadata = json_object();
    nb_status status = nb_arena_create(&f->arena);
    if (!status && (!f->path || !f->metadata))
        status = nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    if (!status) status = read_file(f);
    if (status)
        nb_gguf_close(f);
    else
        *out = f;
    return status;
}

nb_status nb_gguf_open(const char *path, nb_gguf **out)
{
    nb_buffer *buffer;
    NB_TRY(nb_file_map(path, &buffer));
    nb_status status = nb_gguf_open_buffer(path, buffer, out);
    nb_buffer_unref(buffer);
    return status;
}

void nb_gguf_close(nb_gguf *f)
{
    if (!f) return;
    nb_buffer_unref(f->buffer);
    nb_arena_destroy(f->arena);
    json_decref(f->metadata);
    free(f->by_name);
    free(f->path);
    free(f);
}

int64_t nb_gguf_n_tensors(const nb_gguf *f)
{
    return f->n_tensors;
}

const nb_stored *nb_gguf_tensor(const nb_gguf *f, int64_t index)
{
    return &f->tensors[index];
}

const nb_stored *nb_gguf_find(const nb_gguf *f, const char *name)
{
    return nb_stored_find(f->by_name, f->n_tensors, name);
}

const char *nb_gguf_metadata(const nb_gguf *f, const char *key)
{
    return json_string_value(json_object_get(f->metadata, key));
}

const char *nb_gguf_metadata_next(const nb_gguf *f, const char *key)
{
    void *at = key ? json_object_iter_at(f->metadata, key) : NULL;
    at = key ? json_object_iter_next(f->metadata, at) : json_object_iter(f->metadata);
    return at ? json_object_iter_key(at) : NULL;
}

const char *nb_gguf_path(const nb_gguf *f)
{
    return f->path;
}

const nb_buffer *nb_gguf_buffer(const nb_gguf *f)
{
    return f->buffer;
}
