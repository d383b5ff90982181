#include "text/token_decoder.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"
#include "text/byte_chars.h"
#include "text/pattern.h"

typedef enum step_kind {
    STEP_BYTE_LEVEL,
    STEP_METASPACE,
    STEP_REPLACE,
    STEP_BYTE_FALLBACK,
    STEP_FUSE,
    STEP_STRIP,
    STEP_JOIN /* no decoder: blanks between tokens */
} step_kind;

typedef struct step {
    step_kind kind;
    nb_str content;      /* METASPACE, STRIP: the character; REPLACE: what is put in */
    int drops_first;     /* METASPACE: none in the first token */
    int64_t start, stop; /* STRIP: at most so many */
    nb_pattern *pattern; /* REPLACE */
} step;

enum { MAX_STEPS = 16 };

struct nb_token_decoder {
    int n_steps;
    step steps[MAX_STEPS];
};

static nb_status read_content(const char *path, const json_t *json, const char *key, step *s)
{
    const char *content;
    NB_TRY(nb_json_get_string(path, json, key, "", &content));
    return nb_str_append(&s->content, content, strlen(content));
}

static nb_status read_step(const char *path, const json_t *json, const char *type, step *s)
{
    static const char *const plain[] = {[STEP_BYTE_LEVEL] = "ByteLevel",
                                        [STEP_METASPACE] = "Metaspace",
                                        [STEP_REPLACE] = "Replace",
                                        [STEP_BYTE_FALLBACK] = "ByteFallback",
                                        [STEP_FUSE] = "Fuse",
                                        [STEP_STRIP] = "Strip"};
    int kind = 0;
    while (kind < STEP_JOIN && strcmp(type, plain[kind])) kind++;
    s->kind = (step_kind)kind;
    if (s->kind == STEP_METASPACE) {
        int add_prefix_space;
        const char *scheme;
        NB_TRY(nb_json_get_bool(path, json, "add_prefix_space", 1, &add_prefix_space));
        NB_TRY(nb_json_get_string(path, json, "prepend_scheme",
                                  add_prefix_space ? "always" : "never", &scheme));
        s->drops_first = strcmp(scheme, "never") != 0;
        NB_TRY(read_content(path, json, "replacement", s));
    } else if (s->kind == STEP_REPLACE) {
        NB_TRY(read_content(path, json, "content", s));
        return nb_pattern_read(path, "decoder Replace", json_object_get(json, "pattern"),
                               &s->pattern);
    } else if (s->kind == STEP_STRIP) {
        NB_TRY(nb_json_get_int(path, json, "start", 0, 0, INT32_MAX, &s->start));
        NB_TRY(nb_json_get_int(path, json, "stop", 0, 0, INT32_MAX, &s->stop));
        NB_TRY(read_content(path, json, "content", s));
    } else if (s->kind == STEP_JOIN) {
        return nb_fail(NB_E_DATA, "%s: decoder type \"%.80s\" is not known to nibble", path,
                       type);
    }
    if ((s->kind == STEP_METASPACE || s->kind == STEP_STRIP) && s->content.n == 0)
        return nb_fail(NB_E_DATA, "%s: decoder %s: the character is missing", path, type);
    return NB_OK;
}

static nb_status read_into(const char *path, const json_t *json, int depth, nb_token_decoder *d)
{
    const char *type;
    if (!json_is_object(json))
        return nb_fail(NB_E_DATA, "%s: a decoder is not an object", path);
    NB_TRY(nb_json_get_string(path, json, "type", "", &type));
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "decoders"), *item;
        if (!json_is_array(list) || depth > 4)
            return nb_fail(NB_E_DATA, "%s: decoder Sequence has no list of decoders", path);
        size_t i;
        json_array_foreach(list, i, item) NB_TRY(read_into(path, item, depth + 1, d));
        return NB_OK;
    }
    if (d->n_steps == MAX_STEPS)
        return nb_fail(NB_E_DATA, "%s: more than %d decoders", path, MAX_STEPS);
    return read_step(path, json, type, &d->steps[d->n_steps++]);
}

nb_status nb_token_decoder_read(const char *path, const json_t *json, nb_token_decoder **out)
{
    nb_token_decoder *d = calloc(1, sizeof *d);
    if (!d) return nb_fail(NB_E_SYSTEM, "out of memory for a decoder");
    nb_status status = NB_OK;
    if (json == NULL || json_is_null(json))
        d->steps[d->n_steps++].kind = STEP_JOIN;
    else
        status = read_into(path, json, 0, d);
    if (status != NB_OK)
        nb_token_decoder_destroy(d);
    else
        *out = d;
    return status;
}

void nb_token_decoder_destroy(nb_token_decoder *d)
{
    if (!d) return;
    for (int i = 0; i < d->n_steps; i++) {
        nb_str_fini(&d->steps[i].content);
        nb_pattern_destroy(d->steps[i].pattern);
    }
    free(d);
}

void nb_token_texts_fini(nb_token_texts *t)
{
    nb_str_fini(&t->text);
    free(t->ends);
    *t = (nb_token_texts){0};
}

nb_status nb_token_texts_end(nb_token_texts *t)
{
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? t->capacity * 2 : 64;
        size_t *ends = realloc(t->ends, capacity * sizeof *ends);
        if (!ends) return nb_fail(NB_E_SYSTEM, "out of memory for the tokens of a text");
        t->ends = ends;
        t->capacity = capacity;
    }
    t->ends[t->n++] = t->text.n;
    return NB_OK;
}

