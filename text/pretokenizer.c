#include "text/pretokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"
#include "text/byte_chars.h"
#include "text/pattern.h"

typedef enum step_kind { STEP_SPLIT, STEP_BYTE_LEVEL, STEP_METASPACE } step_kind;

/* What happens to the matches of a Split. */
typedef enum behavior {
    REMOVED,
    ISOLATED,
    MERGED_WITH_PREVIOUS,
    MERGED_WITH_NEXT,
    CONTIGUOUS,
    N_BEHAVIORS
} behavior;

typedef enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend;

typedef struct step {
    step_kind kind;
    nb_pattern
        *pattern; /* SPLIT; BYTE_LEVEL: NULL without use_regex; METASPACE: if it splits */
    behavior behavior;
    int invert;
    int prefix_space; /* BYTE_LEVEL */
    prepend prepend;  /* METASPACE */
    nb_str replacement;
} step;

enum { MAX_STEPS = 16 };

struct nb_pretokenizer {
    int n_steps;
    step steps[MAX_STEPS];
};

#define GPT2_PATTERN                                                                           \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static nb_status read_split(const char *path, const json_t *json, step *s)
{
    static const char *const names[N_BEHAVIORS] = {"Removed", "Isolated", "MergedWithPrevious",
                                                   "MergedWithNext", "Contiguous"};
    const char *name;
    s->kind = STEP_SPLIT;
    NB_TRY(nb_json_get_string(path, json, "behavior", "", &name));
    int i = 0;
    while (i < N_BEHAVIORS && strcmp(name, names[i])) i++;
    if (i == N_BEHAVIORS)
        return nb_fail(NB_E_DATA, "%s: pre_tokenizer Split: behavior \"%.80s\" is not known",
                       path, name);
    s->behavior = (behavior)i;
    NB_TRY(nb_json_get_bool(path, json, "invert", 0, &s->invert));
    return nb_pattern_read(path, "pre_tokenizer Split", json_object_get(json, "pattern"),
                           &s->pattern);
}

static nb_status read_byte_level(const char *path, const json_t *json, step *s)
{
    int use_regex;
    s->kind = STEP_BYTE_LEVEL;
    s->behavior = ISOLATED;
    NB_TRY(nb_json_get_bool(path, json, "add_prefix_space", 1, &s->prefix_space));
    NB_TRY(nb_json_get_bool(path, json, "use_regex", 1, &use_regex));
    return use_regex ? nb_pattern_compile(path, "ByteLevel", GPT2_PATTERN, &s->pattern) : NB_OK;
}

static nb_status read_metaspace(const char *path, const json_t *json, step *s)
{
    static const char *const schemes[] = {"always", "first", "never"};
    int add_prefix_space, split, i = 0;
    const char *scheme, *replacement;
    s->kind = STEP_METASPACE;
    s->behavior = MERGED_WITH_NEXT;
    NB_TRY(nb_json_get_bool(path, json, "add_prefix_space", 1, &add_prefix_space));
    NB_TRY(nb_json_get_bool(path, json, "split", 1, &split));
    NB_TRY(nb_json_get_string(path, json, "prepend_scheme",
                              add_prefix_space ? "always" : "never", &scheme));
    NB_TRY(nb_json_get_string(path, json, "replacement", "", &replacement));
    while (i < 3 && strcmp(scheme, schemes[i])) i++;
    if (i == 3 || !*replacement)
        return nb_fail(NB_E_DATA,
                       "%s: pre_tokenizer Metaspace: prepend_scheme \"%.80s\" with replacement "
                       "\"%.80s\" is not known",
                       path, scheme, replacement);
    s->prepend = (prepend)i;
    NB_TRY(nb_str_append(&s->replacement, replacement, strlen(replacement)));
    if (!split) return NB_OK;
    json_t *literal = json_pack("{ss}", "String", replacement);
    nb_status status = nb_pattern_read(path, "pre_tokenizer Metaspace", literal, &s->pattern);
    json_decref(literal);
    return status;
}

