/*
 * A FLUX.1 pipeline whose weights mean nothing (models/synthetic.h), as a folder in diffusers'
 * layout: configurations, tokenizers with vocabularies of the published sizes, and the four
 * components at their published shapes. Parts that are of no interest can be made in miniature,
 * so that the pipeline still runs from prompt to picture.
 */
#ifndef NB_PIPELINE_SYNTHETIC_H
#define NB_PIPELINE_SYNTHETIC_H

#include "models/synthetic.h"
#include "pipeline/pipeline.h"

typedef struct nb_synthetic_spec {
    int guidance;                          /* FLUX.1-dev; 0: schnell */
    int64_t n_double, n_single;            /* blocks of the transformer; published: 19 and 38 */
    nb_quant_format weights, text_weights; /* of the transformer, of T5 */
    unsigned parts;                        /* bits 1 << nb_part: at true shapes */
} nb_synthetic_spec;

enum { NB_FLUX_DOUBLE_BLOCKS = 19, NB_FLUX_SINGLE_BLOCKS = 38 };

/* Bytes of the weights of a part (its file has a header besides). E_SYSTEM. */
nb_status nb_synthetic_part_bytes(const nb_synthetic_spec *spec, nb_part part,
                                  size_t *out) NB_MUST_CHECK;

/* Into an empty folder that is there. */
nb_status nb_synthetic_pipeline_write(const nb_synthetic_spec *spec, const char *folder,
                                      const nb_synthetic_watch *watch) NB_MUST_CHECK;

/* Was the folder written from the same spec? E_DATA: no, or by something else; the sentence
 * says what differs. */
nb_status nb_synthetic_pipeline_check(const nb_synthetic_spec *spec,
                                      const char *folder) NB_MUST_CHECK;

#endif
