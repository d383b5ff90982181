/*
 * A tensor as a file holds it, and lists of them that are searched by name. Readers make these,
 * checkpoints collect them, binders turn them into what an architecture computes with.
 */
#ifndef NB_MODELS_STORED_H
#define NB_MODELS_STORED_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"

enum { NB_STORED_MAX_RANK = 8 };

/* Borrowed from the file or checkpoint that gave it out. */
typedef struct nb_stored {
    const char *name; /* as in the file */
    const char *file; /* its path, for messages */
    nb_dtype dtype;
    int rank; /* 0: a scalar */
    int64_t shape[NB_STORED_MAX_RANK];
    const void *data; /* any alignment; read-only */
    size_t bytes;
    int exact_inputs; /* a matrix whose products want unrounded inputs (models/declared.h) */
} nb_stored;

int64_t nb_stored_count(const nb_stored *t); /* elements */

/* "[256, 64]" of a shape; cut short if it does not fit. Returns `text`. */
enum { NB_SHAPE_TEXT_BYTES = 176 };
const char *nb_shape_text(int rank, const int64_t *shape, char text[NB_SHAPE_TEXT_BYTES]);

/* Does a name (or a path) end so? */
int nb_name_ends_with(const char *name, const char *suffix);

/* A fresh list of the n tensors, sorted by name. If two have one name, *twice is its first
 * entry (else NULL) and the list is still good. The caller frees *out. E_SYSTEM. */
nb_status nb_stored_index(const nb_stored *const *tensors, int64_t n, const nb_stored ***out,
                          const nb_stored *const **twice) NB_MUST_CHECK;

/* Sorts n tensors of one file by their places in its data, which begin at `data`; *used is how
 * far the last one goes. E_DATA: two share a byte. Gaps are some writers' padding. */
nb_status nb_stored_sort_places(nb_stored *tensors, int64_t n, const void *data,
                                size_t *used) NB_MUST_CHECK;

/* Searches a list that is sorted by name; NULL if there is none of that name. */
const nb_stored *nb_stored_find(const nb_stored *const *sorted, int64_t n, const char *name);

#endif
