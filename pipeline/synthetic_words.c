/*
 * Words are all strings of two letters, then of three, then of four ... in order. CLIP's merges
 * make each of the one that lacks its last letter, so that a prompt is merged as it would be
 * with the published vocabulary, only to other ids.
 */
#include "pipeline/synthetic_words.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "text/byte_chars.h"

enum { LETTERS = 26, WORD_BYTES = 16 };

static nb_status no_memory(const char *folder)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory for a tokenizer", folder);
}

/* ---- files ---- */

static nb_status write_file(const char *path, const char *text, size_t bytes)
{
    nb_file_writer *w;
    NB_TRY(nb_file_writer_open(path, &w));
    nb_status status = nb_file_writer_write(w, text, bytes);
    if (!status) return nb_file_writer_commit(w);
    nb_file_writer_abort(w);
    return status;
}

static nb_status write_in(const char *folder, const char *name, const char *text, size_t bytes)
{
    char *path = nb_path_join(folder, name);
    nb_status status = path ? write_file(path, text, bytes) : no_memory(folder);
    free(path);
    return status;
}

nb_status nb_synthetic_write_json(const char *folder, const char *name, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_INDENT(1)) : NULL;
    json_decref(value);
    nb_status status = text ? write_in(folder, name, text, strlen(text)) : no_memory(folder);
    free(text);
    return status;
}

/* ---- words ---- */

/* Word number i, from 0: aa, ab ... zz, aaa ... Returns its length. */
static int word_at(int64_t i, char word[WORD_BYTES])
{
    int n = 2;
    for (int64_t of = LETTERS * LETTERS; i >= of; of *= LETTERS, n++) i -= of;
    word[n] = 0;
    for (int at = n - 1; at >= 0; at--, i /= LETTERS) word[at] = (char)('a' + i % LETTERS);
    return n;
}

/* ---- CLIP ---- */

static int add_id(json_t *vocab, const char *token)
{
    return json_object_set_new(vocab, token, json_integer((json_int_t)json_object_size(vocab)));
}

/* The 256 bytes as characters, each with and without the end of a word. */
static nb_status add_bytes(json_t *vocab, const char *end)
{
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        nb_str token = {0};
        nb_status status = nb_byte_chars_encode(&byte, 1, &token);
        if (!status) status = nb_str_append(&token, end, strlen(end) + 1);
        if (!status && add_id(vocab, token.data) != 0) status = NB_E_SYSTEM;
        nb_str_fini(&token);
        NB_TRY(status);
    }
    return NB_OK;
}

static nb_status fill_clip(json_t *vocab, nb_str *merges, int64_t n)
{
    static const char version[] = "#version: 0.2\n";
    int failed = 0;
    NB_TRY(add_bytes(vocab, ""));
    NB_TRY(add_bytes(vocab, "</w>"));
    NB_TRY(nb_str_append(merges, version, sizeof version - 1));
    for (int64_t i = 0; i < n - NB_CLIP_LEAST_VOCAB && !failed; i++) {
        char word[WORD_BYTES], line[2 * WORD_BYTES];
        int last = word_at(i, word) - 1;
        int bytes = snprintf(line, sizeof line, "%.*s %c\n", last, word, word[last]);
        NB_TRY(nb_str_append(merges, line, (size_t)bytes));
        failed = add_id(vocab, word);
    }
    failed |= add_id(vocab, "<|startoftext|>") | add_id(vocab, "<|endoftext|>");
    return failed ? NB_E_SYSTEM : NB_OK;
}

nb_status nb_synthetic_clip_words(const char *folder, int64_t n)
{
    json_t *vocab = json_object();
    nb_str merges = {0};
    nb_status status =
        vocab && fill_clip(vocab, &merges, n) == NB_OK ? NB_OK : no_memory(folder);
    if (!status) status = write_in(folder, "merges.txt", merges.data, merges.n);
    if (!status) status = nb_synthetic_write_json(folder, "vocab.json", json_incref(vocab));
    nb_str_fini(&merges);
    json_decref(vocab);
    NB_TRY(status);
    return nb_synthetic_write_json(
        folder, "tokenizer_config.json",
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:s}", "tokenizer_class", "CLIPTokenizer",
                  "model_max_length", 77, "bos_token", "<|startoftext|>", "eos_token",
                  "<|endoftext|>", "pad_token", "<|endoftext|>", "unk_token", "<|endoftext|>"));
}

/* ---- T5 ---- */

/* Around the pieces: what T5's tokenizer.json says, but for its table of normal forms. */
static const char T5_PIPELINE[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
    "  {\"id\": 0, \"content\": \"<pad>\", \"special\": true},"
    "  {\"id\": 1, \"content\": \"</s>\", \"special\": true},"
    "  {\"id\": 2, \"content\": \"<unk>\", \"special\": true}],"
    " \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": ["
    "  {\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true},"
    "  {\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \"\u2581\"}]},"
    " \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\u2581\","
    "  \"prepend_scheme\": \"always\", \"split\": true},"
    " \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": ["
    "   {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}},"
    "   {\"SpecialToken\": {\"id\": \"</s>\", \"type_id\": 0}}],"
    "  \"pair\": [], \"special_tokens\": {\"</s>\": {\"id\": \"</s>\", \"ids\": [1],"
    "   \"tokens\": [\"</s>\"]}}},"
    " \"decoder\": {\"type\": \"Metaspace\", \"replacement\": \"\u2581\","
    "  \"prepend_scheme\": \"always\", \"split\": true}}";

static int add_piece(json_t *pieces, const char *piece, double score)
{
    return json_array_append_new(pieces, json_pack("[s, f]", piece, score));
}

/* Special tokens, the printable characters of ASCII, words that begin one. */
static json_t *t5_pieces(int64_t n)
{
    json_t *pieces = json_array();
    int failed = add_piece(pieces, "<pad>", 0) | add_piece(pieces, "</s>", 0) |
                 add_piece(pieces, "<unk>", 0) | add_piece(pieces, "\u2581", -2);
    for (int c = '!'; c <= '~' && !failed; c++)
        failed = add_piece(pieces, (char[]){(char)c, 0}, -12);
    for (int64_t i = 0; (int64_t)json_array_size(pieces) < n && !failed; i++) {
        char word[WORD_BYTES], piece[2 * WORD_BYTES];
        word_at(i, word);
        snprintf(piece, sizeof piece, "\u2581%s", word);
        failed = add_piece(pieces, piece, -10);
    }
    if (!failed) return pieces;
    json_decref(pieces);
    return NULL;
}

nb_status nb_synthetic_t5_words(const char *folder, int64_t n)
{
    json_t *root;
    NB_TRY(nb_json_parse(folder, T5_PIPELINE, sizeof T5_PIPELINE - 1, &root));
    json_t *model = json_pack("{s:s, s:i, s:o, s:b}", "type", "Unigram", "unk_id", 2, "vocab",
                              t5_pieces(n), "byte_fallback", 0);
    if (json_object_set_new(root, "model", model) != 0) {
        json_decref(root);
        return no_memory(folder);
    }
    NB_TRY(nb_synthetic_write_json(folder, "tokenizer.json", root));
    return nb_synthetic_write_json(folder, "tokenizer_config.json",
                                   json_pack("{s:s, s:i, s:s, s:s, s:s}", "tokenizer_class",
                                             "T5TokenizerFast", "model_max_length", 512,
                                             "eos_token", "</s>", "pad_token", "<pad>",
                                             "unk_token", "<unk>"));
}