static int begins_with(const char *text, size_t n, const nb_str *what)
{
    return n >= what->n && !memcmp(text, what->data, what->n);
}

/* The mark becomes a blank, in the first token nothing. */
static nb_status metaspace(const step *s, const char *text, size_t n, int first, nb_str *out)
{
    for (size_t i = 0; i < n;) {
        if (!begins_with(text + i, n - i, &s->content)) {
            NB_TRY(nb_str_append(out, text + i++, 1));
            continue;
        }
        if (!first || !s->drops_first) NB_TRY(nb_str_append(out, " ", 1));
        i += s->content.n;
    }
    return NB_OK;
}

static nb_status replace(const step *s, const char *text, size_t n, nb_str *out)
{
    nb_span *spans;
    size_t n_spans, at = 0;
    NB_TRY(nb_pattern_match(s->pattern, text, n, &spans, &n_spans));
    nb_status status = NB_OK;
    for (size_t i = 0; i < n_spans && status == NB_OK; i++) {
        status = nb_str_append(out, text + at, spans[i].start - at);
        if (status == NB_OK) status = nb_str_append(out, s->content.data, s->content.n);
        at = spans[i].end;
    }
    free(spans);
    return status == NB_OK ? nb_str_append(out, text + at, n - at) : status;
}

static nb_status strip(const step *s, const char *text, size_t n, nb_str *out)
{
    for (int64_t i = 0; i < s->start && begins_with(text, n, &s->content); i++) {
        text += s->content.n;
        n -= s->content.n;
    }
    for (int64_t i = 0; i < s->stop && n >= s->content.n; i++) {
        if (memcmp(text + n - s->content.n, s->content.data, s->content.n)) break;
        n -= s->content.n;
    }
    return nb_str_append(out, text, n);
}

/* The value of a token "<0xNN>", -1 if it is none. */
static int byte_token(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

/* Bytes gathered so far as one token if they are UTF-8, else one U+FFFD for each. */
static nb_status flush_bytes(nb_str *bytes, nb_token_texts *out)
{
    if (bytes->n == 0) return NB_OK;
    if (nb_utf8_check(bytes->data, bytes->n) == bytes->n)
        NB_TRY(nb_str_append(&out->text, bytes->data, bytes->n));
    else
        for (size_t i = 0; i < bytes->n; i++) NB_TRY(nb_str_append_char(&out->text, 0xFFFD));
    bytes->n = 0;
    return nb_token_texts_end(out);
}

static nb_status byte_fallback(const nb_token_texts *in, nb_str *bytes, nb_token_texts *out)
{
    for (size_t i = 0, at = 0; i < in->n; at = in->ends[i++]) {
        const char *text = in->text.data + at;
        size_t n = in->ends[i] - at;
        int value = byte_token(text, n);
        if (value >= 0) {
            char byte = (char)value;
            NB_TRY(nb_str_append(bytes, &byte, 1));
            continue;
        }
        NB_TRY(flush_bytes(bytes, out));
        NB_TRY(nb_str_append(&out->text, text, n));
        NB_TRY(nb_token_texts_end(out));
    }
    return flush_bytes(bytes, out);
}

static nb_status byte_level(const nb_token_texts *in, nb_str *bytes, nb_token_texts *out)
{
    for (size_t i = 0, at = 0; i < in->n; at = in->ends[i++])
        NB_TRY(nb_byte_chars_decode(in->text.data + at, in->ends[i] - at, bytes));
    NB_TRY(nb_str_append_lossy(&out->text, bytes->data, bytes->n));
    return nb_token_texts_end(out);
}

static nb_status each_token(const step *s, const nb_token_texts *in, nb_token_texts *out)
{
    for (size_t i = 0, at = 0; i < in->n; at = in->ends[i++]) {
        const char *text = in->text.data + at;
        size_t n = in->ends[i] - at;
        if (n == 0)
            ;
        else if (s->kind == STEP_METASPACE)
            NB_TRY(metaspace(s, text, n, i == 0, &out->text));
        else if (s->kind == STEP_REPLACE)
            NB_TRY(replace(s, text, n, &out->text));
        else if (s->kind == STEP_STRIP)
            NB_TRY(strip(s, text, n, &out->text));
        else
            NB_TRY(nb_str_append(&out->text, text, n));
        if (s->kind == STEP_JOIN && i + 1 < in->n) NB_TRY(nb_str_append(&out->text, " ", 1));
        if (s->kind != STEP_FUSE) NB_TRY(nb_token_texts_end(out));
    }
    return s->kind == STEP_FUSE ? nb_token_texts_end(out) : NB_OK;
}

nb_status nb_token_decoder_apply(const nb_token_decoder *d, nb_token_texts *tokens)
{
    for (int i = 0; i < d->n_steps; i++) {
        const step *s = &d->steps[i];
        nb_token_texts out = {0};
        nb_str bytes = {0};
        nb_status status = s->kind == STEP_BYTE_LEVEL      ? byte_level(tokens, &bytes, &out)
                           : s->kind == STEP_BYTE_FALLBACK ? byte_fallback(tokens, &bytes, &out)
                                                           : each_token(s, tokens, &out);
        nb_str_fini(&bytes);
        if (status != NB_OK) {
            nb_token_texts_fini(&out);
            return status;
        }
        nb_token_texts_fini(tokens);
        *tokens = out;
    }
    return NB_OK;
}
