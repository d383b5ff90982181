#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "text/tokenizer_parts.h"

/* What CLIPTokenizer builds around vocab.json and merges.txt (transformers 5). */
static const char PIPELINE[] =
    "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"},"
    "  {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"content\": \" \"},"
    "  {\"type\": \"Lowercase\"}]},"
    " \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": ["
    "  {\"type\": \"Split\", \"behavior\": \"Removed\", \"invert\": true, \"pattern\": "
    "{\"Regex\":"
    "   \"<\\\\|startoftext\\\\|>|<\\\\|endoftext\\\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\\\p{L}]+|"
    "[\\\\p{N}]|[^\\\\s\\\\p{L}\\\\p{N}]+\"}},"
    "  {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}]},"
    " \"decoder\": {\"type\": \"ByteLevel\"}}";

/* One "left right" a line; the line "#version: ..." is a comment, "# x" is a merge. */
static nb_status read_merges(nb_tokenizer *t, const char *path, const char *text, size_t bytes)
{
    size_t bad = nb_utf8_check(text, bytes);
    if (bad < bytes) return nb_fail(NB_E_DATA, "%s: not UTF-8 at byte %zu", path, bad);
    const char *end = text + bytes;
    int line_number = 0;
    for (const char *line = text; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((next ? next : end) - line);
        if (n && line[n - 1] == '\r') n--;
        line_number++;
        if (n < 8 || memcmp(line, "#version", 8)) {
            const char *blank = memchr(line, ' ', n);
            size_t left = blank ? (size_t)(blank - line) : 0;
            if (!blank || memchr(blank + 1, ' ', n - left - 1))
                return nb_fail(NB_E_DATA, "%s: line %d is not \"left right\"", path,
                               line_number);
            nb_status status = nb_bpe_add_merge(t->bpe, line, left, blank + 1, n - left - 1);
            if (status != NB_OK)
                return nb_fail_context(status, "%s: line %d", path, line_number);
        }
        line = next ? next + 1 : end;
    }
    return NB_OK;
}

static int32_t find(const nb_tokenizer *t, const char *token)
{
    return nb_vocab_find(&t->vocab, token, strlen(token));
}

/* The four tokens by the names of the configuration, else by CLIP's. */
static nb_status find_special(nb_tokenizer *t, const nb_special_tokens *special)
{
    for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++) {
        const char *name = special->names[i];
        if (!name) name = i == NB_TOKEN_BOS ? "<|startoftext|>" : "<|endoftext|>";
        t->special[i] = find(t, name);
        if (t->special[i] < 0)
            return nb_fail(NB_E_DATA,
                           "%s: the special token \"%.80s\" is not in the vocabulary", t->path,
                           name);
        nb_added_token token = {.id = t->special[i], .special = 1};
        NB_TRY(nb_str_append(&token.content, name, strlen(name)));
        nb_status status = nb_added_tokens_add(&t->added, &t->vocab, &token);
        nb_str_fini(&token.content);
        if (status != NB_OK) return status;
    }
    return NB_OK;
}

nb_status nb_tokenizer_read_clip(nb_tokenizer *t, const char *merges_path,
                                 const nb_special_tokens *special)
{
    json_t *vocab;
    NB_TRY(nb_json_load_object(t->path, &vocab));
    nb_status status = nb_tokenizer_read_vocab(t, vocab);
    json_decref(vocab);
    if (status != NB_OK) return status;
    if (find(t, "a</w>") < 0 && find(t, "!</w>") < 0)
        return nb_fail(NB_E_DATA,
                       "%s: not CLIP's vocabulary (no token ends in </w>); another BPE "
                       "needs a tokenizer.json",
                       t->path);
    NB_TRY(nb_special_tokens_add(special, t));
    NB_TRY(find_special(t, special));
    nb_bpe_args args = {.unk_id = t->special[NB_TOKEN_UNK], .prefix = "", .suffix = "</w>"};
    NB_TRY(nb_bpe_create(&t->vocab, &args, &t->bpe));
    nb_buffer *file;
    NB_TRY(nb_file_map(merges_path, &file));
    status = read_merges(t, merges_path, nb_buffer_data(file), nb_buffer_bytes(file));
    nb_buffer_unref(file);
    if (status != NB_OK) return status;
    NB_TRY(nb_str_append(&t->word_suffix, "</w>", 4));
    t->kind = "CLIP BPE";
    t->prefix = (nb_affix){.ids = {t->special[NB_TOKEN_BOS]}, .n = 1};
    t->suffix = (nb_affix){.ids = {t->special[NB_TOKEN_EOS]}, .n = 1};
    return nb_tokenizer_set_pipeline(t, PIPELINE);
}
