/*
 * Converting checkpoints: weights to four or eight bits as the vendors' tools write them, or
 * back to floats. The library half of nibble quantize.
 *
 *     a .safetensors or .gguf file,   every X.weight of two dimensions whose columns fit the
 *       an index of shards              format, into one file
 *     a folder with model_index.json  the components that are named, but for keep-lists, into
 *                                       a folder; the other components are copied
 *     a folder with one checkpoint    the same of this component (of an LLM: what lies in
 *                                       model.layers. but router gates), into a folder with
 *                                       the same shards, or one file if its name says so
 *
 * F32 and BF16 as formats expand what is quantised and leave the rest. Everything that is not
 * converted is copied byte for byte, but for what safetensors cannot hold as it lies or what
 * would be read wrongly beside the other layers: it becomes BF16. All forms that models/bind.h
 * and models/canonical.h read are read; what is written again is the effective weight
 * (models/quant_source.h), without anything beside it. Names stay, but for nunchaku's files
 * (models/nunchaku.h), which come out under diffusers' names.
 *
 * Files are read through a mapping and written tensor by tensor, so memory holds one matrix at
 * a time. The output appears under its name when it is complete; a run that fails or is killed
 * leaves nothing there, and the next one removes what a killed one left beside it.
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
    /* What calibration knows. Mean square of each of a module's k inputs, for the sweep; NULL,
     * or the answer NULL: all weigh the same. */
    const float *(*importance)(void *arg, const char *module, int64_t k);
    /* The largest magnitude of the inputs, for the scale of them that NVFP4 and FP8 have; NULL,
     * or an answer that is not finite or below 2^-88, which is nothing: no scale is written. */
    float (*input_amax)(void *arg, const char *module, int64_t k);
    void *calibration_arg;
} nb_quantize_args;

typedef struct nb_quantize_result {
    /* Tensors of the input; what was replaced beside them aside. */
    int64_t n_converted, n_copied;
    int64_t n_expanded;          /* that were to stay, but to BF16 */
    int64_t n_input_scales;      /* of the converted, with a scale of their inputs */
    int64_t bytes_in, bytes_out; /* of tensors */
} nb_quantize_result;

/* E_USAGE: arguments that do not go together. E_NOINPUT, E_DATA: the input (a NaN or an
 * infinity in a weight is named; 4 bits that models/plausible.h refuses; a LoRA). E_CANTCREATE:
 * also if the output is a folder with something in it. E_STOPPED: the stream's stop flag. */
nb_status nb_quantize(nb_stream *s, const nb_quantize_args *args,
                      nb_quantize_result *result) NB_MUST_CHECK;

#endif
