/*
 * The configuration file: $XDG_CONFIG_HOME/nibble/config, else ~/.config/nibble/config. A line
 * is `flag = value` with the long name of a flag of any command; blank lines and lines that
 * begin with # say nothing. A flag that only other commands know is passed over.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "kernels/base/file.h"

/* Where the file would be; 0 if the environment has no place for it. */
static int config_path(char *path, size_t bytes)
{
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n;
    if (base && *base)
        n = snprintf(path, bytes, "%s/nibble/config", base);
    else if (home && *home)
        n = snprintf(path, bytes, "%s/.config/nibble/config", home);
    else
        return 0;
    return n > 0 && (size_t)n < bytes;
}

static char *trim(char *text)
{
    size_t n;
    text += strspn(text, " \t");
    for (n = strlen(text); n && strchr(" \t\r", text[n - 1]); n--) text[n - 1] = 0;
    return text;
}

static int is_known_somewhere(const char *name)
{
    int index;
    for (int i = 0; nb_commands[i]; i++)
        if (nb_option_find(nb_commands[i], name, strlen(name), &index)) return 1;
    return 0;
}

static nb_status read_line(char *line, const char *where, void *values, nb_parsed *parsed)
{
    char origin[640];
    int index;
    line = trim(line);
    if (!*line || *line == '#') return NB_OK;
    char *equals = strchr(line, '=');
    if (!equals)
        return nb_fail(NB_E_DATA, "%s: wanted \"flag = value\", found %.60s", where, line);
    *equals = 0;
    const char *name = trim(line), *text = trim(equals + 1);
    const nb_option *o = nb_option_find(parsed->command, name, strlen(name), &index);
    if (!o && is_known_somewhere(name)) return NB_OK;
    if (!o) return nb_fail(NB_E_DATA, "%s: no command has a flag called %.60s", where, name);
    snprintf(origin, sizeof origin, "%s: %s", where, name);
    nb_option_restart(o, (nb_source)parsed->sources[index], NB_FROM_CONFIG, values);
    parsed->sources[index] = NB_FROM_CONFIG;
    /* What is wrong in a file is wrong data, not a wrong command line. */
    return nb_option_set(o, origin, text, values) ? NB_E_DATA : NB_OK;
}

nb_status nb_config_read(void *values, nb_parsed *parsed)
{
    char path[512], where[544];
    nb_buffer *buffer;
    if (!config_path(path, sizeof path) || !nb_file_exists(path)) return NB_OK;
    NB_TRY(nb_file_map(path, &buffer));
    size_t bytes = nb_buffer_bytes(buffer);
    parsed->config_text = malloc(bytes + 1);
    if (parsed->config_text && bytes)
        memcpy(parsed->config_text, nb_buffer_data(buffer), bytes);
    nb_buffer_unref(buffer);
    if (!parsed->config_text) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    parsed->config_text[bytes] = 0;
    char *line = parsed->config_text;
    for (int number = 1; line; number++) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        snprintf(where, sizeof where, "%s:%d", path, number);
        NB_TRY(read_line(line, where, values, parsed));
        line = end ? end + 1 : NULL;
    }
    return NB_OK;
}
