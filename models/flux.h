/*
 * FLUX.1 transformer: from latents, text states and a noise level to a velocity.
 * Source: the published FLUX.1 model; structure and numbers as in diffusers'
 * FluxTransformer2DModel.
 */
#ifndef NB_MODELS_FLUX_H
#define NB_MODELS_FLUX_H

#include <jansson.h>

#include "models/checkpoint.h"
#include "kernels/base/stream.h"

enum { NB_FLUX_AXES = 3 };

typedef struct nb_flux_config {
    int64_t in_channels, out_channels; /* per token: 64 = 16 latent channels of 2x2 */
    int64_t n_double, n_single;        /* blocks */
    int64_t n_heads, head_dim;
    int64_t text_dim, pooled_dim; /* widths of T5 states and of CLIP's pooled vector */
    int guidance;                 /* has a guidance embedder (dev family) */
    int64_t axes[NB_FLUX_AXES];   /* rope channels of each axis, sum = head_dim */
} nb_flux_config;

/* Reads transformer/config.json (already parsed; `path` names it in errors). Every field is
 * read and checked, absent ones get FLUX.1's defaults. */
nb_status nb_flux_config_read(const char *path, const json_t *json,
                              nb_flux_config *out) NB_MUST_CHECK;

typedef struct nb_flux nb_flux;

/* Binds the weights; the checkpoint must outlive the model. E_DATA names the tensor that is
 * missing or has another shape than the config says. */
nb_status nb_flux_open(const nb_checkpoint *checkpoint, const nb_flux_config *config,
                       const nb_device *device, nb_flux **out) NB_MUST_CHECK;
void nb_flux_close(nb_flux *m);
const nb_flux_config *nb_flux_get_config(const nb_flux *m);

/* What stays the same over the steps of a picture. */
typedef struct nb_flux_inputs {
    nb_tensor text;        /* [S_t, text_dim] T5 states */
    nb_tensor pooled;      /* [pooled_dim] */
    float guidance;        /* the real value, e.g. 3.5; unused without a guidance embedder */
    int64_t rows, columns; /* of image tokens: S_i = rows * columns */
    const float *times;    /* [n_steps] what the model sees as t = sigma, in host memory */
    int n_steps;
} nb_flux_inputs;

/* All that depends on (times, guidance, pooled) and on the text alone, computed once:
 * modulation of every block for all steps, context embedding, rope tables; and the step's
 * working memory. Its tensors live in the stream's arena: rewind it only after nb_flux_end().
 */
typedef struct nb_flux_run nb_flux_run;
nb_status nb_flux_begin(const nb_flux *m, nb_stream *s, const nb_flux_inputs *in,
                        nb_flux_run **out) NB_MUST_CHECK;
void nb_flux_end(nb_flux_run *run);

/* velocity [S_i, out_channels] = model(latents [S_i, in_channels], times[step]), both dense.
 * Allocates nothing but the stream's scratch. Faults stick to the stream. */
void nb_flux_step(const nb_flux_run *run, nb_stream *s, int step, nb_tensor velocity,
                  nb_tensor latents);

#endif
