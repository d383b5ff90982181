/*
 * Inside nb_quantize: a run under way, shared by the files quantize*.c.
 */
#ifndef NB_MODELS_QUANTIZE_JOB_H
#define NB_MODELS_QUANTIZE_JOB_H

#include <jansson.h>

#include "models/quant_source.h"
#include "models/quantize.h"

/* Which matrices are linear layers to be quantised, where names alone tell. */
typedef enum nb_quantize_scope {
    NB_SCOPE_FILE,    /* all matrices */
    NB_SCOPE_FLUX,    /* the transformer */
    NB_SCOPE_ENCODER, /* CLIP, T5, the autoencoder */
    NB_SCOPE_LLM,
} nb_quantize_scope;

typedef struct nb_quantize_job {
    nb_stream *s;
    const nb_quantize_args *args;
    nb_quantize_result result;
    int64_t bytes_done, bytes_of;
    int shares; /* matrices that are fused later have one tensor scale */
    char group[NB_MODULE_BYTES + 8];
    float group_amax; /* of the last group that was measured */
} nb_quantize_job;

/* --- rules --- */

nb_quantize_scope nb_quantize_scope_of(const nb_checkpoint *c);

/* Does the rule of the scope, and no pattern of `keep`, choose the module? */
int nb_quantize_chooses(const nb_quantize_args *args, nb_quantize_scope scope,
                        const char *module);

/* Is it a table that rows are looked up in rather than a linear layer? */
int nb_quantize_is_table(const char *module);

/* The names, without what they have in common in front, of the matrices that have the same
 * input as this one and are fused with it; `bytes` is the length of that front. NULL: none.
 * NULL-terminated. */
const char *const *nb_quantize_group(const char *module, size_t *bytes);

/* --- one checkpoint --- */

/* All of it into one file (`path`), or each of its files into one of the same name in a folder.
 * With a folder, `map` is the weight_map to be filled. */
nb_status nb_quantize_file(nb_quantize_job *job, const nb_checkpoint *c,
                           nb_quantize_scope scope, const char *path) NB_MUST_CHECK;
nb_status nb_quantize_shards(nb_quantize_job *job, const nb_checkpoint *c,
                             nb_quantize_scope scope, const char *folder, json_t *map,
                             int64_t *total_bytes) NB_MUST_CHECK;

/* Is the matrix with the weight `t` converted? Then *source tells about it. */
nb_status nb_quantize_decide(nb_quantize_job *job, const nb_checkpoint *c,
                             nb_quantize_scope scope, const nb_stored *t, int *converts,
                             nb_quant_source *source) NB_MUST_CHECK;

/* --- configurations --- */

/* Writes the config.json `from` to `folder`, with what the dialect says there about the
 * quantisation (and hf_quant_config.json for an LLM of modelopt). */
nb_status nb_quantize_config(nb_quantize_job *job, const nb_checkpoint *c,
                             nb_quantize_scope scope, const char *from,
                             const char *folder) NB_MUST_CHECK;

/* A JSON value into a file, whole or not at all. */
nb_status nb_quantize_write_json(const char *path, const json_t *value) NB_MUST_CHECK;

#endif
