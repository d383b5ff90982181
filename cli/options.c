/*
 * The command line is walked twice: first to see that it is well formed and whether help is
 * asked for, then - after fallbacks, configuration and environment - to store its values.
 */
#include "cli/options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

/* A walk over the command line. */
struct walk {
    const nb_command *command;
    nb_parsed *parsed;
    void *values; /* NULL in the first walk: nothing is stored */
    char **argv;
    int argc, next; /* the argument to look at next */
};

const nb_option *nb_option_find(const nb_command *command, const char *name, size_t bytes,
                                int *index)
{
    int place = 0;
    for (const nb_option_group *g = command->groups; g->title; g++)
        for (size_t i = 0; i < g->n_options; i++, place++) {
            const nb_option *o = &g->options[i];
            if (strlen(o->name) != bytes || memcmp(o->name, name, bytes) != 0) continue;
            *index = place;
            return o;
        }
    return NULL;
}

const nb_option *nb_option_find_letter(const nb_command *command, char letter, int *index)
{
    int place = 0;
    for (const nb_option_group *g = command->groups; g->title; g++)
        for (size_t i = 0; i < g->n_options; i++, place++)
            if (g->options[i].letter == letter) {
                *index = place;
                return &g->options[i];
            }
    return NULL;
}

static nb_status fail_unknown_flag(const nb_command *command, const char *flag, size_t bytes)
{
    const char *names[NB_MAX_OPTIONS + 1];
    char typed[64];
    int n = 0;
    for (const nb_option_group *g = command->groups; g->title; g++)
        for (size_t i = 0; i < g->n_options; i++) names[n++] = g->options[i].name;
    names[n] = NULL;
    snprintf(typed, sizeof typed, "%.*s", (int)bytes, flag);
    const char *near = nb_nearest(typed, names);
    if (near)
        return nb_fail(NB_E_USAGE, "--%s: no such flag of nibble %s; did you mean --%s?", typed,
                       command->name, near);
    return nb_fail(NB_E_USAGE, "--%s: no such flag; nibble %s --help lists them", typed,
                   command->name);
}

static nb_status store(struct walk *w, const nb_option *o, int index, const char *origin,
                       const char *text)
{
    if (!w->values) return NB_OK;
    nb_option_restart(o, (nb_source)w->parsed->sources[index], NB_FROM_ARGV, w->values);
    w->parsed->sources[index] = NB_FROM_ARGV;
    return nb_option_set(o, origin, text, w->values);
}

/* --name, --name=value, --name value, --no-name */
static nb_status walk_long(struct walk *w, const char *flag)
{
    int index;
    char origin[64];
    size_t bytes = strcspn(flag, "=");
    const nb_option *o = nb_option_find(w->command, flag, bytes, &index);
    if (!o && bytes == 4 && !memcmp(flag, "help", 4)) {
        w->parsed->help = 1;
        return NB_OK;
    }
    if (!o && bytes > 3 && !memcmp(flag, "no-", 3)) {
        o = nb_option_find(w->command, flag + 3, bytes - 3, &index);
        if (o && o->type == NB_OPTION_FLAG && !flag[bytes]) return store(w, o, index, "", "no");
        o = NULL;
    }
    if (!o) return fail_unknown_flag(w->command, flag, bytes);
    snprintf(origin, sizeof origin, "--%s", o->name);
    if (flag[bytes]) return store(w, o, index, origin, flag + bytes + 1);
    if (o->type == NB_OPTION_FLAG) return store(w, o, index, origin, "yes");
    if (w->next == w->argc) return nb_fail(NB_E_USAGE, "%s: wanted a value behind it", origin);
    return store(w, o, index, origin, w->argv[w->next++]);
}

/* -q, -qv, -s 4, -s4, -s=4 */
static nb_status walk_short(struct walk *w, const char *letters)
{
    for (; *letters; letters++) {
        int index;
        char origin[64];
        const nb_option *o = nb_option_find_letter(w->command, *letters, &index);
        if (!o && *letters == 'h') {
            w->parsed->help = 1;
            continue;
        }
        if (!o)
            return nb_fail(NB_E_USAGE, "-%.4s: no such flag; nibble %s --help lists them",
                           letters, w->command->name);
        snprintf(origin, sizeof origin, "--%s", o->name);
        if (o->type == NB_OPTION_FLAG) {
            NB_TRY(store(w, o, index, origin, "yes"));
            continue;
        }
        if (letters[1]) return store(w, o, index, origin, letters + 1 + (letters[1] == '='));
        if (w->next == w->argc)
            return nb_fail(NB_E_USAGE, "%s: wanted a value behind it", origin);
        return store(w, o, index, origin, w->argv[w->next++]);
    }
    return NB_OK;
}

