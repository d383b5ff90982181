#include "text/normalizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "kernels/base/json.h"
#include "text/pattern.h"
#include "text/unicode_new.h"

typedef enum step_kind {
    STEP_NORMAL_FORM,
    STEP_LOWERCASE,
    STEP_STRIP,
    STEP_REPLACE,
    STEP_PREPEND,
    STEP_CHARSMAP,
} step_kind;

typedef struct step {
    step_kind kind;
    int compose, compatible; /* NORMAL_FORM */
    int left, right;         /* STRIP */
    nb_pattern *pattern;     /* REPLACE */
    nb_str content;          /* REPLACE, PREPEND */
    nb_charsmap *map;        /* CHARSMAP */
} step;

enum { MAX_STEPS = 32 };

struct nb_normalizer {
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
    if (!strcmp(type, "NFC") || !strcmp(type, "NFD") || !strcmp(type, "NFKC") ||
        !strcmp(type, "NFKD")) {
        s->kind = STEP_NORMAL_FORM;
        s->compatible = type[2] == 'K';
        s->compose = type[strlen(type) - 1] == 'C';
    } else if (!strcmp(type, "Lowercase")) {
        s->kind = STEP_LOWERCASE;
    } else if (!strcmp(type, "Strip")) {
        s->kind = STEP_STRIP;
        NB_TRY(nb_json_get_bool(path, json, "strip_left", 0, &s->left));
        NB_TRY(nb_json_get_bool(path, json, "strip_right", 0, &s->right));
    } else if (!strcmp(type, "Replace")) {
        s->kind = STEP_REPLACE;
        NB_TRY(read_content(path, json, "content", s));
        NB_TRY(nb_pattern_read(path, "normalizer Replace", json_object_get(json, "pattern"),
                               &s->pattern));
    } else if (!strcmp(type, "Prepend")) {
        s->kind = STEP_PREPEND;
        NB_TRY(read_content(path, json, "prepend", s));
    } else if (!strcmp(type, "Precompiled")) {
        const char *base64;
        s->kind = STEP_CHARSMAP;
        NB_TRY(nb_json_get_string(path, json, "precompiled_charsmap", "", &base64));
        NB_TRY(nb_charsmap_create_base64(path, base64, &s->map));
    } else {
        return nb_fail(NB_E_DATA, "%s: normalizer type \"%.80s\" is not known to nibble", path,
                       type);
    }
    return NB_OK;
}

static nb_status read_into(const char *path, const json_t *json, int depth, nb_normalizer *z)
{
    const char *type;
    if (json == NULL || json_is_null(json)) return NB_OK;
    if (!json_is_object(json))
        return nb_fail(NB_E_DATA, "%s: a normalizer is not an object", path);
    NB_TRY(nb_json_get_string(path, json, "type", "", &type));
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "normalizers"), *item;
        if (!json_is_array(list) || depth > 4)
            return nb_fail(NB_E_DATA, "%s: normalizer Sequence has no list of normalizers",
                           path);
        size_t i;
        json_array_foreach(list, i, item) NB_TRY(read_into(path, item, depth + 1, z));
        return NB_OK;
    }
    if (z->n_steps == MAX_STEPS)
        return nb_fail(NB_E_DATA, "%s: more than %d normalizers", path, MAX_STEPS);
    return read_step(path, json, type, &z->steps[z->n_steps++]);
}

nb_status nb_normalizer_read(const char *path, const json_t *json, nb_normalizer **out)
{
    nb_normalizer *z = calloc(1, sizeof *z);
    if (!z) return nb_fail(NB_E_SYSTEM, "out of memory for a normalizer");
    nb_status status = read_into(path, json, 0, z);
    if (status != NB_OK)
        nb_normalizer_destroy(z);
    else
        *out = z;
    return status;
}

void nb_normalizer_take_charsmap(nb_normalizer *z, nb_charsmap *map)
{
    assert(z->n_steps < MAX_STEPS);
    memmove(z->steps + 1, z->steps, (size_t)z->n_steps++ * sizeof *z->steps);
    z->steps[0] = (step){.kind = STEP_CHARSMAP, .map = map};
}

static void fini_step(step *s)
{
    nb_pattern_destroy(s->pattern);
    nb_str_fini(&s->content);
    nb_charsmap_destroy(s->map);
}

void nb_normalizer_keep_charsmap(nb_normalizer *z)
{
    int n_kept = 0;
    for (int i = 0; i < z->n_steps; i++) {
        if (n_kept || z->steps[i].kind != STEP_CHARSMAP)
            fini_step(&z->steps[i]);
        else
            z->steps[n_kept++] = z->steps[i];
    }
    z->n_steps = n_kept;
}

void nb_normalizer_destroy(nb_normalizer *z)
{
    if (!z) return;
    for (int i = 0; i < z->n_steps; i++) fini_step(&z->steps[i]);
    free(z);
}

/* A code point in the low bits; while a run is sorted, its combining class above. */
typedef struct code_points {
    int32_t *data;
    size_t n, capacity;
} code_points;

static nb_status decompose(const char *text, size_t n, int compatible, code_points *out)
{
    int flags = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0);
    for (size_t i = 0; i < n;) {
        if (out->capacity - out->n < 32) { /* no character decomposes into more */
            size_t capacity = out->capacity * 2 + n / 2 + 64;
            int32_t *data = realloc(out->data, capacity * sizeof *data);
            if (!data) return nb_fail(NB_E_SYSTEM, "out of memory for a normal form");
            out->data = data;
            out->capacity = capacity;
        }
        int bytes, last_bound_class = 0;
        uint32_t c = nb_utf8_decode(text + i, &bytes);
        i += (size_t)bytes;
        if (nb_unicode_is_inert(c)) {
            out->data[out->n++] = (int32_t)c;
            continue;
        }
        utf8proc_ssize_t written = utf8proc_decompose_char(
            (int32_t)c, out->data + out->n, (utf8proc_ssize_t)(out->capacity - out->n), flags,
            &last_bound_class);
        if (written < 0 || (size_t)written > out->capacity - out->n)
            return nb_fail(NB_E_BUG, "U+%04X cannot be decomposed", (unsigned)c);
        out->n += (size_t)written;
    }
    return NB_OK;
}

