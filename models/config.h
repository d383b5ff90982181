/*
 * What several architectures' config.json files share.
 */
#ifndef NB_MODELS_CONFIG_H
#define NB_MODELS_CONFIG_H

#include "kernels/base/json.h"
#include "kernels/linear.h"

/* An integer that must be at least 1; absurd sizes are refused here, before anything is
 * multiplied or allocated. */
nb_status nb_config_size(const char *path, const json_t *json, const char *key,
                         int64_t fallback, int64_t max, int64_t *out) NB_MUST_CHECK;

/* An activation by its name in transformers: gelu, gelu_new, quick_gelu, silu, relu ... */
nb_status nb_config_act(const char *path, const json_t *json, const char *key,
                        const char *fallback, nb_act *out) NB_MUST_CHECK;
nb_status nb_config_act_named(const char *path, const char *key, const char *name,
                              nb_act *out) NB_MUST_CHECK;

#endif
