/*
 * Where a model lies: a path, or a repository's name in the Hugging Face cache. Never the
 * network.
 */
#ifndef NB_MODELS_LOCATE_H
#define NB_MODELS_LOCATE_H

#include "kernels/base/status.h"

/* The environment comes in through this; it may return NULL. */
typedef const char *nb_getenv_fn(const char *name);

/* A model's path by name: an existing path as it is; "org/name" or "org/name@revision" (a
 * branch, a tag or a commit; "main" if not given) is looked up in the Hugging Face cache
 * (HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, HOME/.cache/huggingface/hub). The
 * caller frees *out. E_NOINPUT with the path that was looked at. */
nb_status nb_model_locate(const char *name, nb_getenv_fn *env, char **out) NB_MUST_CHECK;

#endif
