/*
 * A checkpoint: all tensors of one model component, whatever files hold them (one safetensors
 * or GGUF file, or shards with an index), by name.
 */
#ifndef NB_MODELS_CHECKPOINT_H
#define NB_MODELS_CHECKPOINT_H

#include "kernels/base/arena.h"
#include "models/container.h"

typedef struct nb_checkpoint nb_checkpoint;

/* `path` is a .safetensors or .gguf file, a *.safetensors.index.json, or a folder that holds
 * one of model.safetensors, diffusion_pytorch_model.safetensors, their .index.json, or - as the
 * only one of its kind - any *.safetensors.index.json or *.safetensors; or that holds both
 * transformer_blocks.safetensors and unquantized_layers.safetensors. E_NOINPUT names what was
 * looked for. A shard that is missing or outside the folder, a tensor that the index promises
 * and its shard does not hold, and a tensor in two shards are errors that name it. */
nb_status nb_checkpoint_open(const char *path, nb_checkpoint **out) NB_MUST_CHECK;
void nb_checkpoint_close(nb_checkpoint *c);

const char *nb_checkpoint_path(const nb_checkpoint *c); /* as opened */
/* The file that says what the checkpoint holds, for messages: the safetensors file or the index
 * of shards. */
const char *nb_checkpoint_source(const nb_checkpoint *c);
int64_t nb_checkpoint_n_tensors(const nb_checkpoint *c);
const nb_stored *nb_checkpoint_tensor(const nb_checkpoint *c, int64_t index);  /* by name */
const nb_stored *nb_checkpoint_find(const nb_checkpoint *c, const char *name); /* or NULL */

/* `name`, X.weight; or X.weight_packed, as compressed-tensors calls its codes. NULL: neither.
 */
const nb_stored *nb_checkpoint_find_matrix(const nb_checkpoint *c, const char *name);

/* For dialects (models/canonical.h): the checkpoint's tensors are these from now on, views of
 * its files or of `storage`, which it takes on success. Once for a checkpoint. E_DATA if two
 * have one name. */
nb_status nb_checkpoint_set_tensors(nb_checkpoint *c, const nb_stored *const *tensors,
                                    int64_t n, nb_arena *storage) NB_MUST_CHECK;

/* Another checkpoint, of these tensors alone: views of the files of `c`, which must live as
 * long, or of `storage`, which it takes on success. It has no files of its own. */
nb_status nb_checkpoint_derive(const nb_checkpoint *c, const nb_stored *const *tensors,
                               int64_t n, nb_arena *storage, nb_checkpoint **out) NB_MUST_CHECK;

/* LoRA files (models/lora.h) that binding adds to its matrices; borrowed, NULL: none. */
struct nb_loras;
void nb_checkpoint_set_loras(nb_checkpoint *c, const struct nb_loras *loras);
const struct nb_loras *nb_checkpoint_loras(const nb_checkpoint *c);

int nb_checkpoint_n_files(const nb_checkpoint *c);
const nb_container *nb_checkpoint_file(const nb_checkpoint *c, int index);

/* Bytes of all files, and the mapping's pages are asked for ahead (advice, may do nothing). */
size_t nb_checkpoint_bytes(const nb_checkpoint *c);
void nb_checkpoint_prefetch(const nb_checkpoint *c);

/* 64 hex digits and a 0: SHA-256 over the sorted names, types, shapes and a sample of the data
 * of every tensor (its first and last 4096 bytes): quick, and different for different weights.
 * Of the tensors as the files hold them, whatever a dialect makes of their names. */
void nb_checkpoint_digest(const nb_checkpoint *c, char digest[65]);

#endif
