/*
 * Names are found by bisection of a sorted list, not by hashing: a checkpoint's thousand names
 * take eleven comparisons, and no file can choose names that make it slow.
 */
#include "models/stored.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t nb_stored_count(const nb_stored *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->rank; i++) count *= t->shape[i];
    return count;
}

const char *nb_shape_text(int rank, const int64_t *shape, char text[NB_SHAPE_TEXT_BYTES])
{
    size_t used = 1;
    text[0] = '[';
    for (int i = 0; i < rank && used < NB_SHAPE_TEXT_BYTES; i++)
        used += (size_t)snprintf(text + used, NB_SHAPE_TEXT_BYTES - used, "%s%lld",
                                 i ? ", " : "", (long long)shape[i]);
    if (used < NB_SHAPE_TEXT_BYTES) snprintf(text + used, NB_SHAPE_TEXT_BYTES - used, "]");
    return text;
}

int nb_name_ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static int compare_names(const void *a, const void *b)
{
    const nb_stored *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

nb_status nb_stored_index(const nb_stored *const *tensors, int64_t n, const nb_stored ***out,
                          const nb_stored *const **twice)
{
    const nb_stored **sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    if (!sorted)
        return nb_fail(NB_E_SYSTEM, "out of memory: an index of %lld names", (long long)n);
    if (n) memcpy(sorted, tensors, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_names);
    *twice = NULL;
    for (int64_t i = 1; i < n && !*twice; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) *twice = &sorted[i - 1];
    *out = sorted;
    return NB_OK;
}

/* By place, and by name among equals, for one order on every run. */
static int compare_places(const void *a, const void *b)
{
    const nb_stored *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q) return p < q ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Empty tensors take no place, wherever they lie. */
nb_status nb_stored_sort_places(nb_stored *tensors, int64_t n, const void *data, size_t *used)
{
    const unsigned char *end = data;
    const nb_stored *last = NULL;
    if (n) qsort(tensors, (size_t)n, sizeof *tensors, compare_places);
    for (int64_t i = 0; i < n; i++) {
        const nb_stored *t = &tensors[i];
        if (!t->bytes) continue;
        if (last && (const unsigned char *)t->data < end)
            return nb_fail(NB_E_DATA, "%s: tensors %.300s and %.300s overlap", t->file,
                           last->name, t->name);
        last = t;
        end = (const unsigned char *)t->data + t->bytes;
    }
    *used = (size_t)(end - (const unsigned char *)data);
    return NB_OK;
}

const nb_stored *nb_stored_find(const nb_stored *const *sorted, int64_t n, const char *name)
{
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(sorted[middle]->name, name);
        if (order == 0) return sorted[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
