#include "cli/console.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void nb_console_init(nb_console *c)
{
    *c = (nb_console){.terminal = isatty(STDERR_FILENO)};
}

/* Names and values of the user's may hold anything; a line stays one line, and a terminal is
 * not steered by it. Longer UTF-8 sequences pass as they are. */
static void make_printable(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 32 || *c == 127) *c = '?';
}

static void write_json(const char *level, const char *status, const char *message)
{
    json_t *text = json_string(message); /* NULL if it is not UTF-8 */
    json_t *object = json_pack("{s:s, s:s*, s:o}", "level", level, "status", status, "message",
                               text ? text : json_string("(not UTF-8)"));
    char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (line) fprintf(stderr, "%s\n", line);
    free(line);
    json_decref(object);
}

static void wipe_bar(nb_console *c)
{
    if (c->bar) fprintf(stderr, "\r%*s\r", c->bar, "");
    c->bar = 0;
}

static void write_line(nb_console *c, nb_log_level level, const char *line)
{
    static const char *const levels[] = {"debug", "info", "warning"};
    flockfile(stderr);
    wipe_bar(c);
    if (c->json)
        write_json(levels[level], NULL, line);
    else
        fprintf(stderr, "%s%s\n", level == NB_LOG_WARN ? "warning: " : "", line);
    funlockfile(stderr);
}

static int is_silent(const nb_console *c, nb_log_level level)
{
    return c->quiet || (level == NB_LOG_DEBUG && !c->verbose);
}

void nb_console_say(nb_console *c, nb_log_level level, const char *format, ...)
{
    char line[1024];
    va_list args;
    if (is_silent(c, level)) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    make_printable(line);
    write_line(c, level, line);
}

void nb_console_tell(nb_console *c, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    make_printable(line);
    write_line(c, NB_LOG_INFO, line);
}

void nb_console_sink(void *console, nb_log_level level, const char *line)
{
    nb_console_say(console, level, "%s", line);
}

void nb_console_error(nb_console *c, nb_status status)
{
    char line[2048];
    const char *message = nb_error_message();
    snprintf(line, sizeof line, "%s", *message ? message : nb_status_text(status));
    make_printable(line);
    flockfile(stderr);
    wipe_bar(c);
    if (c->json)
        write_json("error", nb_status_name(status), line);
    else
        fprintf(stderr, "nibble: %s\n", line);
    funlockfile(stderr);
}

void nb_console_bar(nb_console *c, const char *text)
{
    int columns = (int)strlen(text);
    if (!c->terminal || c->quiet) return;
    flockfile(stderr);
    if (columns)
        fprintf(stderr, "\r%-*s", c->bar, text); /* blanks over what is left of a longer one */
    else
        wipe_bar(c);
    if (columns) c->bar = columns > c->bar ? columns : c->bar;
    fflush(stderr);
    funlockfile(stderr);
}
