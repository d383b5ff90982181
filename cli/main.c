/*
 * nibble: finds the subcommand, reads its options, runs it, and turns its status into the one
 * sentence on stderr and the exit code. Nothing else in the program exits.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"

const nb_command *const nb_commands[] = {
    &nb_command_image,  &nb_command_tokenize, &nb_command_quantize,
    &nb_command_eval,   &nb_command_bench,    &nb_command_info,
    &nb_command_doctor, &nb_command_version,  NULL,
};

const nb_command *nb_command_find(const char *name)
{
    for (int i = 0; nb_commands[i]; i++)
        if (!strcmp(nb_commands[i]->name, name)) return nb_commands[i];
    return NULL;
}

static nb_status fail_unknown_command(const char *name)
{
    const char *names[64] = {"help"};
    for (int i = 0; nb_commands[i]; i++) names[i + 1] = nb_commands[i]->name;
    const char *near = nb_nearest(name, names);
    if (near)
        return nb_fail(NB_E_USAGE, "%.60s: no such command; did you mean %s?", name, near);
    return nb_fail(NB_E_USAGE, "%.60s: no such command; nibble --help lists them", name);
}

/* nibble help [COMMAND] */
static nb_status help(int argc, char **argv)
{
    if (argc == 0) {
        nb_help_program();
        return NB_OK;
    }
    const nb_command *command = nb_command_find(argv[0]);
    if (!command) return fail_unknown_command(argv[0]);
    nb_help_command(command);
    return NB_OK;
}

static nb_status run_parsed(const nb_command *command, void *values, const nb_parsed *parsed,
                            nb_console *console)
{
    nb_common_options *common = values;
    if (parsed->help) {
        nb_help_command(command);
        return NB_OK;
    }
    console->quiet = common->quiet;
    console->verbose = common->verbose;
    console->json = common->log_format;
    common->console = console;
    return command->run(values, parsed);
}

static nb_status run_command(const nb_command *command, int argc, char **argv,
                             nb_console *console)
{
    nb_parsed parsed;
    void *values = calloc(1, command->bytes);
    if (!values) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes", command->bytes);
    nb_status status = nb_options_parse(command, argc, argv, values, &parsed);
    if (!status) status = run_parsed(command, values, &parsed, console);
    nb_parsed_fini(&parsed);
    free(values);
    return status;
}

static nb_status dispatch(int argc, char **argv, nb_console *console)
{
    if (argc < 2)
        return nb_fail(NB_E_USAGE, "wanted a command, found nothing; nibble --help lists them");
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
        return help(argc - 2, argv + 2);
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) name = "version";
    const nb_command *command = nb_command_find(name);
    if (!command) return fail_unknown_command(name);
    return run_command(command, argc - 2, argv + 2, console);
}

int main(int argc, char **argv)
{
    nb_console console;
    nb_console_init(&console);
    nb_log_set_sink(nb_console_sink, &console);
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is an E_IO with a sentence */
    nb_status status = dispatch(argc, argv, &console);
    if (!status) status = nb_stdout_flush();
    if (status) nb_console_error(&console, status);
    return nb_status_exit_code(status);
}
