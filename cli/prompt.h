/*
 * The prompt, from whichever of its places counts: the words of the command line, --prompt,
 * --prompt-file, or stdin for "-".
 */
#ifndef NB_CLI_PROMPT_H
#define NB_CLI_PROMPT_H

#include "cli/options.h"

/* A fresh string that the caller frees: UTF-8 without NUL. `prompt` and `file` are the values
 * of the flags `prompt` and `prompt-file`, NULL where not given. E_USAGE: none, or two from the
 * same place. E_DATA: not UTF-8, or longer than 16 MiB. E_NOINPUT, E_IO. */
nb_status nb_prompt_read(const nb_parsed *parsed, const char *prompt, const char *file,
                         char **out) NB_MUST_CHECK;

/* All of a file, or of stdin (path NULL), as a prompt is read. */
nb_status nb_prompt_read_file(const char *path, char **out) NB_MUST_CHECK;

/* The prompts of a file, one a line; empty lines and lines that begin with # do not count. */
typedef struct nb_prompt_lines {
    const char **lines; /* n of them, at least one */
    int n;
    char *text; /* what they point into */
} nb_prompt_lines;

/* E_DATA if there is none; else as nb_prompt_read_file. */
nb_status nb_prompt_read_lines(const char *path, nb_prompt_lines *out) NB_MUST_CHECK;
void nb_prompt_lines_fini(nb_prompt_lines *p);

/* E_DATA, saying where, if a text is not UTF-8; `name` says which one it is. */
nb_status nb_prompt_check(const char *name, const char *text) NB_MUST_CHECK;

#endif
