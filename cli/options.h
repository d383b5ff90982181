/*
 * Options: one table says what a flag is called, what it takes, where its value goes and what
 * help says about it. The same table serves the command line (`--steps 4`, `--steps=4`, `-s4`,
 * `--` ends the flags, the last of several counts), the environment (NIBBLE_STEPS=4) and the
 * configuration file ($XDG_CONFIG_HOME/nibble/config: `steps = 4`), which yield to each other
 * in this order; what none of them says has the fallback of the table.
 */
#ifndef NB_CLI_OPTIONS_H
#define NB_CLI_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef enum nb_option_type {
    NB_OPTION_FLAG,   /* int, 0 or 1; `--no-NAME` clears it */
    NB_OPTION_STRING, /* const char *, borrowed from argv, the environment or nb_parsed */
    NB_OPTION_INT,    /* int64_t in [min, max] */
    NB_OPTION_REAL,   /* double in [min, max], never NaN */
    NB_OPTION_SEED,   /* uint64_t; a negative number counts modulo 2^64, as torch takes it */
    NB_OPTION_BYTES,  /* int64_t in [min, max]: 500M, 8G, 1.5GiB; all are powers of 1024 */
    NB_OPTION_CHOICE, /* int, the place in `value`, which lists the words: "auto|f32|bf16" */
    NB_OPTION_SIZE,   /* two int64_t in [min, max], one after the other: 512x768 */
    NB_OPTION_LIST,   /* nb_option_list: each use of the flag adds an item */
} nb_option_type;

/* Items from one source only: the command line's replace the environment's, and so on. */
enum { NB_MAX_LIST = 64 };
typedef struct nb_option_list {
    const char *items[NB_MAX_LIST]; /* borrowed, as strings are */
    int n;
} nb_option_list;

typedef struct nb_option {
    const char *name; /* without dashes */
    char letter;      /* of the short form; 0: none */
    nb_option_type type;
    size_t offset;        /* of the value in the command's struct */
    const char *value;    /* what help calls the value; the words of a choice */
    double min, max;      /* INT, REAL, BYTES, SIZE */
    const char *fallback; /* as it would be typed; NULL leaves the zeroed struct as it is */
    const char *help;     /* a sentence without capital and full stop; lines end in \n */
} nb_option;

/* Options under one title in help. */
typedef struct nb_option_group {
    const char *title;
    const nb_option *options;
    size_t n_options;
} nb_option_group;

/* Where a value came from. */
typedef enum nb_source {
    NB_FROM_FALLBACK,
    NB_FROM_CONFIG,
    NB_FROM_ENV,
    NB_FROM_ARGV
} nb_source;

enum { NB_MAX_OPTIONS = 96 };

typedef struct nb_parsed {
    const char **words; /* the arguments that are no flags, in order; borrowed strings */
    int n_words;
    int help; /* --help was given: nothing else was read */
    const struct nb_command *command;
    unsigned char sources[NB_MAX_OPTIONS]; /* nb_source, in the order of the groups */
    char *config_text;                     /* what strings of the configuration point into */
} nb_parsed;

/* Reads everything into `values` (zeroed, command->bytes long). E_USAGE for what was typed or
 * set, E_DATA for the configuration file. Call nb_parsed_fini() in either case. argv[0] is the
 * first argument after the command's name. */
nb_status nb_options_parse(const struct nb_command *command, int argc, char **argv,
                           void *values, nb_parsed *parsed) NB_MUST_CHECK;
void nb_parsed_fini(nb_parsed *parsed);

/* Where the value of the option of that name came from. */
nb_source nb_parsed_source(const nb_parsed *parsed, const char *name);

/* Forgets the items of a list when another source than before has some to say; no other type is
 * changed. */
void nb_option_restart(const nb_option *option, nb_source before, nb_source now, void *values);

/* The word of a choice. The caller's buffer is filled and returned. */
const char *nb_option_word(const nb_option *option, int index, char word[32]);

/* One value from text into the command's struct; `origin` names it in the error: "--steps". */
nb_status nb_option_set(const nb_option *option, const char *origin, const char *text,
                        void *values) NB_MUST_CHECK;

/* The option of that name or letter; *index is its place. NULL if there is none. */
const nb_option *nb_option_find(const struct nb_command *command, const char *name,
                                size_t bytes, int *index);
const nb_option *nb_option_find_letter(const struct nb_command *command, char letter,
                                       int *index);

/* The configuration file: its values into `values`. No file is no error. */
nb_status nb_config_read(void *values, nb_parsed *parsed) NB_MUST_CHECK;

/* Of NULL-terminated names the nearest to what was typed, NULL if none is near. */
const char *nb_nearest(const char *typed, const char *const *names);

#endif
