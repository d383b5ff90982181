/*
 * From latents to pixels: the VAE's decoder, whole or in tiles, and what a picture must not be.
 */
#ifndef NB_PIPELINE_PIXELS_H
#define NB_PIPELINE_PIXELS_H

#include "models/vae.h"

typedef struct nb_decode_args {
    const nb_vae *vae;
    int64_t rows, columns; /* of latents: h, w */
    size_t max_memory; /* bytes of activations; a decode that needs more is tiled. 0: none */
} nb_decode_args;

/* Planes [3, factor*h, factor*w] as (x/2 + 1/2) clamped to 0 .. 1, from latents
 * [latent_channels, h, w] on the host. *tiled is set, with a warning, when the decode is tiled,
 * and never cleared. E_USAGE: not even tiles fit; E_DATA: values are NaN or infinite; E_STOPPED
 * and other faults of the stream. */
nb_status nb_decode_pixels(const nb_decode_args *a, nb_stream *s, const float *latents,
                           float *planes, int *tiled) NB_MUST_CHECK;

/* E_DATA if any of n values is NaN or infinite: how many, of what ("latents"). */
nb_status nb_check_finite(const float *x, int64_t n, const char *what) NB_MUST_CHECK;

/* Have all n pixels (at least one) of rgb [n, 3] the same colour? */
int nb_is_one_colour(const uint8_t *rgb, int64_t n);

#endif
