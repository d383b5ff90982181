/*
 * CLIP text model: token ids to the pooled vector (Radford et al. 2021).
 */
#ifndef NB_MODELS_CLIP_H
#define NB_MODELS_CLIP_H

#include <jansson.h>

#include "kernels/base/stream.h"
#include "kernels/linear.h"
#include "models/checkpoint.h"

typedef struct nb_clip_config {
    int64_t vocab, d_model, d_ff, n_heads, n_layers, max_positions;
    float eps;
    nb_act act;
    int64_t eos_id; /* 2 means "the position of the largest id", as in CLIP's first releases */
} nb_clip_config;

nb_status nb_clip_config_read(const char *path, const json_t *json,
                              nb_clip_config *out) NB_MUST_CHECK;

typedef struct nb_clip nb_clip;

nb_status nb_clip_open(const nb_checkpoint *checkpoint, const nb_clip_config *config,
                       const nb_device *device, nb_clip **out) NB_MUST_CHECK;
void nb_clip_close(nb_clip *m);
const nb_clip_config *nb_clip_get_config(const nb_clip *m);

/* pooled [d_model]: the final-norm row at the end-of-text position. n <= max_positions. */
void nb_clip_encode(const nb_clip *m, nb_stream *s, nb_tensor pooled, const int32_t *ids,
                    int64_t n);

#endif