static nb_status read_step(const char *path, const json_t *json, const char *type, step *s)
{
    if (!strcmp(type, "Split")) return read_split(path, json, s);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(path, json, s);
    if (!strcmp(type, "Metaspace")) return read_metaspace(path, json, s);
    if (!strcmp(type, "WhitespaceSplit")) {
        s->kind = STEP_SPLIT;
        s->behavior = REMOVED;
        return nb_pattern_compile(path, type, "\\s", &s->pattern);
    }
    return nb_fail(NB_E_DATA, "%s: pre_tokenizer type \"%.80s\" is not known to nibble", path,
                   type);
}

static nb_status read_into(const char *path, const json_t *json, int depth, nb_pretokenizer *p)
{
    const char *type;
    if (json == NULL || json_is_null(json)) return NB_OK;
    if (!json_is_object(json))
        return nb_fail(NB_E_DATA, "%s: a pre_tokenizer is not an object", path);
    NB_TRY(nb_json_get_string(path, json, "type", "", &type));
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "pretokenizers"), *item;
        if (!json_is_array(list) || depth > 4)
            return nb_fail(NB_E_DATA, "%s: pre_tokenizer Sequence has no list of pretokenizers",
                           path);
        size_t i;
        json_array_foreach(list, i, item) NB_TRY(read_into(path, item, depth + 1, p));
        return NB_OK;
    }
    if (p->n_steps == MAX_STEPS)
        return nb_fail(NB_E_DATA, "%s: more than %d pre_tokenizers", path, MAX_STEPS);
    return read_step(path, json, type, &p->steps[p->n_steps++]);
}

nb_status nb_pretokenizer_read(const char *path, const json_t *json, nb_pretokenizer **out)
{
    nb_pretokenizer *p = calloc(1, sizeof *p);
    if (!p) return nb_fail(NB_E_SYSTEM, "out of memory for a pre-tokenizer");
    nb_status status = read_into(path, json, 0, p);
    if (status != NB_OK)
        nb_pretokenizer_destroy(p);
    else
        *out = p;
    return status;
}

void nb_pretokenizer_destroy(nb_pretokenizer *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_steps; i++) {
        nb_pattern_destroy(p->steps[i].pattern);
        nb_str_fini(&p->steps[i].replacement);
    }
    free(p);
}

void nb_words_fini(nb_words *words)
{
    nb_str_fini(&words->text);
    free(words->ends);
    *words = (nb_words){0};
}

nb_status nb_words_end(nb_words *words)
{
    size_t start = words->n ? words->ends[words->n - 1] : 0;
    if (words->text.n == start) return NB_OK;
    if (words->n == words->capacity) {
        size_t capacity = words->capacity ? words->capacity * 2 : 64;
        size_t *ends = realloc(words->ends, capacity * sizeof *ends);
        if (!ends) return nb_fail(NB_E_SYSTEM, "out of memory for the words of a text");
        words->ends = ends;
        words->capacity = capacity;
    }
    words->ends[words->n++] = words->text.n;
    return NB_OK;
}

/* One stretch of a piece, a match or what lies between two, goes to out by the rule of
 * `behavior`.
 */
typedef struct cutter {
    const step *step;
    nb_words *out;
    int any, was_match; /* a stretch before this one, and whether it counted as a match */
} cutter;

static nb_status cut(cutter *c, const char *text, size_t n, int match)
{
    if (n == 0) return NB_OK;
    int joins = 0; /* this stretch goes on with the word before */
    match ^= c->step->invert;
    switch (c->step->behavior) {
    case REMOVED:
    case ISOLATED:
    case N_BEHAVIORS:
        break;
    case MERGED_WITH_PREVIOUS:
        joins = match && !c->was_match;
        break;
    case MERGED_WITH_NEXT:
        joins = !match && c->was_match;
        break;
    case CONTIGUOUS:
        joins = match == c->was_match;
        break;
    }
    if (!joins || !c->any) NB_TRY(nb_words_end(c->out));
    c->any = 1;
    c->was_match = match;
    if (match && c->step->behavior == REMOVED) return NB_OK;
    return nb_str_append(&c->out->text, text, n);
}