static nb_status walk_all(struct walk *w)
{
    int flags = 1;
    w->next = 0;
    w->parsed->n_words = 0;
    while (w->next < w->argc) {
        const char *arg = w->argv[w->next++];
        if (flags && !strcmp(arg, "--"))
            flags = 0;
        else if (flags && arg[0] == '-' && arg[1] == '-')
            NB_TRY(walk_long(w, arg + 2));
        else if (flags && arg[0] == '-' && arg[1])
            NB_TRY(walk_short(w, arg + 1));
        else
            w->parsed->words[w->parsed->n_words++] = arg;
    }
    return NB_OK;
}

/* "max-ram" is NIBBLE_MAX_RAM; an empty variable counts as absent. */
static nb_status read_environment(const nb_option *o, int index, void *values,
                                  nb_parsed *parsed)
{
    char name[64];
    snprintf(name, sizeof name, "NIBBLE_%s", o->name);
    for (char *c = name; *c; c++) *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    const char *text = getenv(name);
    if (!text || !*text) return NB_OK;
    nb_option_restart(o, (nb_source)parsed->sources[index], NB_FROM_ENV, values);
    parsed->sources[index] = NB_FROM_ENV;
    return nb_option_set(o, name, text, values);
}

static nb_status read_all_environment(const nb_command *command, void *values,
                                      nb_parsed *parsed)
{
    int place = 0;
    for (const nb_option_group *g = command->groups; g->title; g++)
        for (size_t i = 0; i < g->n_options; i++, place++)
            NB_TRY(read_environment(&g->options[i], place, values, parsed));
    return NB_OK;
}

static nb_status set_fallbacks(const nb_command *command, void *values)
{
    for (const nb_option_group *g = command->groups; g->title; g++)
        for (size_t i = 0; i < g->n_options; i++) {
            const nb_option *o = &g->options[i];
            if (o->fallback) NB_TRY(nb_option_set(o, o->name, o->fallback, values));
        }
    return NB_OK;
}

nb_status nb_options_parse(const nb_command *command, int argc, char **argv, void *values,
                           nb_parsed *parsed)
{
    struct walk w = {.command = command, .parsed = parsed, .argv = argv, .argc = argc};
    memset(parsed, 0, sizeof *parsed);
    parsed->command = command;
    parsed->words = calloc((size_t)argc + 1, sizeof *parsed->words);
    if (!parsed->words) return nb_fail(NB_E_SYSTEM, "out of memory: %d arguments", argc);
    nb_status status = walk_all(&w);
    if (parsed->help) return NB_OK; /* whatever else was typed */
    NB_TRY(status);
    NB_TRY(set_fallbacks(command, values));
    NB_TRY(nb_config_read(values, parsed));
    NB_TRY(read_all_environment(command, values, parsed));
    w.values = values;
    return walk_all(&w);
}

void nb_parsed_fini(nb_parsed *parsed)
{
    free(parsed->words);
    free(parsed->config_text);
}

nb_source nb_parsed_source(const nb_parsed *parsed, const char *name)
{
    int index;
    const nb_option *o = nb_option_find(parsed->command, name, strlen(name), &index);
    return o ? (nb_source)parsed->sources[index] : NB_FROM_FALLBACK;
}

/* Levenshtein's distance of short words. */
static int distance(const char *a, const char *b)
{
    enum { LONGEST = 32 };
    int row[LONGEST + 1];
    int n = (int)strlen(b);
    if (n > LONGEST) return LONGEST;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (row[j] + 1 < best) best = row[j] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *nb_nearest(const char *typed, const char *const *names)
{
    const char *best = NULL;
    int least = strlen(typed) < 5 ? 2 : 3; /* more edits than this are another word */
    for (; *names; names++) {
        int d = distance(typed, *names);
        if (d >= least) continue;
        least = d;
        best = *names;
    }
    return best;
}
