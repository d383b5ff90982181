/*
 * Several files of tensors in one, as all-in-one checkpoints are: names get a prefix each. As
 * stable-diffusion.cpp converts them a GGUF file has vectors in F32 and no outer sizes of 1.
 */
#include "tests/e2e/pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/checkpoint.h"

enum { ALIGNMENT = 32, MOST = 1000 };

/* Tensors, and what they are views of. */
struct list {
    nb_stored tensors[MOST];
    int64_t n;
    nb_checkpoint *files[MOST];
    int n_files;
    void *blocks[2 * MOST]; /* a name of each tensor, and values of some */
    int n_blocks;
};

static void die(const char *what)
{
    fprintf(stderr, "e2e_tool: pack: %s: %s\n", what, nb_error_message());
    exit(2);
}

static void *must_alloc(size_t bytes)
{
    void *data = calloc(1, bytes + 1);
    if (!data) die("out of memory");
    return data;
}

/* Until the list is freed. */
static void *keep_alloc(struct list *list, size_t bytes)
{
    return list->blocks[list->n_blocks++] = must_alloc(bytes);
}

static void free_list(struct list *list)
{
    for (int i = 0; i < list->n_blocks; i++) free(list->blocks[i]);
    for (int i = 0; i < list->n_files; i++) nb_checkpoint_close(list->files[i]);
    free(list);
}

static void add(struct list *list, const char *prefix, const nb_stored *t)
{
    size_t bytes = strlen(prefix) + strlen(t->name) + 1;
    if (list->n == MOST) die("too many tensors");
    char *name = keep_alloc(list, bytes);
    snprintf(name, bytes, "%s%s", prefix, t->name);
    list->tensors[list->n] = *t;
    list->tensors[list->n++].name = name;
}

static void add_file(struct list *list, const char *prefix, const char *path)
{
    nb_checkpoint *c;
    if (list->n_files == MOST) die("too many files");
    if (nb_checkpoint_open(path, &c)) die(path);
    list->files[list->n_files++] = c;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++)
        add(list, prefix, nb_checkpoint_tensor(c, i));
}

/* --- GGUF --- */

static uint32_t type_of(const nb_stored *t)
{
    static const struct {
        nb_dtype dtype;
        uint32_t id;
    } types[] = {{NB_DTYPE_F32, 0},     {NB_DTYPE_F16, 1},   {NB_DTYPE_BF16, 30},
                 {NB_DTYPE_I64, 27},    {NB_DTYPE_Q4_0, 2},  {NB_DTYPE_Q4_1, 3},
                 {NB_DTYPE_Q5_0, 6},    {NB_DTYPE_Q5_1, 7},  {NB_DTYPE_Q8_0, 8},
                 {NB_DTYPE_Q2_K, 10},   {NB_DTYPE_Q3_K, 11}, {NB_DTYPE_Q4_K, 12},
                 {NB_DTYPE_Q5_K, 13},   {NB_DTYPE_Q6_K, 14}, {NB_DTYPE_IQ4_NL, 20},
                 {NB_DTYPE_IQ4_XS, 23}, {NB_DTYPE_MXFP4, 39}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].dtype == t->dtype) return types[i].id;
    die(t->name);
    return 0;
}

static void widen_vector(struct list *list, nb_stored *t)
{
    int64_t n = nb_stored_count(t);
    if (t->rank > 1 || (t->dtype != NB_DTYPE_F16 && t->dtype != NB_DTYPE_BF16)) return;
    float *values = keep_alloc(list, (size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = nb_load_f32(t->dtype, t->data, i);
    t->dtype = NB_DTYPE_F32;
    t->data = values;
    t->bytes = (size_t)n * sizeof *values;
}

static void drop_outer_ones(nb_stored *t)
{
    while (t->rank > 1 && t->shape[0] == 1) {
        t->rank--;
        memmove(t->shape, t->shape + 1, (size_t)t->rank * sizeof *t->shape);
    }
}

static void put(FILE *f, uint64_t value, size_t bytes)
{
    fwrite(&value, 1, bytes, f);
}

static void put_text(FILE *f, const char *text)
{
    put(f, strlen(text), 8);
    fwrite(text, 1, strlen(text), f);
}

static void pad(FILE *f)
{
    while (ftell(f) % ALIGNMENT) put(f, 0, 1);
}

static uint64_t describe(FILE *f, const nb_stored *t, uint64_t offset)
{
    put_text(f, t->name);
    put(f, (uint64_t)t->rank, 4);
    for (int i = t->rank - 1; i >= 0; i--) put(f, (uint64_t)t->shape[i], 8);
    put(f, type_of(t), 4);
    put(f, offset, 8);
    return offset + (t->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void write_gguf(const char *path, struct list *list)
{
    enum { VERSION = 3, N_KEYS = 1, STRING = 8 };
    uint64_t offset = 0;
    FILE *f = fopen(path, "wb");
    if (!f) die(path);
    fwrite("GGUF", 1, 4, f);
    put(f, VERSION, 4);
    put(f, (uint64_t)list->n, 8);
    put(f, N_KEYS, 8);
    put_text(f, "general.architecture");
    put(f, STRING, 4);
    put_text(f, "sd");
    for (int64_t i = 0; i < list->n; i++) {
        widen_vector(list, &list->tensors[i]);
        drop_outer_ones(&list->tensors[i]);
        offset = describe(f, &list->tensors[i], offset);
    }
    for (int64_t i = 0; i < list->n; i++) {
        pad(f);
        fwrite(list->tensors[i].data, 1, list->tensors[i].bytes, f);
    }
    if (ferror(f) || fclose(f)) die(path);
}

void pack(int n, char **arguments)
{
    struct list *list = must_alloc(sizeof *list);
    const char *path = arguments[0];
    for (int i = 1; i + 1 < n; i += 2) add_file(list, arguments[i], arguments[i + 1]);
    if (nb_name_ends_with(path, ".gguf"))
        write_gguf(path, list);
    else if (nb_safetensors_write(path, list->tensors, list->n, NULL))
        die(path);
    free_list(list);
}
