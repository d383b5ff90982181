#define _GNU_SOURCE
#include "tests/fuzz/listed.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/base/dtype.h"

enum {
    PAGE = 4096,
    MOST_TENSORS = 200,
    MOST_SIZES = 8,
    TENSOR_BYTES = 1 << 20,
    ALL_BYTES = 4 << 20
};

struct tensor {
    const char *data; /* what is repeated */
    size_t data_bytes, bytes;
};

struct list {
    json_t *header, *metadata;
    struct tensor tensors[MOST_TENSORS];
    int n;
    size_t bytes;
};

/* Up to the next blank; *at goes behind it. */
static size_t word(const char **at, const char *end, const char **out)
{
    while (*at < end && **at == ' ') (*at)++;
    *out = *at;
    while (*at < end && **at != ' ') (*at)++;
    return (size_t)(*at - *out);
}

/* The dtype's name, or NULL. */
static const char *dtype_of(const char *text, size_t n, size_t *element)
{
    for (int i = 0; i < NB_DTYPE_COUNT; i++) {
        const char *name = nb_dtype_name((nb_dtype)i);
        if (nb_dtype_elements((nb_dtype)i) != 1 || strlen(name) != n) continue;
        if (memcmp(name, text, n) != 0) continue;
        *element = nb_dtype_bytes((nb_dtype)i);
        return name;
    }
    return NULL;
}

/* The bytes of a tensor whose sizes stand between `at` and `end`; 0: none, or too many. */
static size_t read_sizes(const char *at, const char *end, size_t element, size_t data_bytes,
                         json_t *shape)
{
    size_t bytes = element, n;
    const char *text;
    while ((n = word(&at, end, &text)) && json_array_size(shape) < MOST_SIZES) {
        char digits[12] = {0};
        if (n >= sizeof digits) return 0;
        memcpy(digits, text, n);
        long size = strcmp(digits, "*") == 0 ? (long)data_bytes : strtol(digits, NULL, 10);
        if (size < 0 || size > TENSOR_BYTES) return 0;
        json_array_append_new(shape, json_integer(size));
        bytes *= (size_t)size;
        if (bytes > TENSOR_BYTES) return 0;
    }
    return bytes;
}

static void add_tensor(struct list *list, const char *at, const char *end, const char *data,
                       size_t data_bytes)
{
    const char *name, *text;
    size_t element, name_bytes = word(&at, end, &name), n = word(&at, end, &text);
    const char *dtype = dtype_of(text, n, &element);
    json_t *key = dtype ? json_stringn(name, name_bytes) : NULL, *shape = json_array();
    size_t bytes = key ? read_sizes(at, end, element, data_bytes, shape) : 0;
    int is_new = key && !memchr(name, 0, name_bytes) &&
                 !json_object_get(list->header, json_string_value(key));
    if (bytes && is_new && list->n < MOST_TENSORS && list->bytes + bytes <= ALL_BYTES) {
        json_object_set_new(list->header, json_string_value(key),
                            json_pack("{s:s, s:O, s:[I, I]}", "dtype", dtype, "shape", shape,
                                      "data_offsets", (json_int_t)list->bytes,
                                      (json_int_t)(list->bytes + bytes)));
        list->tensors[list->n++] =
            (struct tensor){.data = data, .data_bytes = data_bytes, .bytes = bytes};
        list->bytes += bytes;
    }
    json_decref(key);
    json_decref(shape);
}

static void add_metadata(struct list *list, const char *at, const char *end, const char *data,
                         size_t data_bytes)
{
    const char *name;
    size_t n = word(&at, end, &name);
    json_t *key = json_stringn(name, n), *value = json_stringn(data, data_bytes);
    if (key && value && !memchr(name, 0, n) && !memchr(data, 0, data_bytes))
        json_object_set(list->metadata, json_string_value(key), value);
    json_decref(key);
    json_decref(value);
}

static void add_line(struct list *list, const char *line, const char *end)
{
    static const char one[] = {0x00, 0x3c};
    const char *mark = memchr(line, '=', (size_t)(end - line)), *data = one;
    size_t data_bytes = sizeof one;
    const char *stop = mark ? mark : end;
    if (mark && end - mark > 2) {
        data = mark + 2;
        data_bytes = (size_t)(end - data);
    }
    if (*line == '#')
        add_metadata(list, line + 1, stop, data, data_bytes);
    else
        add_tensor(list, line, stop, data, data_bytes);
}

static void write_data(FILE *out, const struct list *list)
{
    for (int i = 0; i < list->n; i++) {
        const struct tensor *t = &list->tensors[i];
        for (size_t at = 0; at < t->bytes; at += t->data_bytes) {
            size_t n = t->bytes - at < t->data_bytes ? t->bytes - at : t->data_bytes;
            fwrite(t->data, 1, n, out);
        }
    }
}

/* The header is padded so that the last tensor ends with a page: what is read behind it is not
 * there. */
static int write_file(const struct list *list)
{
    int fd = memfd_create("input", MFD_CLOEXEC), copy = fd < 0 ? -1 : dup(fd);
    FILE *out = copy < 0 ? NULL : fdopen(copy, "wb");
    if (!out) abort();
    if (json_object_size(list->metadata))
        json_object_set(list->header, "__metadata__", list->metadata);
    char *text = json_dumps(list->header, JSON_COMPACT);
    size_t bytes = text ? strlen(text) : 0,
           rest = (sizeof(uint64_t) + bytes + list->bytes) % PAGE;
    uint64_t n = bytes + (rest ? PAGE - rest : 0);
    fwrite(&n, sizeof n, 1, out);
    fprintf(out, "%-*s", (int)n, text ? text : "");
    write_data(out, list);
    free(text);
    if (!text || fclose(out)) abort();
    return fd;
}

int listed_file(const uint8_t *text, size_t bytes)
{
    struct list list = {.header = json_object(), .metadata = json_object()};
    const char *at = (const char *)text, *end = at + bytes;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end) line_end = end;
        if (line_end > at) add_line(&list, at, line_end);
        at = line_end + 1;
    }
    int fd = write_file(&list);
    json_decref(list.header);
    json_decref(list.metadata);
    return fd;
}

void listed_path(int fd, char path[LISTED_PATH_BYTES])
{
    snprintf(path, LISTED_PATH_BYTES, "/proc/self/fd/%d", fd);
}
