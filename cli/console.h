/*
 * The console: the one place that writes to stderr. Lines of the log, notes of a command, the
 * error that ends the program, and on a terminal a bar that is redrawn in place. stdout is left
 * to results. As JSON every line is an object with "level" and "message".
 */
#ifndef NB_CLI_CONSOLE_H
#define NB_CLI_CONSOLE_H

#include "kernels/base/log.h"

typedef struct nb_console {
    int quiet;    /* errors, and what is told */
    int verbose;  /* debug lines too */
    int json;     /* lines are JSON objects */
    int terminal; /* stderr is one: a bar may be drawn */
    int bar;      /* columns of the bar that stands on the last line; 0: none */
} nb_console;

void nb_console_init(nb_console *c); /* plain, neither quiet nor verbose */

/* A line at a level, without the newline; nothing if the console is too quiet for it. */
void nb_console_say(nb_console *c, nb_log_level level, const char *format, ...) NB_PRINTF(3, 4);

/* An info line that a quiet console shows too: what cannot be known otherwise. */
void nb_console_tell(nb_console *c, const char *format, ...) NB_PRINTF(2, 3);

/* The sentence of the last failure, "nibble: " in front, in one line whatever it holds. */
void nb_console_error(nb_console *c, nb_status status);

/* Draws or redraws the bar; "" wipes it out. Terminals only. */
void nb_console_bar(nb_console *c, const char *text);

/* The log sink of kernels/base/log.h; `console` is an nb_console. */
void nb_console_sink(void *console, nb_log_level level, const char *line);

#endif
