/*
 * For unit tests: small safetensors files of U8 tensors, whose bytes tell where they came from.
 */
#ifndef NB_TESTS_ITEMS_H
#define NB_TESTS_ITEMS_H

#include "models/safetensors.h"
#include "tests/unit/scratch.h"

/* Its name and shape, outermost first; NONE where there is no such dimension. */
struct item {
    const char *name;
    int64_t rows, columns;
};

enum { NONE = -1 };

#define N(items) ((int)(sizeof(items) / sizeof *(items)))

/* Writes a file whose data is 0, 1, 2 ... through all tensors in turn. */
static inline void write_items(const char *path, const struct item *items, int n)
{
    nb_stored tensors[8];
    unsigned char data[1024];
    size_t at = 0;
    assert_true(n <= 8);
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)i;
    for (int i = 0; i < n; i++) {
        nb_stored t = {.name = items[i].name, .dtype = NB_DTYPE_U8, .data = data + at};
        if (items[i].rows != NONE) t.shape[t.rank++] = items[i].rows;
        if (items[i].columns != NONE) t.shape[t.rank++] = items[i].columns;
        t.bytes = (size_t)nb_stored_count(&t);
        at += t.bytes;
        tensors[i] = t;
    }
    assert_true(at <= sizeof data);
    assert_ok(nb_safetensors_write(path, tensors, n, NULL));
}

#endif
