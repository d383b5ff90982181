/*
 * AutoencoderKL, the decoder: latents to a picture (Rombach et al. 2022; diffusers' layout).
 */
#ifndef NB_MODELS_VAE_H
#define NB_MODELS_VAE_H

#include <jansson.h>

#include "kernels/base/stream.h"
#include "models/checkpoint.h"

enum { NB_VAE_MAX_LEVELS = 8 };

typedef struct nb_vae_config {
    int64_t channels[NB_VAE_MAX_LEVELS]; /* block_out_channels, finest first */
    int n_levels;
    int64_t n_resnets; /* layers_per_block; the decoder has one more */
    int64_t latent_channels, out_channels;
    int groups;
    int mid_attention, post_quant_conv;
    double scaling, shift; /* z = latents / scaling + shift */
    int64_t sample_size;   /* tiles of the tiled decode are this large, in pixels */
} nb_vae_config;

nb_status nb_vae_config_read(const char *path, const json_t *json,
                             nb_vae_config *out) NB_MUST_CHECK;

/* Pixels per latent: 2^(levels - 1). */
int64_t nb_vae_config_factor(const nb_vae_config *config);

typedef struct nb_vae nb_vae;

nb_status nb_vae_open(const nb_checkpoint *checkpoint, const nb_vae_config *config,
                      const nb_device *device, nb_vae **out) NB_MUST_CHECK;
void nb_vae_close(nb_vae *m);
const nb_vae_config *nb_vae_get_config(const nb_vae *m);

/* image [out_channels, factor*h, factor*w] in about [-1, 1] (not clamped) from latents
 * [latent_channels, h, w] in the transformer's scale: the affine of the config is applied here.
 */
void nb_vae_decode(const nb_vae *m, nb_stream *s, nb_tensor image, nb_tensor latents);

/* The same in overlapping tiles of sample_size pixels, a quarter overlapped and blended (as
 * diffusers' tiled decode): less memory, and not the same pixels, since each tile has its own
 * group norm statistics. */
void nb_vae_decode_tiled(const nb_vae *m, nb_stream *s, nb_tensor image, nb_tensor latents);

/* Bytes of arena that a decode of h x w latents needs, besides image and latents. */
size_t nb_vae_decode_bytes(const nb_vae *m, int64_t h, int64_t w, int tiled);

#endif
