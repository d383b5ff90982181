/*
 * JSON by jansson, with errors that name the file, the key, what was wanted and what was found.
 * Users of this header work with json_t themselves for anything beyond these few getters.
 */
#ifndef NB_KERNELS_BASE_JSON_H
#define NB_KERNELS_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/* Parses text; `path` only names it in errors. The caller decrefs *out. E_DATA. Duplicate keys
 * are refused. */
nb_status nb_json_parse(const char *path, const char *text, size_t bytes,
                        json_t **out) NB_MUST_CHECK;

/* Reads a file. E_NOINPUT, E_DATA. The caller decrefs *out. */
nb_status nb_json_load(const char *path, json_t **out) NB_MUST_CHECK;

/* The same for a file that must hold an object: anything else is E_DATA. */
nb_status nb_json_load_object(const char *path, json_t **out) NB_MUST_CHECK;

/* Value of `key` in `object`. A missing or null key gives `fallback`; a wrong type or a number
 * outside [min, max] is E_DATA. `path` names the file in errors. Strings are borrowed. */
nb_status nb_json_get_int(const char *path, const json_t *object, const char *key,
                          int64_t fallback, int64_t min, int64_t max,
                          int64_t *out) NB_MUST_CHECK;
nb_status nb_json_get_real(const char *path, const json_t *object, const char *key,
                           double fallback, double min, double max, double *out) NB_MUST_CHECK;
nb_status nb_json_get_bool(const char *path, const json_t *object, const char *key,
                           int fallback, int *out) NB_MUST_CHECK;
nb_status nb_json_get_string(const char *path, const json_t *object, const char *key,
                             const char *fallback, const char **out) NB_MUST_CHECK;

/* An array of at most `capacity` integers in [min, max]; *n is its length, -1 if the key is
 * missing or null. */
nb_status nb_json_get_ints(const char *path, const json_t *object, const char *key, int64_t min,
                           int64_t max, int64_t *out, int capacity, int *n) NB_MUST_CHECK;

#endif
