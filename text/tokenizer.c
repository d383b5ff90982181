#include "text/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "text/token_ids.h"
#include "text/tokenizer_parts.h"

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for a tokenizer");
}

/* dir/name if there is such a file, else NULL. */
static char *find_file(const char *dir, const char *name)
{
    char *path = nb_path_join(dir, name);
    if (path && nb_file_exists(path)) return path;
    free(path);
    return NULL;
}

static nb_status read_folder(const char *dir, nb_tokenizer *t, const nb_special_tokens *special)
{
    if ((t->path = find_file(dir, "tokenizer.json")) != NULL)
        return nb_tokenizer_read_json(t, special);
    char *merges = find_file(dir, "merges.txt");
    if (merges && (t->path = find_file(dir, "vocab.json")) != NULL) {
        nb_status status = nb_tokenizer_read_clip(t, merges, special);
        free(merges);
        return status;
    }
    free(merges);
    if ((t->path = find_file(dir, "spiece.model")) != NULL)
        return nb_tokenizer_read_spiece(t, special);
    return nb_fail(
        NB_E_NOINPUT,
        "%s: no tokenizer there: wanted tokenizer.json, vocab.json with merges.txt, or "
        "spiece.model",
        dir);
}

/* The pipeline of T5Tokenizer.__init__ in transformers 5, but for its normalizer. */
static nb_status become_t5(nb_tokenizer *t, const nb_special_tokens *special)
{
    static const char words[] = "{\"type\": \"Sequence\", \"pretokenizers\": ["
                                " {\"type\": \"WhitespaceSplit\"},"
                                " {\"type\": \"Metaspace\", \"replacement\": \"\u2581\","
                                "  \"prepend_scheme\": \"always\"}]}";
    const char *name = special->names[NB_TOKEN_EOS] ? special->names[NB_TOKEN_EOS] : "</s>";
    int32_t end = nb_tokenizer_token_id(t, name);
    json_t *json;
    if (!t->unigram) return NB_OK;
    if (end < 0)
        return nb_fail(NB_E_DATA, "%s: there is no piece for the end, %.80s", t->path, name);
    NB_TRY(nb_json_parse(t->path, words, sizeof words - 1, &json));
    nb_pretokenizer_destroy(t->pretokenizer);
    t->pretokenizer = NULL;
    nb_status status = nb_pretokenizer_read(t->path, json, &t->pretokenizer);
    json_decref(json);
    nb_normalizer_keep_charsmap(t->normalizer);
    t->prefix.n = 0;
    t->suffix = (nb_affix){.ids = {end}, .n = 1};
    return status;
}

static nb_status open_folder(const char *dir, int as_t5, nb_tokenizer **out)
{
    nb_special_tokens special;
    NB_TRY(nb_special_tokens_load(dir, &special));
    nb_tokenizer *t = calloc(1, sizeof *t);
    nb_status status = t ? NB_OK : no_memory();
    if (t) {
        for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++) t->special[i] = -1;
        status = read_folder(dir, t, &special);
    }
    if (status == NB_OK && as_t5) status = become_t5(t, &special);
    if (status == NB_OK) status = nb_added_tokens_finish(&t->added, t->normalizer);
    if (status == NB_OK) nb_special_tokens_resolve(&special, t);
    nb_special_tokens_fini(&special);
    if (status != NB_OK)
        nb_tokenizer_close(t);
    else
        *out = t;
    return status;
}

nb_status nb_tokenizer_open(const char *dir, nb_tokenizer **out)
{
    return open_folder(dir, 0, out);
}

nb_status nb_tokenizer_open_t5(const char *dir, nb_tokenizer **out)
{
    return open_folder(dir, 1, out);
}

void nb_tokenizer_close(nb_tokenizer *t)
{
    if (!t) return;
    free(t->path);
    nb_unigram_destroy(t->unigram);
    nb_bpe_destroy(t->bpe);
    nb_normalizer_destroy(t->normalizer);
    nb_pretokenizer_destroy(t->pretokenizer);
    nb_token_decoder_destroy(t->decoder);
    nb_added_tokens_fini(&t->added);
    nb_vocab_fini(&t->vocab);
    nb_str_fini(&t->word_suffix);
    free(t);
}

/* What one call of encode needs on the way. */
typedef struct work {
    const nb_tokenizer *t;
    nb_bpe_scratch bpe;
    nb_unigram_scratch unigram;
    nb_token_ids *ids;
} work;

