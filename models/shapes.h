/*
 * The config of a component whose file came without one: read off the tensors' names and
 * shapes (or off the header of nunchaku's files, which have it there), and where shapes do not
 * tell (heads of CLIP, groups, scale and shift of the autoencoder), what FLUX.1's published
 * components have.
 */
#ifndef NB_MODELS_SHAPES_H
#define NB_MODELS_SHAPES_H

#include <jansson.h>

#include "models/inspect.h"

/* The keys of that component's config.json, for nb_flux_config_read() and its like. The
 * checkpoint has canonical names (models/canonical.h); `kind` is NB_KIND_FLUX, CLIP, T5 or VAE.
 * The caller decrefs *out. E_DATA names the tensor that is missing or has no such shape. */
nb_status nb_config_from_shapes(const nb_checkpoint *c, nb_component_kind kind,
                                json_t **out) NB_MUST_CHECK;

#endif
