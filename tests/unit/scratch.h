/*
 * For unit tests: a folder that goes away, files in it, and the checks all tests of files
 * share. Include after cmocka.h.
 */
#ifndef NB_TESTS_SCRATCH_H
#define NB_TESTS_SCRATCH_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/status.h"

/* Setup and teardown of a test: *state is the folder's path. */
static inline int scratch_setup(void **state)
{
    char *path = strdup("/tmp/nibble-test-XXXXXX");
    *state = path && mkdtemp(path) ? path : NULL;
    return *state ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    char command[256];
    snprintf(command, sizeof command, "rm -r '%s'", (char *)*state);
    int rc = system(command);
    free(*state);
    return rc;
}

/* "folder/name" in a static buffer (one of eight). */
static inline const char *scratch_path(void **state, const char *name)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", (char *)*state, name);
    return path;
}

static inline void scratch_write(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static inline void scratch_write_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

/* The same of a text whose ' stand for ", in the test's folder. */
static inline void scratch_write_json(void **state, const char *name, const char *text)
{
    char *copy = strdup(text);
    assert_non_null(copy);
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    scratch_write_text(scratch_path(state, name), copy);
    free(copy);
}

/* A safetensors file of that header and `data_bytes` bytes 0, 1, 2 ... of data, to be freed. */
static inline unsigned char *safetensors_bytes(const char *header, size_t data_bytes,
                                               size_t *bytes)
{
    uint64_t n = strlen(header);
    unsigned char *file = malloc(8 + n + data_bytes + 1);
    assert_non_null(file);
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++) file[8 + n + i] = (unsigned char)i;
    *bytes = 8 + n + data_bytes;
    return file;
}

static inline void scratch_write_safetensors(const char *path, const char *header,
                                             size_t data_bytes)
{
    size_t bytes;
    unsigned char *file = safetensors_bytes(header, data_bytes, &bytes);
    scratch_write(path, file, bytes);
    free(file);
}

/* The call failed so, with a sentence that contains `part`. */
#define assert_fails(expr, wanted_status, part)                                                \
    do {                                                                                       \
        nb_status got_ = (expr);                                                               \
        if (got_ != (wanted_status) || !strstr(nb_error_message(), part))                      \
            fail_msg("wanted %s \"%s\", found %s \"%s\"", nb_status_name(wanted_status), part, \
                     nb_status_name(got_), got_ ? nb_error_message() : "");                    \
    } while (0)

#define assert_ok(expr)                                                                        \
    do {                                                                                       \
        if ((expr) != NB_OK) fail_msg("%s: %s", #expr, nb_error_message());                    \
    } while (0)

#endif