/* Cuts one piece by the step's pattern. *removed_start: its beginning was dropped. */
static nb_status split_piece(const step *s, const char *text, size_t n, nb_words *out,
                             int *removed_start)
{
    nb_span *spans;
    size_t n_spans, at = 0;
    NB_TRY(nb_pattern_match(s->pattern, text, n, &spans, &n_spans));
    cutter c = {.step = s, .out = out};
    nb_status status = NB_OK;
    for (size_t i = 0; i < n_spans && status == NB_OK; i++) {
        status = cut(&c, text + at, spans[i].start - at, 0);
        if (status == NB_OK)
            status = cut(&c, text + spans[i].start, spans[i].end - spans[i].start, 1);
        at = spans[i].end;
    }
    if (status == NB_OK) status = cut(&c, text + at, n - at, 0);
    int starts_with_match = n_spans > 0 && spans[0].start == 0;
    *removed_start = s->behavior == REMOVED && starts_with_match != s->invert;
    free(spans);
    return status == NB_OK ? nb_words_end(out) : status;
}

static nb_status byte_level(const step *s, const char *text, size_t n, nb_words *out)
{
    nb_words parts = {0};
    nb_status status = NB_OK;
    int unused;
    nb_str prefixed = {0};
    if (s->prefix_space && text[0] != ' ') {
        status = nb_str_append(&prefixed, " ", 1);
        if (status == NB_OK) status = nb_str_append(&prefixed, text, n);
        text = prefixed.data;
        n = prefixed.n;
    }
    if (status == NB_OK && s->pattern) {
        status = split_piece(s, text, n, &parts, &unused);
    } else if (status == NB_OK) {
        status = nb_str_append(&parts.text, text, n);
        if (status == NB_OK) status = nb_words_end(&parts);
    }
    for (size_t i = 0, at = 0; i < parts.n && status == NB_OK; at = parts.ends[i++]) {
        status = nb_byte_chars_encode(parts.text.data + at, parts.ends[i] - at, &out->text);
        if (status == NB_OK) status = nb_words_end(out);
    }
    nb_str_fini(&prefixed);
    nb_words_fini(&parts);
    return status;
}

static nb_status metaspace(const step *s, const char *text, size_t n, int leading,
                           nb_words *out)
{
    const char *mark = s->replacement.data;
    size_t mark_bytes = s->replacement.n;
    nb_str marked = {0};
    int has_mark = text[0] == ' ' || (n >= mark_bytes && !memcmp(text, mark, mark_bytes));
    int prepend_mark = s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && leading);
    nb_status status = NB_OK;
    if (prepend_mark && !has_mark) status = nb_str_append(&marked, mark, mark_bytes);
    for (size_t i = 0; i < n && status == NB_OK; i++)
        status = text[i] == ' ' ? nb_str_append(&marked, mark, mark_bytes)
                                : nb_str_append(&marked, text + i, 1);
    if (status == NB_OK && s->pattern) {
        int unused;
        status = split_piece(s, marked.data, marked.n, out, &unused);
    } else if (status == NB_OK) {
        status = nb_str_append(&out->text, marked.data, marked.n);
        if (status == NB_OK) status = nb_words_end(out);
    }
    nb_str_fini(&marked);
    return status;
}

static nb_status apply_step(const step *s, const nb_words *in, nb_words *out)
{
    out->leading = in->leading;
    for (size_t i = 0, at = 0; i < in->n; at = in->ends[i++]) {
        const char *text = in->text.data + at;
        size_t n = in->ends[i] - at;
        int removed_start = 0;
        switch (s->kind) {
        case STEP_SPLIT:
            NB_TRY(split_piece(s, text, n, out, &removed_start));
            break;
        case STEP_BYTE_LEVEL:
            NB_TRY(byte_level(s, text, n, out));
            break;
        case STEP_METASPACE:
            NB_TRY(metaspace(s, text, n, in->leading && i == 0, out));
            break;
        }
        if (i == 0 && removed_start) out->leading = 0;
    }
    return NB_OK;
}

nb_status nb_pretokenizer_apply(const nb_pretokenizer *p, nb_words *words)
{
    for (int i = 0; i < p->n_steps; i++) {
        nb_words out = {0};
        nb_status status = apply_step(&p->steps[i], words, &out);
        if (status != NB_OK) {
            nb_words_fini(&out);
            return status;
        }
        nb_words_fini(words);
        *words = out;
    }
    return NB_OK;
}