static int combining_class(int32_t c)
{
    if (c < 0x300 || nb_unicode_is_inert((uint32_t)c)) return 0;
    return utf8proc_get_property(c)->combining_class;
}

/* Stable sort of a run of marks by combining class: counting, so that a hostile run of a
 * million marks takes no quadratic time. `spare` holds as many. */
static void sort_marks(int32_t *marks, size_t n, int32_t *spare)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[combining_class(marks[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) spare[start[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

static nb_status order_marks(code_points *cp)
{
    int32_t *spare = NULL;
    for (size_t i = 0; i < cp->n;) {
        size_t end = i;
        int sorted = 1;
        for (int class = 0, before = 0; end < cp->n; end++, before = class) {
            class = combining_class(cp->data[end]);
            if (class == 0) break;
            sorted &= class >= before;
        }
        if (!sorted) {
            if (!spare) spare = malloc(cp->n * sizeof *spare);
            if (!spare) return nb_fail(NB_E_SYSTEM, "out of memory for a normal form");
            sort_marks(cp->data + i, end - i, spare);
        }
        i = end + (end == i);
    }
    free(spare);
    return NB_OK;
}

/* Composes what lies between inert characters; these compose with nothing. */
static nb_status compose(code_points *cp)
{
    size_t n = 0;
    for (size_t i = 0, end; i < cp->n; i = end) {
        for (end = i; end < cp->n && !nb_unicode_is_inert((uint32_t)cp->data[end]);) end++;
        utf8proc_ssize_t composed = utf8proc_normalize_utf32(
            cp->data + i, (utf8proc_ssize_t)(end - i), UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (composed < 0 || (size_t)composed > end - i)
            return nb_fail(NB_E_BUG, "a text of %zu characters cannot be composed", end - i);
        memmove(cp->data + n, cp->data + i, (size_t)composed * sizeof *cp->data);
        n += (size_t)composed;
        for (; end < cp->n && nb_unicode_is_inert((uint32_t)cp->data[end]); end++)
            cp->data[n++] = cp->data[end];
    }
    cp->n = n;
    return NB_OK;
}

static nb_status normal_form(const step *s, const nb_str *text, nb_str *out)
{
    code_points cp = {0};
    nb_status status = decompose(text->data, text->n, s->compatible, &cp);
    if (status == NB_OK) status = order_marks(&cp);
    if (status == NB_OK && s->compose) status = compose(&cp);
    for (size_t i = 0; status == NB_OK && i < cp.n; i++)
        status = nb_str_append_char(out, (uint32_t)cp.data[i]);
    free(cp.data);
    return status;
}

static nb_status lowercase(const nb_str *text, nb_str *out)
{
    for (size_t i = 0; i < text->n;) {
        int bytes;
        uint32_t c = nb_utf8_decode(text->data + i, &bytes);
        i += (size_t)bytes;
        if (c == 0x130) /* the only character whose lower case is two */
            NB_TRY(nb_str_append(out, "i\xCC\x87", 3));
        else
            NB_TRY(nb_str_append_char(out, nb_unicode_lower(c)));
    }
    return NB_OK;
}

static nb_status replace(const step *s, const nb_str *text, nb_str *out)
{
    nb_span *spans;
    size_t n_spans, at = 0;
    NB_TRY(nb_pattern_match(s->pattern, text->data, text->n, &spans, &n_spans));
    nb_status status = NB_OK;
    for (size_t i = 0; i < n_spans && status == NB_OK; i++) {
        status = nb_str_append(out, text->data + at, spans[i].start - at);
        if (status == NB_OK) status = nb_str_append(out, s->content.data, s->content.n);
        at = spans[i].end;
    }
    free(spans);
    return status == NB_OK ? nb_str_append(out, text->data + at, text->n - at) : status;
}

static nb_status strip(const step *s, const nb_str *text, nb_str *out)
{
    size_t start = s->left ? nb_white_space_prefix(text->data, text->n) : 0;
    size_t n = text->n - start;
    if (s->right) n -= nb_white_space_suffix(text->data + start, n);
    return nb_str_append(out, text->data + start, n);
}

static nb_status apply_step(const step *s, const nb_str *text, nb_str *out)
{
    switch (s->kind) {
    case STEP_NORMAL_FORM:
        return normal_form(s, text, out);
    case STEP_LOWERCASE:
        return lowercase(text, out);
    case STEP_STRIP:
        return strip(s, text, out);
    case STEP_REPLACE:
        return replace(s, text, out);
    case STEP_CHARSMAP:
        return nb_charsmap_apply(s->map, text->data, text->n, out);
    case STEP_PREPEND:
        if (text->n) NB_TRY(nb_str_append(out, s->content.data, s->content.n));
        return nb_str_append(out, text->data, text->n);
    }
    return NB_OK;
}

nb_status nb_normalizer_apply(const nb_normalizer *z, nb_str *text)
{
    for (int i = 0; i < z->n_steps && text->n > 0;
         i++) { /* of nothing no step makes something */
        nb_str out = {0};
        nb_status status = apply_step(&z->steps[i], text, &out);
        if (status != NB_OK) {
            nb_str_fini(&out);
            return status;
        }
        nb_str_fini(text);
        *text = out;
    }
    return NB_OK;
}
