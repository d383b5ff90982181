/*
 * What layers of a nunchaku file become: tensors under diffusers' names in a list that will be
 * the checkpoint's (models/nunchaku.h says which).
 */
#ifndef NB_MODELS_NUNCHAKU_MATRIX_H
#define NB_MODELS_NUNCHAKU_MATRIX_H

#include "models/nunchaku_layer.h"

enum { NB_NUNCHAKU_MAX_LAYERS = 2 };

typedef struct nb_nunchaku_view {
    const nb_checkpoint *checkpoint;
    nb_arena *storage;         /* of all that is not in the files as it is needed */
    const nb_stored **tensors; /* [capacity] */
    int64_t n, capacity;
} nb_nunchaku_view;

/* Rows first ... first+n of one layer, or of two side by side: what becomes one matrix. */
typedef struct nb_nunchaku_matrix {
    nb_nunchaku_layer layers[NB_NUNCHAKU_MAX_LAYERS];
    int n_layers;
    int64_t first, n, k;
    float factors[NB_NUNCHAKU_MAX_LAYERS]; /* set here: of x's columns, beside 1 / smooth */
} nb_nunchaku_matrix;

/* A tensor whose data lives as long as the view's storage or files. `like`: of that file. */
nb_status nb_nunchaku_add(nb_nunchaku_view *v, const nb_stored *like, const char *name,
                          nb_dtype dtype, int rank, const int64_t *shape,
                          const void *data) NB_MUST_CHECK;

/* NAME.weight with all that belongs to it, and NAME.bias. */
nb_status nb_nunchaku_add_matrix(nb_nunchaku_view *v, nb_nunchaku_matrix *m,
                                 const char *name) NB_MUST_CHECK;
nb_status nb_nunchaku_add_modulation(nb_nunchaku_view *v, const nb_nunchaku_modulation *m,
                                     const char *name) NB_MUST_CHECK;

nb_status nb_nunchaku_no_memory(const nb_nunchaku_view *v);

#endif
