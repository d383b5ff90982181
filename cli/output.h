/*
 * Where pictures go: a path, a pattern for several, or "-" for stdout.
 */
#ifndef NB_CLI_OUTPUT_H
#define NB_CLI_OUTPUT_H

#include "pipeline/txt2img.h"

/* What decides the names of a run's pictures. */
typedef struct nb_output {
    const char *pattern; /* "out.png", "%04d.png", "{seed}.png", "-" */
    int n_pictures;
    int seeds_differ; /* {seed} alone tells the pictures apart */
} nb_output;

int nb_output_is_stdout(const nb_output *output);

/* The path of picture `index` (0 ..) as a fresh string that the caller frees: %d, %04d give
 * index + 1, {seed} the seed. Several pictures whose pattern would give all the same name get
 * -0001, -0002 ... before the extension. */
nb_status nb_output_path(const nb_output *output, int index, uint64_t seed,
                         char **out) NB_MUST_CHECK;

/* Could a file be created there? E_CANTCREATE says why not: told before any work is done. */
nb_status nb_output_check_path(const char *path) NB_MUST_CHECK;
nb_status nb_output_check(const nb_output *output, uint64_t seed) NB_MUST_CHECK;

/* Writes the PNG: to stdout for "-", in place to what exists and is no regular file (a pipe, a
 * device), else whole or not at all. */
nb_status nb_output_write(const nb_picture *picture, const char *path,
                          int metadata) NB_MUST_CHECK;

#endif