/* Normalized text without added tokens. `leading`: it is where the user's text begins. */
static nb_status encode_plain(work *w, const char *text, size_t n, int leading)
{
    const nb_tokenizer *t = w->t;
    nb_words words = {.leading = leading};
    nb_status status = nb_str_append(&words.text, text, n);
    if (status == NB_OK) status = nb_words_end(&words);
    if (status == NB_OK) status = nb_pretokenizer_apply(t->pretokenizer, &words);
    for (size_t i = 0, at = 0; i < words.n && status == NB_OK; at = words.ends[i++]) {
        const char *word = words.text.data + at;
        size_t bytes = words.ends[i] - at;
        status = t->bpe ? nb_bpe_encode(t->bpe, &w->bpe, word, bytes, w->ids)
                        : nb_unigram_encode(t->unigram, &w->unigram, word, bytes, w->ids);
    }
    nb_words_fini(&words);
    return status;
}

/* Text between the added tokens that are looked for in what was typed. */
static nb_status encode_stretch(work *w, const char *text, size_t n, int leading)
{
    nb_str normal = {0};
    nb_stretch *parts = NULL;
    size_t n_parts = 0;
    nb_status status = nb_str_append(&normal, text, n);
    if (status == NB_OK) status = nb_normalizer_apply(w->t->normalizer, &normal);
    if (status == NB_OK && normal.n)
        status = nb_added_tokens_cut(&w->t->added, 1, normal.data, normal.n, &parts, &n_parts);
    for (size_t i = 0; i < n_parts && status == NB_OK; i++) {
        const nb_stretch *p = &parts[i];
        status = p->id >= 0 ? nb_token_ids_push(w->ids, p->id)
                            : encode_plain(w, normal.data + p->start, p->end - p->start,
                                           leading && p->start == 0);
    }
    free(parts);
    nb_str_fini(&normal);
    return status;
}

static nb_status encode_text(work *w, const char *text, size_t n)
{
    nb_stretch *parts;
    size_t n_parts;
    NB_TRY(nb_added_tokens_cut(&w->t->added, 0, text, n, &parts, &n_parts));
    nb_status status = NB_OK;
    for (size_t i = 0; i < n_parts && status == NB_OK; i++) {
        const nb_stretch *p = &parts[i];
        status = p->id >= 0
                     ? nb_token_ids_push(w->ids, p->id)
                     : encode_stretch(w, text + p->start, p->end - p->start, p->start == 0);
    }
    free(parts);
    return status;
}

/* Cuts, puts prefix and suffix around, pads. */
static nb_status finish(const nb_tokenizer *t, const nb_encode_args *args, nb_token_ids *out)
{
    static const nb_affix none = {.n = 0};
    const nb_affix *prefix = args->no_special ? &none : &t->prefix;
    const nb_affix *suffix = args->no_special ? &none : &t->suffix;
    int64_t room = args->max_length - prefix->n - suffix->n;
    if (args->max_length > 0 && room < 0)
        return nb_fail(NB_E_USAGE,
                       "a length of %lld tokens has no room for the %d special ones",
                       (long long)args->max_length, prefix->n + suffix->n);
    out->n_cut = args->max_length > 0 && out->n > room ? out->n - room : 0;
    out->n -= out->n_cut;
    NB_TRY(nb_token_ids_shift(out, prefix->n));
    for (int i = 0; i < prefix->n; i++) out->ids[i] = prefix->ids[i];
    for (int i = 0; i < suffix->n; i++) NB_TRY(nb_token_ids_push(out, suffix->ids[i]));
    out->n_used = out->n;
    if (!args->pad) return NB_OK;
    if (t->special[NB_TOKEN_PAD] < 0)
        return nb_fail(NB_E_DATA, "%s: the tokenizer has no padding token", t->path);
    while (out->n < args->max_length) NB_TRY(nb_token_ids_push(out, t->special[NB_TOKEN_PAD]));
    return NB_OK;
}

nb_status nb_tokenizer_encode(const nb_tokenizer *t, const char *text, size_t bytes,
                              const nb_encode_args *args, nb_token_ids *out)
{
    static const nb_encode_args everything = {0};
    out->n = out->n_used = out->n_cut = 0;
    size_t bad = nb_utf8_check(text, bytes);
    if (bad < bytes)
        return nb_fail(NB_E_DATA, "the text is not valid UTF-8 at byte %zu (0x%02X)", bad,
                       (unsigned)(unsigned char)text[bad]);
    if (bytes > INT32_MAX) return nb_fail(NB_E_DATA, "a text of %zu bytes is too long", bytes);
    work w = {.t = t, .ids = out};
    nb_status status = encode_text(&w, text, bytes);
    if (status == NB_OK) status = finish(t, args ? args : &everything, out);
    nb_bpe_scratch_fini(&w.bpe);
    nb_unigram_scratch_fini(&w.unigram);
    if (status != NB_OK) out->n = out->n_used = out->n_cut = 0;
    return status;
}

