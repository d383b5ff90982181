/*
 * The safetensors container: an 8-byte little-endian header length, a JSON header, raw data. The
 * file is mapped read-only and may be hostile: every number in the header is checked against the
 * file before it is used (length, offsets in range, size equal to shape times type, no overlap,
 * no duplicate name).
 */
#ifndef NB_MODELS_SAFETENSORS_H
#define NB_MODELS_SAFETENSORS_H

#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"

enum { NB_STORED_MAX_RANK = 8 };

/* A tensor as a file holds it. Borrowed from the file or checkpoint that gave it out. */
typedef struct nb_stored {
    const char *name; /* as in the file */
    const char *file; /* its path, for messages */
    nb_dtype dtype;
    int rank; /* 0: a scalar */
    int64_t shape[NB_STORED_MAX_RANK];
    const void *data; /* any alignment; read-only */
    size_t bytes;
} nb_stored;

int64_t nb_stored_count(const nb_stored *t); /* elements */

typedef struct nb_safetensors nb_safetensors;

/* E_NOINPUT, E_DATA (what is wrong, and with which tensor). */
nb_status nb_safetensors_open(const char *path, nb_safetensors **out) NB_MUST_CHECK;
void nb_safetensors_close(nb_safetensors *f);

int64_t nb_safetensors_n_tensors(const nb_safetensors *f);
const nb_stored *nb_safetensors_tensor(const nb_safetensors *f, int64_t index); /* file order */
const nb_stored *nb_safetensors_find(const nb_safetensors *f, const char *name); /* or NULL */
/* A string of __metadata__, or NULL. */
const char *nb_safetensors_metadata(const nb_safetensors *f, const char *key);

/* Writing: tensors in the given order, each aligned to its type, atomically (never a half file
 * under the final name). metadata: NULL-terminated key, value, key, value ... or NULL. */
nb_status nb_safetensors_write(const char *path, const nb_stored *tensors, int64_t n,
                               const char *const *metadata) NB_MUST_CHECK;

#endif
