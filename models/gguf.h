/*
 * The GGUF container, versions 2 and 3, little-endian:
 *
 *     "GGUF"  u32 version  u64 tensors  u64 keys
 *     keys:     string name, u32 type, value; an array is u32 type, u64 count, values
 *     tensors:  string name, u32 rank (at most 4), u64 sizes, innermost first, u32 type,
 *               u64 offset from the first byte of data
 *     data, from the next multiple of general.alignment (32 where that key is missing)
 *
 * and a string is u64 length, bytes. Sizes are given out outermost first, as everywhere else.
 * A tensor that a writer flattened or cut to other rows for the sake of its blocks has its own
 * shape in the key comfy.gguf.orig_shape.NAME, and is given out in that shape.
 *
 * Types are F32, F16, BF16, F64, the integers, and the blocks of kernels/ggml_blocks.h. The
 * file is mapped read-only and may be hostile: every number is checked before it is used
 * (counts against the file's length, offsets in range and aligned, no overlap, no name twice,
 * no name that is not UTF-8). Bytes behind the last tensor are padding.
 */
#ifndef NB_MODELS_GGUF_H
#define NB_MODELS_GGUF_H

#include "kernels/base/buffer.h"
#include "models/stored.h"

typedef struct nb_gguf nb_gguf;

/* E_NOINPUT, E_DATA (what is wrong, and with which key or tensor). */
nb_status nb_gguf_open(const char *path, nb_gguf **out) NB_MUST_CHECK;

/* The same of a file that is in memory already; keeps a reference to `buffer`. `path` only
 * names it in messages. */
nb_status nb_gguf_open_buffer(const char *path, nb_buffer *buffer, nb_gguf **out) NB_MUST_CHECK;

void nb_gguf_close(nb_gguf *f);

int64_t nb_gguf_n_tensors(const nb_gguf *f);
const nb_stored *nb_gguf_tensor(const nb_gguf *f, int64_t index);     /* file order */
const nb_stored *nb_gguf_find(const nb_gguf *f, const char *name);    /* or NULL */
const char *nb_gguf_metadata(const nb_gguf *f, const char *key);      /* a string, or NULL */
const char *nb_gguf_metadata_next(const nb_gguf *f, const char *key); /* key behind, or NULL */
const nb_buffer *nb_gguf_buffer(const nb_gguf *f); /* the whole file; borrowed */
const char *nb_gguf_path(const nb_gguf *f);        /* as opened */

/* Do these bytes begin as a GGUF file does? */
int nb_gguf_is_one(const void *data, size_t bytes);

#endif
