/*
 * Weights that mean nothing, at true shapes: what a speed is measured with where the published
 * files are not at hand. A component is written as the published folders hold it (one
 * safetensors file under diffusers' and transformers' names), so that it is opened, mapped and
 * bound like any other, by any program that reads such files.
 *
 * Values are pseudo-random with a variance of 1/k in a matrix of k columns, norms are 1 and
 * biases 0, so that activations stay as large as they are and nothing is NaN. Matrices are in
 * the format that is asked for, laid out as Model-Optimizer does; layers that `nibble quantize`
 * keeps in high precision, tables and vectors are BF16, or F32 with that format.
 */
#ifndef NB_MODELS_SYNTHETIC_H
#define NB_MODELS_SYNTHETIC_H

#include "kernels/base/stream.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/quant_target.h"
#include "models/t5.h"
#include "models/vae.h"

/* The tensors of a component, without their data. */
typedef struct nb_synthetic nb_synthetic;

/* E_SYSTEM. CLIP and the autoencoder's decoder are BF16, or F32 with that format. */
nb_status nb_synthetic_flux(const nb_flux_config *config, nb_quant_format format,
                            nb_synthetic **out) NB_MUST_CHECK;
nb_status nb_synthetic_t5(const nb_t5_config *config, nb_quant_format format,
                          nb_synthetic **out) NB_MUST_CHECK;
nb_status nb_synthetic_clip(const nb_clip_config *config, nb_quant_format format,
                            nb_synthetic **out) NB_MUST_CHECK;
nb_status nb_synthetic_vae(const nb_vae_config *config, nb_quant_format format,
                           nb_synthetic **out) NB_MUST_CHECK;
void nb_synthetic_destroy(nb_synthetic *m); /* NULL is fine */

size_t nb_synthetic_bytes(const nb_synthetic *m); /* of all tensors */

/* Who wants to know how far writing is, and may stop it. */
typedef struct nb_synthetic_watch {
    const atomic_int *stop;                    /* NULL, or nonzero: E_STOPPED */
    void (*progress)(void *arg, size_t bytes); /* so many more are written; may be NULL */
    void *arg;
} nb_synthetic_watch;

/* The same bytes at each call. E_CANTCREATE, E_IO, E_SYSTEM, E_STOPPED. */
nb_status nb_synthetic_write(const nb_synthetic *m, const char *path,
                             const nb_synthetic_watch *watch) NB_MUST_CHECK;

/* A single matrix in the arena; k is a multiple of nb_quant_multiple(format). E_SYSTEM. */
nb_status nb_synthetic_matrix(nb_arena *arena, const nb_device *device, nb_quant_format format,
                              int64_t n, int64_t k, nb_weight *out) NB_MUST_CHECK;

#endif
