/*
 * One value of an option: from what was typed, set or written to what the program works with.
 * Every refusal reads "--steps: wanted 1 to 10000, found abc".
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

/* The whole text as a number: no blanks in front, nothing behind. */
static int read_int(const char *text, int64_t *out)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '-' && text[0] != '+') return 0;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end) return 0;
    *out = value;
    return 1;
}

static int read_real(const char *text, double *out)
{
    char *end;
    if (!text[0] || isspace((unsigned char)text[0])) return 0;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) return 0;
    *out = value;
    return 1;
}

static int read_seed(const char *text, uint64_t *out)
{
    char *end;
    int64_t negative;
    if (text[0] == '-') {
        if (!read_int(text, &negative)) return 0;
        *out = (uint64_t)negative;
        return 1;
    }
    if (!isdigit((unsigned char)text[0])) return 0;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end) return 0;
    *out = value;
    return 1;
}

static int read_bytes(const char *text, double *out)
{
    static const char units[] = "KMGT";
    char *end;
    if (!isdigit((unsigned char)text[0])) return 0;
    double value = strtod(text, &end);
    if (*end) {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (!unit) return 0;
        end++;
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
        value = ldexp(value, 10 * (int)(unit - units + 1));
    }
    *out = floor(value);
    return !*end && isfinite(value);
}

static int read_flag(const char *text, int *out)
{
    static const char *const words[] = {"0", "no", "off", "false", "1", "yes", "on", "true"};
    for (int i = 0; i < 8; i++)
        if (!strcmp(text, words[i])) {
            *out = i >= 4;
            return 1;
        }
    return 0;
}

static int read_choice(const char *words, const char *text, int *out)
{
    size_t bytes = strlen(text);
    for (int i = 0; *words; i++) {
        size_t n = strcspn(words, "|");
        if (n == bytes && !memcmp(words, text, n)) {
            *out = i;
            return 1;
        }
        words += n + (words[n] == '|');
    }
    return 0;
}

static int in_range(const nb_option *o, double value)
{
    return value >= o->min && value <= o->max;
}

static int read_size(const nb_option *o, const char *text, int64_t *out)
{
    char width[24];
    int64_t w, h;
    size_t n = strcspn(text, "xX");
    if (n == 0 || n >= sizeof width || !text[n]) return 0;
    memcpy(width, text, n);
    width[n] = 0;
    if (!read_int(width, &w) || !read_int(text + n + 1, &h)) return 0;
    if (!in_range(o, (double)w) || !in_range(o, (double)h)) return 0;
    out[0] = w;
    out[1] = h;
    return 1;
}

/* What would have been accepted. */
static void say_wanted(const nb_option *o, char *text, size_t bytes)
{
    switch (o->type) {
    case NB_OPTION_FLAG:
        snprintf(text, bytes, "yes or no");
        break;
    case NB_OPTION_SEED:
        snprintf(text, bytes, "a whole number from -2^63 to 2^64-1");
        break;
    case NB_OPTION_BYTES:
        snprintf(text, bytes, "a number of bytes like 500M or 8G");
        break;
    case NB_OPTION_CHOICE:
        snprintf(text, bytes, "%s", o->value);
        break;
    case NB_OPTION_SIZE:
        snprintf(text, bytes, "WIDTHxHEIGHT, each %.0f to %.0f", o->min, o->max);
        break;
    case NB_OPTION_LIST:
        snprintf(text, bytes, "at most %d, none of them empty", NB_MAX_LIST);
        break;
    default:
        snprintf(text, bytes, "%.10g to %.10g", o->min, o->max);
    }
}

static int add_item(nb_option_list *list, const char *text)
{
    if (!*text || list->n == NB_MAX_LIST) return 0;
    list->items[list->n++] = text;
    return 1;
}

/* Does the text hold a value for the option? Then it is stored. */
static int store(const nb_option *o, const char *text, void *at)
{
    int64_t whole;
    double real;
    switch (o->type) {
    case NB_OPTION_FLAG:
        return read_flag(text, at);
    case NB_OPTION_STRING:
        *(const char **)at = text;
        return 1;
    case NB_OPTION_INT:
        if (!read_int(text, &whole) || !in_range(o, (double)whole)) return 0;
        *(int64_t *)at = whole;
        return 1;
    case NB_OPTION_REAL:
        if (!read_real(text, &real) || !in_range(o, real)) return 0;
        *(double *)at = real;
        return 1;
    case NB_OPTION_SEED:
        return read_seed(text, at);
    case NB_OPTION_BYTES:
        if (!read_bytes(text, &real) || !in_range(o, real)) return 0;
        *(int64_t *)at = (int64_t)real;
        return 1;
    case NB_OPTION_CHOICE:
        return read_choice(o->value, text, at);
    case NB_OPTION_SIZE:
        return read_size(o, text, at);
    case NB_OPTION_LIST:
        return add_item(at, text);
    }
    return 0;
}

nb_status nb_option_set(const nb_option *option, const char *origin, const char *text,
                        void *values)
{
    char wanted[160];
    if (store(option, text, (char *)values + option->offset)) return NB_OK;
    say_wanted(option, wanted, sizeof wanted);
    return nb_fail(NB_E_USAGE, "%s: wanted %s, found %.60s", origin, wanted,
                   *text ? text : "nothing");
}

void nb_option_restart(const nb_option *option, nb_source before, nb_source now, void *values)
{
    if (option->type != NB_OPTION_LIST || before == now) return;
    nb_option_list *list = (nb_option_list *)((char *)values + option->offset);
    list->n = 0;
}

const char *nb_option_word(const nb_option *option, int index, char word[32])
{
    const char *at = option->value;
    for (; index > 0 && *at; index--) {
        at += strcspn(at, "|");
        at += *at == '|';
    }
    snprintf(word, 32, "%.*s", (int)strcspn(at, "|"), at);
    return word;
}
