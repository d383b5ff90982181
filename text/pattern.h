/*
 * The patterns of tokenizer.json: {"String": s} is found literally, {"Regex": r} by PCRE2.
 *
 * The files are written for Oniguruma (Ruby syntax, UTF-8). What the two engines read
 * differently is translated: \s and \S are exactly the property White_Space (PCRE2's also take
 * U+180E), \p{L} and its like have the characters of Unicode 16 (unicode_new.h), ^ and $ are at
 * line breaks.
 *
 * A compiled pattern is read-only and may serve any number of threads.
 */
#ifndef NB_TEXT_PATTERN_H
#define NB_TEXT_PATTERN_H

#include <jansson.h>

#include "text/utf8.h"

typedef struct nb_pattern nb_pattern;

/* `path` and `what` name the file and the place in it in errors. E_DATA, E_SYSTEM. */
nb_status nb_pattern_read(const char *path, const char *what, const json_t *json,
                          nb_pattern **out) NB_MUST_CHECK;
nb_status nb_pattern_compile(const char *path, const char *what, const char *regex,
                             nb_pattern **out) NB_MUST_CHECK;
void nb_pattern_destroy(nb_pattern *p);

/* All matches in a text, left to right, never overlapping; empty ones are left out. The caller
 * frees *spans, an array of n_spans [start, end) pairs. E_DATA when the regex gives up (PCRE2's
 * limits on backtracking), E_SYSTEM. */
typedef struct nb_span {
    size_t start, end;
} nb_span;
nb_status nb_pattern_match(const nb_pattern *p, const char *text, size_t n, nb_span **spans,
                           size_t *n_spans) NB_MUST_CHECK;

#endif
