#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode_new.h"

struct nb_pattern {
    nb_str literal;
    pcre2_code *code; /* NULL: literal */
};

/* The property White_Space and its complement, as the inside of a class. Each ends with a \p,
 * so that a "-" behind it stays a literal one. */
#define WHITE_SPACE "\\x{9}-\\x{d}\\x{85}\\x{2028}\\x{2029}\\p{Zs}"
#define NOT_WHITE_SPACE                                                                        \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"               \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"             \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}\\p{Co}"

static nb_status append_text(nb_str *out, const char *text)
{
    return nb_str_append(out, text, strlen(text));
}

/* \s and \S as the code points they mean. */
static nb_status translate_space(char letter, int in_class, nb_str *out)
{
    if (!in_class) NB_TRY(append_text(out, "["));
    NB_TRY(append_text(out, letter == 's' ? WHITE_SPACE : NOT_WHITE_SPACE));
    return in_class ? NB_OK : append_text(out, "]");
}

/* \p{L} with the letters that PCRE2 may not know yet; \P{L} only outside of a class. */
static nb_status translate_category(char letter, char category, int in_class, nb_str *out)
{
    const char name[] = {'\\', 'p', '{', category, '}', '\0'};
    if (!in_class) NB_TRY(append_text(out, letter == 'P' ? "[^" : "["));
    NB_TRY(append_text(out, nb_unicode_new_class(category)));
    NB_TRY(append_text(out, name));
    return in_class ? NB_OK : append_text(out, "]");
}

/* The letter X of \p{X} or \P{X} at r that is translated, 0 if it is something else. */
static char new_category(const char *r, int in_class)
{
    if ((r[1] != 'p' && (r[1] != 'P' || in_class)) || r[2] != '{' || !r[3] || r[4] != '}')
        return 0;
    return nb_unicode_new_class(r[3])[0] ? r[3] : 0;
}

/* From Oniguruma's meaning to PCRE2's. */
static nb_status translate(const char *regex, nb_str *out)
{
    int in_class = 0;
    char category;
    for (const char *r = regex; *r; r++) {
        if (*r != '\\' || !r[1]) {
            in_class = *r == '[' || (in_class && *r != ']');
            NB_TRY(nb_str_append(out, r, 1));
        } else if (r[1] == 's' || r[1] == 'S') {
            NB_TRY(translate_space(*++r, in_class, out));
        } else if ((category = new_category(r, in_class)) != 0) {
            NB_TRY(translate_category(r[1], category, in_class, out));
            r += 4;
        } else {
            NB_TRY(nb_str_append(out, r++, 2));
        }
    }
    return NB_OK;
}

static nb_status compile(const char *path, const char *what, const char *regex, nb_pattern *p)
{
    nb_str translated = {0};
    nb_status status = translate(regex, &translated);
    if (status == NB_OK) {
        int error;
        PCRE2_SIZE offset;
        p->code =
            pcre2_compile((PCRE2_SPTR)(translated.data ? translated.data : ""), translated.n,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                          &error, &offset, NULL);
        if (p->code) {
            pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without it only slower */
        } else {
            char text[128];
            pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
            status = nb_fail(NB_E_DATA, "%s: %s: bad regular expression \"%.200s\": %s", path,
                             what, regex, text);
        }
    }
    nb_str_fini(&translated);
    return status;
}

static nb_status create(nb_pattern **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? NB_OK : nb_fail(NB_E_SYSTEM, "out of memory for a pattern");
}

nb_status nb_pattern_compile(const char *path, const char *what, const char *regex,
                             nb_pattern **out)
{
    nb_pattern *p;
    NB_TRY(create(&p));
    nb_status status = compile(path, what, regex, p);
    if (status != NB_OK)
        nb_pattern_destroy(p);
    else
        *out = p;
    return status;
}

nb_status nb_pattern_read(const char *path, const char *what, const json_t *json,
                          nb_pattern **out)
{
    const json_t *literal = json_object_get(json, "String");
    const json_t *regex = json_object_get(json, "Regex");
    if (json_is_string(regex))
        return nb_pattern_compile(path, what, json_string_value(regex), out);
    if (!json_is_string(literal) || json_string_length(literal) == 0)
        return nb_fail(NB_E_DATA,
                       "%s: %s: wanted a pattern, {\"String\": ...} or {\"Regex\": ...}", path,
                       what);
    nb_pattern *p;
    NB_TRY(create(&p));
    nb_status status =
        nb_str_append(&p->literal, json_string_value(literal), json_string_length(literal));
    if (status != NB_OK)
        nb_pattern_destroy(p);
    else
        *out = p;
    return status;
}

void nb_pattern_destroy(nb_pattern *p)
{
    if (!p) return;
    nb_str_fini(&p->literal);
    pcre2_code_free(p->code);
    free(p);
}

typedef struct span_list {
    nb_span *spans;
    size_t n, capacity;
} span_list;

static nb_status push(span_list *list, size_t start, size_t end)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 16;
        nb_span *spans = realloc(list->spans, capacity * sizeof *spans);
        if (!spans) return nb_fail(NB_E_SYSTEM, "out of memory for the pieces of a text");
        list->spans = spans;
        list->capacity = capacity;
    }
    list->spans[list->n++] = (nb_span){start, end};
    return NB_OK;
}

static nb_status match_literal(const nb_pattern *p, const char *text, size_t n, span_list *list)
{
    size_t bytes = p->literal.n;
    for (size_t at = 0; at + bytes <= n;) {
        const char *found = memchr(text + at, p->literal.data[0], n - bytes - at + 1);
        if (!found) break;
        at = (size_t)(found - text);
        if (memcmp(found, p->literal.data, bytes)) {
            at++;
        } else {
            NB_TRY(push(list, at, at + bytes));
            at += bytes;
        }
    }
    return NB_OK;
}

static nb_status match_regex(const nb_pattern *p, const char *text, size_t n,
                             pcre2_match_data *match, span_list *list)
{
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
    for (size_t at = 0; at < n;) {
        /* The text was checked once: checking it at every match would be quadratic. */
        uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
        int rc = pcre2_match(p->code, (PCRE2_SPTR)text, n, at, options, match, NULL);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(p->code, (PCRE2_SPTR)text, n, at, options | PCRE2_NO_JIT, match,
                             NULL);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            char message[128];
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
            return nb_fail(NB_E_DATA,
                           "splitting the text by the tokenizer's regular expression "
                           "failed at byte %zu: %s",
                           at, message);
        }
        if (ends[0] < at || ends[1] <= ends[0]) /* \K can do this */
            return nb_fail(NB_E_DATA, "the tokenizer's regular expression moves backwards");
        NB_TRY(push(list, ends[0], ends[1]));
        at = ends[1];
    }
    return NB_OK;
}

nb_status nb_pattern_match(const nb_pattern *p, const char *text, size_t n, nb_span **spans,
                           size_t *n_spans)
{
    span_list list = {0};
    nb_status status = NB_OK;
    if (n == 0) {
        status = NB_OK;
    } else if (!p->code) {
        status = match_literal(p, text, n, &list);
    } else {
        pcre2_match_data *match = pcre2_match_data_create(1, NULL);
        status = match ? match_regex(p, text, n, match, &list)
                       : nb_fail(NB_E_SYSTEM, "out of memory for a match");
        pcre2_match_data_free(match);
    }
    if (status != NB_OK) {
        free(list.spans);
        return status;
    }
    *spans = list.spans;
    *n_spans = list.n;
    return NB_OK;
}
