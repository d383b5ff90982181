/*
 * A file that holds tensors, in whatever container: safetensors or GGUF, told by its first
 * bytes (and by the ending .gguf, so that a spoilt one is called by its name).
 */
#ifndef NB_MODELS_CONTAINER_H
#define NB_MODELS_CONTAINER_H

#include "kernels/base/buffer.h"
#include "models/safetensors.h"

typedef struct nb_container nb_container;

/* E_NOINPUT, E_DATA (what is wrong, and with which tensor). */
nb_status nb_container_open(const char *path, nb_container **out) NB_MUST_CHECK;
void nb_container_close(nb_container *f);

int64_t nb_container_n_tensors(const nb_container *f);
const nb_stored *nb_container_tensor(const nb_container *f, int64_t index);  /* file order */
const nb_stored *nb_container_find(const nb_container *f, const char *name); /* or NULL */
/* Sets exact_inputs of a tensor that `f` gave out, before others have copied it. */
void nb_container_want_exact_inputs(nb_container *f, const nb_stored *t);
/* A string that the file says about itself under that key, or NULL. */
const char *nb_container_metadata(const nb_container *f, const char *key);
/* The key behind `key` (behind NULL: the first one), or NULL. */
const char *nb_container_metadata_next(const nb_container *f, const char *key);
const nb_buffer *nb_container_buffer(const nb_container *f); /* the whole file; borrowed */
const char *nb_container_path(const nb_container *f);        /* as opened */

#endif
