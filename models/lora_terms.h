/*
 * Inside the LoRA reader: what it keeps of its files, and the scale that a file gives a module.
 */
#ifndef NB_MODELS_LORA_TERMS_H
#define NB_MODELS_LORA_TERMS_H

#include <jansson.h>

#include "models/lora.h"
#include "models/lora_names.h"

/* What one module of a file does to one matrix: row i of the matrix has row
 * (first_row + i) mod all rows of `up`. */
typedef struct nb_lora_term {
    const char *module;                /* canonical name of the matrix */
    const nb_stored *down, *up, *bias; /* [rank, k], [rows, rank], [rows] or NULL */
    int64_t first_row, n_rows;
    double scale; /* weight * alpha / rank */
} nb_lora_term;

struct nb_loras {
    nb_checkpoint **files;
    int n_files;
    nb_compute compute;
    nb_arena *arena;
    nb_lora_term *terms;
    int64_t n_terms, capacity;
};

/* Rows and columns of a stored matrix, trailing dimensions of 1 dropped; E_DATA if it is none,
 * is empty or is no F32, F16 or BF16. */
nb_status nb_lora_matrix_shape(const nb_stored *t, int64_t *rows,
                               int64_t *columns) NB_MUST_CHECK;

/* The PEFT config in a file's header, NULL if it has none; the caller decrefs it. E_DATA. */
nb_status nb_lora_config_read(const nb_checkpoint *file, json_t **out) NB_MUST_CHECK;

/* alpha / rank (or its root) of the module that `key` of tensor `name` names: by the tensor
 * `alpha`, else by the config, else 1; either may be NULL. */
nb_status nb_lora_scale(const nb_checkpoint *file, const json_t *config, const nb_stored *alpha,
                        const char *name, const nb_lora_key *key, int64_t rank,
                        double *out) NB_MUST_CHECK;

#endif
