#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "kernels/base/json.h"

void nb_added_tokens_fini(nb_added_tokens *a)
{
    for (int32_t i = 0; i < a->n; i++) nb_str_fini(&a->tokens[i].content);
    free(a->tokens);
    nb_trie_fini(&a->raw);
    nb_trie_fini(&a->normalized);
    *a = (nb_added_tokens){0};
}

nb_status nb_added_tokens_add(nb_added_tokens *a, nb_vocab *vocab, const nb_added_token *token)
{
    if (token->content.n == 0) return NB_OK;
    for (int32_t i = 0; i < a->n; i++) {
        const nb_str *other = &a->tokens[i].content;
        if (other->n == token->content.n && !memcmp(other->data, token->content.data, other->n))
            return NB_OK;
    }
    if (a->n == a->capacity) {
        int32_t capacity = a->capacity ? a->capacity * 2 : 16;
        nb_added_token *tokens = realloc(a->tokens, (size_t)capacity * sizeof *tokens);
        if (!tokens) return nb_fail(NB_E_SYSTEM, "out of memory for added tokens");
        a->tokens = tokens;
        a->capacity = capacity;
    }
    nb_added_token *copy = &a->tokens[a->n];
    *copy = *token;
    copy->content = (nb_str){0};
    copy->id = nb_vocab_find(vocab, token->content.data, token->content.n);
    if (copy->id < 0) {
        copy->id = token->id;
        NB_TRY(nb_vocab_add(vocab, token->id, token->content.data, token->content.n));
    }
    NB_TRY(nb_str_append(&copy->content, token->content.data, token->content.n));
    a->n++;
    return NB_OK;
}

nb_status nb_added_token_read_flags(const char *path, const json_t *json, nb_added_token *token)
{
    NB_TRY(nb_json_get_bool(path, json, "single_word", 0, &token->single_word));
    NB_TRY(nb_json_get_bool(path, json, "lstrip", 0, &token->lstrip));
    NB_TRY(nb_json_get_bool(path, json, "rstrip", 0, &token->rstrip));
    NB_TRY(nb_json_get_bool(path, json, "normalized", 0, &token->normalized));
    return nb_json_get_bool(path, json, "special", 0, &token->special);
}

nb_status nb_added_tokens_finish(nb_added_tokens *a, const nb_normalizer *z)
{
    for (int32_t i = a->n; i-- > 0;) { /* backwards, so that of equal ones the first stays */
        nb_added_token *token = &a->tokens[i];
        if (!token->normalized) {
            NB_TRY(nb_trie_add(&a->raw, token->content.data, token->content.n, i));
            continue;
        }
        nb_str content = {0};
        nb_status status = nb_str_append(&content, token->content.data, token->content.n);
        if (status == NB_OK) status = nb_normalizer_apply(z, &content);
        if (status == NB_OK && content.n)
            status = nb_trie_add(&a->normalized, content.data, content.n, i);
        nb_str_fini(&content);
        if (status != NB_OK) return status;
    }
    return NB_OK;
}

int nb_added_tokens_is_special(const nb_added_tokens *a, int32_t id)
{
    for (int32_t i = 0; i < a->n; i++)
        if (a->tokens[i].id == id) return a->tokens[i].special;
    return 0;
}

/* \w of the regex crate: letters, marks, decimal and letter numbers, connectors, joiners. */
static int is_word(uint32_t c)
{
    switch (utf8proc_category((int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return 1;
    default:
        return c == 0x200C || c == 0x200D;
    }
}

static int touches_word(const char *text, size_t n, size_t start, size_t end)
{
    int bytes;
    if (end < n && is_word(nb_utf8_decode(text + end, &bytes))) return 1;
    if (start == 0) return 0;
    do start--;
    while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80);
    return is_word(nb_utf8_decode(text + start, &bytes));
}

/* The longest token at text + at: its index, -1 if there is none; *end is where it ends. */
static int32_t longest_at(const nb_trie *trie, const char *text, size_t n, size_t at,
                          size_t *end)
{
    int32_t found = -1;
    uint32_t node = 0;
    for (size_t i = at; i < n && (node = nb_trie_step(trie, node, text[i])) != 0; i++) {
        if (trie->values[node] < 0) continue;
        found = trie->values[node];
        *end = i + 1;
    }
    return found;
}

typedef struct stretch_list {
    nb_stretch *items;
    size_t n, capacity;
} stretch_list;

static nb_status push(stretch_list *list, size_t start, size_t end, int32_t id)
{
    if (start >= end && id < 0) return NB_OK;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 8;
        nb_stretch *items = realloc(list->items, capacity * sizeof *items);
        if (!items) return nb_fail(NB_E_SYSTEM, "out of memory for the parts of a text");
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = (nb_stretch){start, end, id};
    return NB_OK;
}

static nb_status cut(const nb_added_tokens *a, const nb_trie *trie, const char *text, size_t n,
                     stretch_list *list)
{
    size_t done = 0; /* up to here the text is in the list */
    for (size_t at = 0; at < n;) {
        size_t start = at, end = at;
        int32_t index = longest_at(trie, text, n, at, &end);
        if (index < 0) {
            at++;
            continue;
        }
        at = end;
        const nb_added_token *token = &a->tokens[index];
        if (token->single_word && touches_word(text, n, start, end)) continue;
        if (token->lstrip) start -= nb_white_space_suffix(text, start);
        if (start < done) start = done;
        if (token->rstrip) end += nb_white_space_prefix(text + end, n - end);
        NB_TRY(push(list, done, start, -1));
        NB_TRY(push(list, start, end, token->id));
        done = end;
    }
    return push(list, done, n, -1);
}

nb_status nb_added_tokens_cut(const nb_added_tokens *a, int normalized, const char *text,
                              size_t n, nb_stretch **stretches, size_t *n_stretches)
{
    stretch_list list = {0};
    const nb_trie *trie = normalized ? &a->normalized : &a->raw;
    nb_status status = trie->n_nodes ? cut(a, trie, text, n, &list) : push(&list, 0, n, -1);
    if (status != NB_OK) {
        free(list.items);
        return status;
    }
    *stretches = list.items;
    *n_stretches = list.n;
    return NB_OK;
}