static nb_status gather_tokens(const nb_tokenizer *t, const int32_t *ids, int64_t n,
                               int skip_special, nb_token_texts *tokens)
{
    for (int64_t i = 0; i < n; i++) {
        size_t bytes;
        const char *token = nb_vocab_piece(&t->vocab, ids[i], &bytes);
        if (!token)
            return nb_fail(NB_E_DATA, "there is no token with id %d, the tokenizer has %d",
                           (int)ids[i], (int)t->vocab.n_ids);
        if (skip_special && nb_added_tokens_is_special(&t->added, ids[i])) continue;
        NB_TRY(nb_str_append(&tokens->text, token, bytes));
        NB_TRY(nb_token_texts_end(tokens));
    }
    return NB_OK;
}

/* White space as Python's str.strip() takes it: U+001C-001F too. */
static void strip_python(const char **text, size_t *n)
{
    size_t before;
    do {
        before = *n;
        size_t start = nb_white_space_prefix(*text, *n);
        while (start < *n && (*text)[start] >= 0x1C && (*text)[start] <= 0x1F) start++;
        *text += start;
        *n -= start;
        *n -= nb_white_space_suffix(*text, *n);
        while (*n && (*text)[*n - 1] >= 0x1C && (*text)[*n - 1] <= 0x1F) --*n;
    } while (*n < before);
}

/* Every </w> is a blank; none at the ends: what CLIPTokenizer does with the decoder's text. */
static nb_status end_words(const nb_tokenizer *t, nb_str *text)
{
    const nb_str *mark = &t->word_suffix;
    nb_str out = {0};
    nb_status status = NB_OK;
    for (size_t i = 0; i < text->n && status == NB_OK;) {
        int marked = text->n - i >= mark->n && !memcmp(text->data + i, mark->data, mark->n);
        status = nb_str_append(&out, marked ? " " : text->data + i, 1);
        i += marked ? mark->n : 1;
    }
    if (status == NB_OK && out.n) {
        const char *start = out.data;
        size_t n = out.n;
        strip_python(&start, &n);
        text->n = 0;
        status = nb_str_append(text, start, n);
    }
    nb_str_fini(&out);
    return status;
}

nb_status nb_tokenizer_decode(const nb_tokenizer *t, const int32_t *ids, int64_t n,
                              int skip_special, char **text, size_t *bytes)
{
    nb_token_texts tokens = {0};
    nb_status status = gather_tokens(t, ids, n, skip_special, &tokens);
    if (status == NB_OK) status = nb_token_decoder_apply(t->decoder, &tokens);
    if (status == NB_OK && t->word_suffix.n) status = end_words(t, &tokens.text);
    if (status == NB_OK) status = nb_str_append(&tokens.text, "", 1);
    if (status == NB_OK) {
        *text = tokens.text.data;
        *bytes = tokens.text.n - 1;
        tokens.text = (nb_str){0};
    }
    nb_token_texts_fini(&tokens);
    return status;
}

int32_t nb_tokenizer_special_id(const nb_tokenizer *t, nb_special_token which)
{
    assert((int)which >= 0 && which < NB_N_SPECIAL_TOKENS);
    return t->special[which];
}

int64_t nb_tokenizer_vocab_size(const nb_tokenizer *t)
{
    return t->vocab.n_ids;
}

int64_t nb_tokenizer_max_length(const nb_tokenizer *t)
{
    return t->max_length;
}

const char *nb_tokenizer_kind(const nb_tokenizer *t)
{
    return t->kind;
}

const char *nb_tokenizer_path(const nb_tokenizer *t)
{
    return t->path;
}

int32_t nb_tokenizer_token_id(const nb_tokenizer *t, const char *token)
{
    return nb_vocab_find(&t->vocab, token, strlen(token));
}

const char *nb_tokenizer_token(const nb_tokenizer *t, int32_t id, size_t *bytes)
{
    return nb_vocab_piece(&t->vocab, id, bytes);
}
