/*
 * Latents: their two layouts, and where the pictures of a batch start from - noise of one
 * generator that goes on, of a generator for each picture, or a file.
 *
 * planes [C, 2R, 2W]  as noise is drawn and as the VAE reads them
 * packed [R*W, 4C]    as the transformer reads them: a token is 2x2 latents, its channels are
 *                     (c, dy, dx), c slowest
 *
 * Host memory, one thread.
 */
#ifndef NB_PIPELINE_LATENTS_H
#define NB_PIPELINE_LATENTS_H

#include "pipeline/noise.h"

typedef struct nb_latent_shape {
    int64_t channels, rows, columns; /* C, and tokens: R, W */
} nb_latent_shape;

static inline int64_t nb_latent_count(const nb_latent_shape *shape)
{
    return 4 * shape->channels * shape->rows * shape->columns;
}

void nb_latents_pack(float *packed, const float *planes, const nb_latent_shape *shape);
void nb_latents_unpack(float *planes, const float *packed, const nb_latent_shape *shape);

/* Can a picture come from n latents? E_DATA if one is NaN or infinite. *rms is their root mean
 * square: about 1 where a model has drawn what it was trained to. */
nb_status nb_latents_check(const float *latents, int64_t n, double *rms) NB_MUST_CHECK;

typedef struct nb_start_args {
    nb_latent_shape shape;
    int n_pictures;
    nb_rng_kind rng;
    int sms, sm_threads;
    uint64_t seed;
    int seed_step; /* a generator for each picture, seeded with seed + its index */
    nb_noise_dtype noise;
    const char *path; /* safetensors with `latents`, packed or planes, of 1 picture (for all) or
                         n_pictures; NULL: noise */
} nb_start_args;

typedef struct nb_start nb_start;

/* E_NOINPUT, E_DATA (a file with other shapes says both; NaN, infinity); E_SYSTEM. */
nb_status nb_start_create(const nb_start_args *args, nb_start **out) NB_MUST_CHECK;
void nb_start_destroy(nb_start *s);

/* The packed latents that picture `index` starts from; indices go up from call to call. *noise
 * points to its planes as drawn, NULL if they come from a file. Both are valid until the next
 * call. seed and draw name its generator and which draw of it this is. */
typedef struct nb_start_point {
    const float *packed, *noise;
    uint64_t seed;
    int64_t draw;
} nb_start_point;
nb_status nb_start_get(nb_start *s, int index, nb_start_point *out) NB_MUST_CHECK;

#endif
