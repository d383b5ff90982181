/*
 * Help, out of the tables that the flags are read by.
 */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

enum { HELP_COLUMN = 30 };

void nb_help_program(void)
{
    puts("nibble draws pictures from words with FLUX.1.\n\nUsage: nibble COMMAND [FLAGS] "
         "[WORDS]\n");
    for (int i = 0; nb_commands[i]; i++)
        printf("  %-10s %s\n", nb_commands[i]->name, nb_commands[i]->summary);
    puts("  help       explain a command: nibble help image\n\n"
         "Every long flag has a variable (--max-ram: NIBBLE_MAX_RAM) and may stand in\n"
         "$XDG_CONFIG_HOME/nibble/config as a line (max-ram = 4G). The command line counts\n"
         "before the environment, the environment before the file.\n\n"
         "Results go to stdout, everything else to stderr. Exit codes: 0 done, 64 usage,\n"
         "65 wrong data, 66 missing input, 69 unavailable, 70 a bug, 71 memory or system,\n"
         "73 output cannot be created, 74 read or write error, 75 stopped: run again.\n\n"
         "Examples:\n"
         "  nibble image \"a large red circle on a blue background\" -o circle.png\n"
         "  nibble info demo");
}

static void print_option(const nb_option *o)
{
    char left[96];
    int n = o->letter ? snprintf(left, sizeof left, "-%c, ", o->letter)
                      : snprintf(left, sizeof left, "    ");
    const char *value = o->type == NB_OPTION_FLAG ? "" : o->value;
    const char *help = o->help, *end;
    /* What is on unless said otherwise is shown by the flag that turns it off. */
    int off = o->type == NB_OPTION_FLAG && o->fallback && !strcmp(o->fallback, "yes");
    snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s%s", off ? "no-" : "", o->name,
             *value ? " " : "", value);
    if (strlen(left) <= HELP_COLUMN - 4)
        printf("  %-*s", HELP_COLUMN - 2, left);
    else
        printf("  %s\n%*s", left, HELP_COLUMN, "");
    for (; (end = strchr(help, '\n')); help = end + 1)
        printf("%.*s\n%*s", (int)(end - help), help, HELP_COLUMN, "");
    printf("%s", help);
    if (o->fallback && o->type != NB_OPTION_FLAG && strcmp(o->fallback, "0") != 0)
        printf(" [%s]", o->fallback);
    putchar('\n');
}

static void print_examples(const char *lines)
{
    puts("Examples:");
    while (*lines) {
        int n = (int)strcspn(lines, "\n");
        printf("  %.*s\n", n, lines);
        lines += n + (lines[n] == '\n');
    }
}

void nb_help_command(const nb_command *command)
{
    printf("nibble %s: %s\n\nUsage: nibble %s [FLAGS]%s%s\n\n", command->name, command->summary,
           command->name, *command->usage ? " " : "", command->usage);
    if (command->about) printf("%s\n", command->about);
    for (const nb_option_group *g = command->groups; g->title; g++) {
        printf("%s:\n", g->title);
        for (size_t i = 0; i < g->n_options; i++) print_option(&g->options[i]);
        putchar('\n');
    }
    print_examples(command->examples);
}
