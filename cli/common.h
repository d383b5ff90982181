/*
 * What commands share: the flags that mean the same everywhere, the console, the device. The
 * struct of every command begins with nb_common_options.
 */
#ifndef NB_CLI_COMMON_H
#define NB_CLI_COMMON_H

#include <stdatomic.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/console.h"
#include "kernels/base/json.h"
#include "pipeline/arithmetic.h"

typedef struct nb_common_options {
    nb_console *console; /* set by main; no option */
    int quiet, verbose, json;
    int log_format; /* 0: text, 1: json */
    /* NB_MACHINE_GROUP only: */
    const char *device;
    int compute; /* nb_compute_choice */
    int64_t threads, max_ram;
} nb_common_options;

/* For a command's list of groups; every command has the first. */
extern const nb_option nb_message_options[], nb_machine_options[];
enum { NB_N_MESSAGE_OPTIONS = 4, NB_N_MACHINE_OPTIONS = 4 };
#define NB_MESSAGE_GROUP                                                                       \
    {                                                                                          \
        "Messages", nb_message_options, NB_N_MESSAGE_OPTIONS                                   \
    }
#define NB_MACHINE_GROUP                                                                       \
    {                                                                                          \
        "Machine", nb_machine_options, NB_N_MACHINE_OPTIONS                                    \
    }

/* The -m flag of every command that has one goes into a `const char *model`. */
#define NB_MODEL_HELP                                                                          \
    "a folder or file, org/name in the Hugging Face cache, or demo;\n"                         \
    "default: the demo that comes with nibble"

/* The folder or file that -m names; NULL or "demo" is the built-in demo. The caller frees *out.
 * E_NOINPUT. */
nb_status nb_model_resolve(const char *model, char **out) NB_MUST_CHECK;

/* The variable of the environment, NULL if it is absent or empty. */
const char *nb_getenv(const char *name);

/* The device that the flags name. */
nb_status nb_machine_open(const nb_common_options *common, nb_device **device) NB_MUST_CHECK;

/* What --compute means on it for the weights of a pipeline (NULL: for weights of 16 bits and
 * more); told with -v. Statuses are those of nb_arithmetic_of. */
nb_status nb_machine_compute(const nb_common_options *common, const nb_device *device,
                             const nb_pipeline *pipeline, nb_arithmetic *out) NB_MUST_CHECK;

/* A JSON value to stdout, on one line, and a newline; consumes it. Integers under the key
 * "seed" are written as the unsigned numbers that they stand for. NULL counts as "out of
 * memory".
 */
nb_status nb_print_json(json_t *value) NB_MUST_CHECK;

/* stdout as it is, flushed; E_IO says why it could not be written. */
nb_status nb_stdout_flush(void) NB_MUST_CHECK;

/* Raised by the first SIGINT or SIGTERM after nb_signals_catch(); the second one kills. */
const atomic_int *nb_signals_catch(void);

/* Names and versions of the libraries in use, as a JSON object; NULL when memory is short. */
json_t *nb_libraries(void);

/* The compiler and kind of this build: "gcc 12.2.0, optimised". */
const char *nb_build(void);

#endif
