/*
 * Inside the LoRA reader: what it keeps of its files, and the scale that a file gives a module.
 */
#ifndef NB_MODELS_LORA_TERMS_H
#define NB_MODELS_LORA_TERMS_H

#include <jansson.h>

#include "models/lora.h"
#include "models/lora_names.h"

/* up [n, rank] times down [rank, k]; either may be NULL for the identity. */
typedef struct nb_lora_factor {
    const nb_stored *up, *down;
    int64_t n, k, rank;
} nb_lora_factor;

/* How the two factors of a term become one branch. */
typedef enum nb_lora_form {
    NB_LORA_PLAIN,    /* the first factor alone */
    NB_LORA_HADAMARD, /* element by element (LoHa) */
    NB_LORA_KRONECKER /* each element of the first times all of the second (LoKr) */
} nb_lora_form;

/* What one module of a file does to one matrix: row i of the matrix has row
 * (first_row + i) mod `rows` of the branch. */
typedef struct nb_lora_term {
    const char *module; /* canonical name of the matrix */
    nb_lora_form form;
    nb_lora_factor factors[2];
    const nb_stored *some;       /* of its tensors, for messages */
    int64_t rows, columns, rank; /* of the branch for all rows; rank 0: a bias alone */
    const nb_stored *bias;       /* [rows] or NULL */
    int64_t first_row, n_rows;
    double scale; /* weight * alpha / rank */
} nb_lora_term;

/* The branch's elements, up [rows, rank] and down [rank, columns], without the scale. */
double nb_lora_up_at(const nb_lora_term *t, int64_t row, int64_t r);
double nb_lora_down_at(const nb_lora_term *t, int64_t r, int64_t column);

/* Fills in form, factors, sizes and `some` of the product that the parts of `kind` make, NULL
 * where there is none. *divisor is what alpha is divided by; 0: alpha means nothing. E_DATA: a
 * part is missing, or is no matrix that fits. */
nb_status nb_lora_product(const char *kind, const nb_stored *const parts[NB_LORA_N_PARTS],
                          nb_lora_term *term, int64_t *divisor) NB_MUST_CHECK;

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
