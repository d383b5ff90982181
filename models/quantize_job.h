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

/* A checkpoint to be converted. */
typedef struct nb_quantize_input {
    nb_checkpoint *files;   /* as its files have it */
    nb_checkpoint *outline; /* of nunchaku's files (models/nunchaku.h), else NULL */
    const nb_checkpoint *c; /* the one of the two that has the names of the output */
    int says_comfy;         /* a file has comfy's notes */
    double share;           /* bytes in the files for each of c's tensors */
    nb_quantize_scope scope;
} nb_quantize_input;

/* Asks models/plausible.h if there are 4 bits. E_DATA: also for a LoRA, which is no model. */
nb_status nb_quantize_input_open(const char *path, nb_quantize_input *out) NB_MUST_CHECK;
void nb_quantize_input_close(nb_quantize_input *in); /* of zeros: fine */

int64_t nb_quantize_input_bytes(const nb_quantize_input *in); /* of tensors */

/* Of an outline: what the header of a file, or else config.json in the folder, says of the
 * model, to be decref'ed; NULL if neither does. E_DATA. */
nb_status nb_quantize_input_config(const nb_quantize_input *in, json_t **out) NB_MUST_CHECK;

/* What becomes of a matrix. */
typedef enum nb_quantize_fate {
    NB_FATE_COPY,    /* it is left as it is, with all that is beside it */
    NB_FATE_CONVERT, /* it becomes what was asked for */
    NB_FATE_EXPAND   /* it is kept, but as BF16: the output cannot hold it as it lies */
} nb_quantize_fate;

/* Of the matrix with the weight `t`; *source tells about it unless it is copied. Of what is no
 * matrix: copied. */
nb_status nb_quantize_decide(const nb_quantize_job *job, const nb_quantize_input *in,
                             const nb_stored *t, nb_quantize_fate *fate,
                             nb_quant_source *source) NB_MUST_CHECK;

/* The largest magnitude of the inputs of a matrix that is converted, of all that are fused with
 * it where they share scales; 0: none is known, or nothing is made of it. */
float nb_quantize_input_amax(const nb_quantize_job *job, const nb_quant_source *source);

/* Does the output have comfy's notes in its header? They count for all of a file. */
int nb_quantize_notes_layers(const nb_quantize_job *job, const nb_quantize_input *in);

/* Do floats come out? */
int nb_quantize_expands(const nb_quantize_job *job);

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

/* All of it into one file (`path`), or each of its files into one of the same name in a folder;
 * nunchaku's into one file of the name that diffusers gives it. With a folder, `map` is the
 * weight_map to be filled. */
nb_status nb_quantize_file(nb_quantize_job *job, const nb_quantize_input *in,
                           const char *path) NB_MUST_CHECK;
nb_status nb_quantize_shards(nb_quantize_job *job, const nb_quantize_input *in,
                             const char *folder, json_t *map,
                             int64_t *total_bytes) NB_MUST_CHECK;

/* --- configurations --- */

/* Writes the config.json `from` to `folder`, with what the dialect says there about the
 * quantisation (and hf_quant_config.json for an LLM of modelopt). */
nb_status nb_quantize_config(nb_quantize_job *job, const nb_quantize_input *in,
                             const char *from, const char *folder) NB_MUST_CHECK;

/* A JSON value into a file, whole or not at all. */
nb_status nb_quantize_write_json(const char *path, const json_t *value) NB_MUST_CHECK;

#endif
