/*
 * The safetensors container: an 8-byte little-endian header length, a JSON header, raw data.
 * The file is mapped read-only and may be hostile: every number in the header is checked
 * against the file before it is used (length, offsets in range, size equal to shape times type,
 * no overlap, no duplicate name). Holes between tensors, which some writers leave, are fine.
 *
 * What cannot be caught: a file that somebody shortens while it is open.
 */
#ifndef NB_MODELS_SAFETENSORS_H
#define NB_MODELS_SAFETENSORS_H

#include "kernels/base/buffer.h"
#include "models/stored.h"

typedef struct nb_safetensors nb_safetensors;

/* E_NOINPUT, E_DATA (what is wrong, and with which tensor). */
nb_status nb_safetensors_open(const char *path, nb_safetensors **out) NB_MUST_CHECK;

/* The same of a file that is in memory already; keeps a reference to `buffer`. `path` only
 * names it in messages. */
nb_status nb_safetensors_open_buffer(const char *path, nb_buffer *buffer,
                                     nb_safetensors **out) NB_MUST_CHECK;

void nb_safetensors_close(nb_safetensors *f);

int64_t nb_safetensors_n_tensors(const nb_safetensors *f);
const nb_stored *nb_safetensors_tensor(const nb_safetensors *f, int64_t index); /* file order */
const nb_stored *nb_safetensors_find(const nb_safetensors *f, const char *name); /* or NULL */
/* A string of __metadata__, or NULL. */
const char *nb_safetensors_metadata(const nb_safetensors *f, const char *key);
/* The key behind `key` in __metadata__ (behind NULL: the first one), or NULL. */
const char *nb_safetensors_metadata_next(const nb_safetensors *f, const char *key);
const nb_buffer *nb_safetensors_buffer(const nb_safetensors *f); /* the whole file; borrowed */
const char *nb_safetensors_path(const nb_safetensors *f);        /* as opened */

/* Writing, atomically (never a half file under the final name). The format allows no holes, so
 * that every tensor is aligned to its type the data is ordered by element size, largest first,
 * and as given within a size. `file` of the tensors is not used. metadata: NULL-terminated key,
 * value, key, value ... or NULL. */
nb_status nb_safetensors_write(const char *path, const nb_stored *tensors, int64_t n,
                               const char *const *metadata) NB_MUST_CHECK;

/* The same for data that comes piece by piece: the header is written first, from the tensors'
 * names, types and shapes (their data is not used), then each tensor is put once, in any order.
 * Only what is being put needs to be in memory. */
typedef struct nb_safetensors_writer nb_safetensors_writer;
nb_status nb_safetensors_writer_open(const char *path, const nb_stored *tensors, int64_t n,
                                     const char *const *metadata,
                                     nb_safetensors_writer **out) NB_MUST_CHECK;
nb_status nb_safetensors_writer_put(nb_safetensors_writer *w, int64_t index,
                                    const void *data) NB_MUST_CHECK;
nb_status nb_safetensors_writer_commit(nb_safetensors_writer *w) NB_MUST_CHECK; /* consumes w */
void nb_safetensors_writer_abort(nb_safetensors_writer *w); /* consumes w; NULL is fine */

#endif
