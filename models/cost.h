/*
 * How much arithmetic a forward pass is, by its configuration alone: floating-point operations,
 * a product with its sum counting as two, of what is computed (not of what a plainer program
 * would compute: rows that nobody needs are left out as the models leave them out). Norms,
 * activations and rotations are not counted: they are bounded by memory.
 */
#ifndef NB_MODELS_COST_H
#define NB_MODELS_COST_H

#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/vae.h"

typedef struct nb_cost {
    double linear, attn, conv;
} nb_cost;

double nb_cost_sum(nb_cost cost);

/* A step of the transformer: n_text and n_image rows. What nb_flux_begin does is not in it. */
nb_cost nb_flux_cost(const nb_flux_config *config, int64_t n_text, int64_t n_image);

/* What is done once for all steps: embeddings, modulations, the context. */
nb_cost nb_flux_begin_cost(const nb_flux_config *config, int64_t n_text, int64_t n_steps);

nb_cost nb_t5_cost(const nb_t5_config *config, int64_t n_tokens);

/* Up to and with the end-of-text token: n_tokens rows. Attention is causal. */
nb_cost nb_clip_cost(const nb_clip_config *config, int64_t n_tokens);

/* A decode of h x w latents in one piece. */
nb_cost nb_vae_cost(const nb_vae_config *config, int64_t h, int64_t w);

#endif
