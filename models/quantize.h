/*
 * Converting checkpoints: weights to four or eight bits as the vendors' tools write them, or
 * back to floats. The library half of nibble quantize.
 *
 * What comes in                    what is quantised                     what comes out
 * a .safetensors file, an index    every X.weight of two dimensions      one file
 *   of shards                        whose columns fit the format
 * a folder with model_index.json   the components that are named, their  a folder; the other
 *                                    linear layers but keep-lists          components are
 * copied a folder with one checkpoint     the same for this component; of an    a folder with
 * the same LLM: what lies in model.layers.       shards, or one file if but router gates its
 * name says so
 *
 * F32 and BF16 as formats expand what is quantised and leave the rest. Everything that is not
 * converted is copied byte for byte. Files are read through a mapping and written tensor by
 * tensor, so memory holds one matrix at a time. The output appears under its name when it is
 * complete; a run that fails or is killed leaves nothing there, and the next one removes what
 * a killed one left beside it.
 */
#ifndef NB_MODELS_QUANTIZE_H
#define NB_MODELS_QUANTIZE_H

#include "kernels/base/stream.h"
#include "models/quant_target.h"

typedef struct nb_quantize_progress {
    const char *file, *tensor; /* under way; may be "" */
    int64_t bytes, of;         /* of the weights of the input */
} nb_quantize_progress;

typedef struct nb_quantize_args {
    const char *input, *output;
    nb_quant_target target;
    const char *const *keep; /* n_keep patterns of modules that stay as they are: * and ? */
    int n_keep;
    const char *const *components; /* n_components folders of a pipeline; none: transformer */
    int n_components;
    void (*progress)(void *arg, const nb_quantize_progress *progress); /* may be NULL */
    void *progress_arg;
    /* Mean square of each of a module's k inputs, for the sweep; NULL, or the answer NULL: all
     * weigh the same. */
    const float *(*importance)(void *arg, const char *module, int64_t k);
    void *importance_arg;
} nb_quantize_args;

typedef struct nb_quantize_result {
    int64_t n_converted, n_copied; /* tensors of the input; scales that were replaced aside */
    int64_t bytes_in, bytes_out;   /* of tensors */
} nb_quantize_result;

/* E_USAGE: arguments that do not go together. E_NOINPUT, E_DATA: the input (a NaN or an
 * infinity in a weight to be quantised is named). E_CANTCREATE: also if the output is a folder
 * with something in it. E_STOPPED: the stream's stop flag. */
nb_status nb_quantize(nb_stream *s, const nb_quantize_args *args,
                      nb_quantize_result *result) NB_MUST_CHECK;

#endif
