/*
 * A subcommand of nibble: what help says about it, the flags it takes, and the function that
 * runs it. Every file of a subcommand defines one `const nb_command nb_command_NAME`;
 * cli/main.c lists them. The command line, the environment and the configuration file are read
 * by cli/options.h into a struct of the subcommand, zeroed before, as its groups of options
 * say.
 *
 *     struct count_options { nb_common_options common; int64_t from; };
 *     static const nb_option options[] = {
 *         {.name = "from", .letter = 'f', .type = NB_OPTION_INT, .value = "N", .min = 0,
 *          .max = 99, .fallback = "1", .offset = offsetof(struct count_options, from),
 *          .help = "the number to begin with"},
 *     };
 *     static nb_status run(void *values, const nb_parsed *parsed) { ... }
 *     const nb_command nb_command_count = {
 *         .name = "count", .summary = "count aloud", .usage = "[WORDS]",
 *         .bytes = sizeof(struct count_options),
 *         .groups = {{"Counting", options, NB_COUNT(options)}, NB_MESSAGE_GROUP},
 *         .examples = "nibble count --from 3\n", .run = run};
 *
 * The function returns a status; main prints the sentence of a failure and exits with its code.
 */
#ifndef NB_CLI_COMMAND_H
#define NB_CLI_COMMAND_H

#include "cli/options.h"

#define NB_COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { NB_MAX_GROUPS = 10 };

typedef struct nb_command {
    const char *name;
    const char *summary;  /* a line for the list of commands, no full stop */
    const char *usage;    /* what follows "nibble NAME [FLAGS]": "[WORDS...]" */
    const char *about;    /* paragraphs for its help, may be NULL */
    const char *examples; /* a command a line, each may have a "# comment" line before it */
    nb_option_group groups[NB_MAX_GROUPS]; /* the first empty title ends them */
    size_t bytes;                          /* of the struct that the options are read into */
    nb_status (*run)(void *values, const nb_parsed *parsed);
} nb_command;

/* All commands, in the order of help; NULL ends them. */
extern const nb_command *const nb_commands[];

const nb_command *nb_command_find(const char *name); /* or NULL */

/* Help texts to stdout. */
void nb_help_program(void);
void nb_help_command(const nb_command *command);

extern const nb_command nb_command_image;
extern const nb_command nb_command_tokenize;
extern const nb_command nb_command_quantize;
extern const nb_command nb_command_eval;
extern const nb_command nb_command_bench;
extern const nb_command nb_command_info;
extern const nb_command nb_command_doctor;
extern const nb_command nb_command_version;

#endif
