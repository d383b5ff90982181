/*
 * What a checkpoint is: family, components, types, sizes. Only headers are read, except for a
 * digest that the caller asks for. A folder with model_index.json is a pipeline of components;
 * a component's folder, an index of shards or one file is inspected alone, and one file may
 * hold several components under prefixes.
 */
#ifndef NB_MODELS_INSPECT_H
#define NB_MODELS_INSPECT_H

#include "models/canonical.h"

const char *nb_component_kind_text(nb_component_kind kind); /* "T5 encoder" */

typedef struct nb_dtype_use {
    int64_t tensors, elements;
    size_t bytes;
} nb_dtype_use;

typedef struct nb_component {
    char *name;       /* "transformer"; "" for a checkpoint that was given alone */
    char *class_name; /* as model_index.json or config.json says, or "" */
    nb_component_kind kind;
    const char *layout;     /* whose names its tensors have: "diffusers", "BFL", "transformers",
                               "llama.cpp" or "" */
    const char *prefix;     /* that its tensors' names have in the file, mostly "" */
    char quantization[192]; /* "none", "FP8, plain cast", "FP8, scaled", or of 4 bits:
                              "Model-Optimizer, layers: 152 NVFP4, 38 FP8, 12 plain" */
    char family[64];        /* "FLUX.1 dev"; "" if it tells none */
    char detail[96];        /* "19 double and 38 single blocks, width 3072"; may be "" */
    char *problem; /* NULL, or the sentence why its weights cannot be read (nothing follows) */
    const nb_checkpoint *checkpoint;     /* NULL where there are no weights */
    int64_t n_tensors, n_parameters;     /* of this component; scales are no parameters */
    size_t bytes;                        /* of its tensors */
    nb_dtype_use dtypes[NB_DTYPE_COUNT]; /* by nb_dtype */
} nb_component;

enum { NB_INSPECT_MAX_COMPONENTS = 16 };

typedef struct nb_inspection {
    char *path;
    const char *form; /* "pipeline", "component" or "file" */
    char family[64];  /* of the whole: "FLUX.1 dev"; "" if it tells none */
    int n_components;
    nb_component components[NB_INSPECT_MAX_COMPONENTS];
    nb_checkpoint *checkpoints[NB_INSPECT_MAX_COMPONENTS]; /* owned; components may share one */
    int n_checkpoints;
} nb_inspection;

/* `path` as nb_model_locate gives it. E_NOINPUT, E_DATA: it cannot be read at all, or the only
 * component cannot. In a pipeline a component's fault is its `problem` and the rest is told. */
nb_status nb_inspect(const char *path, nb_inspection **out) NB_MUST_CHECK;
void nb_inspection_destroy(nb_inspection *inspection);

/* Is tensor `t` of the component's checkpoint one of the component's (its name has the prefix)?
 */
int nb_component_owns(const nb_component *component, const nb_stored *t);

#endif
