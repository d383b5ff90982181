/*
 * T5 v1.1 encoder: token ids to states (Raffel et al. 2020; gated GELU, RMS norm, relative
 * bias).
 */
#ifndef NB_MODELS_T5_H
#define NB_MODELS_T5_H

#include <jansson.h>

#include "kernels/base/stream.h"
#include "models/checkpoint.h"
#include "kernels/linear.h"

typedef struct nb_t5_config {
    int64_t vocab, d_model, d_ff, d_kv, n_heads, n_layers;
    int64_t n_buckets, max_distance; /* of the relative position bias */
    float eps;
    nb_act act; /* of the feed-forward */
    int gated;  /* wi_0, wi_1 instead of wi */
} nb_t5_config;

nb_status nb_t5_config_read(const char *path, const json_t *json,
                            nb_t5_config *out) NB_MUST_CHECK;

typedef struct nb_t5 nb_t5;

nb_status nb_t5_open(const nb_checkpoint *checkpoint, const nb_t5_config *config,
                     const nb_device *device, nb_t5 **out) NB_MUST_CHECK;
void nb_t5_close(nb_t5 *m);
const nb_t5_config *nb_t5_get_config(const nb_t5 *m);

/* states [n, d_model] of ids [n] (host memory). No mask: padding is attended, as Flux wants it.
 * An id outside the vocabulary makes the stream fault with E_DATA. */
void nb_t5_encode(const nb_t5 *m, nb_stream *s, nb_tensor states, const int32_t *ids,
                  int64_t n);

#endif
