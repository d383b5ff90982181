/*
 * Files of tokenizers that are wrong: each fault is refused by a sentence that names the file,
 * wherever a file is cut off and wherever it points.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/file.h"
#include "text/charsmap.h"
#include "text/tokenizer.h"
#include "tests/unit/scratch.h"

#define MODELS "golden/flux/models/"

/* Characters of a text, each one a token with id = its place in the vocabulary. */
#define LETTERS                                                                                \
    "'model': {'type': 'BPE', 'unk_token': '?', 'merges': [], 'vocab': {'?': 0, 'a': 1, 'b': " \
    "2, ' ': 3, '\u00e9': 4, 'i': 5, '\u0307': 6, '\u03c3': 7, '<': 8, '>': 9, '-': 10}}"

static void test_wrong_tokenizer_json(void **state)
{
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "wanted an object, found an array"},
        {"{'model': {'type': 'WordPiece', 'vocab': {'a': 0}}}", "\"WordPiece\" is not known"},
        {"{'model': {'type': 'BPE', 'vocab': [], 'merges': []}}", "not an object of tokens"},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 'b'}, 'merges': []}}", "the id of \"a\""},
        {"{'model': {'type': 'BPE', 'vocab': {'a': -1}, 'merges': []}}", "not in 0.."},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 99999999999}, 'merges': []}}", "not in 0.."},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 0, 'b': 0}, 'merges': []}}", "given twice"},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 0}}}", "no list of merges"},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 0}, 'merges': ['a']}}", "merge 0 is not"},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 0}, 'merges': ['a b']}}",
         "merge 0, \"a b\": the vocabulary has no such right part"},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 0}, 'merges': ['a a']}}", "no such whole"},
        {"{'model': {'type': 'BPE', 'vocab': {'a': 0}, 'merges': [], 'unk_token': 'u'}}",
         "unk_token \"u\" is not in the vocabulary"},
        {"{'model': {'type': 'Unigram', 'vocab': []}}", "no list of pieces"},
        {"{'model': {'type': 'Unigram', 'vocab': [['a']]}}", "piece 0 is not [text, score]"},
        {"{'model': {'type': 'Unigram', 'vocab': [['a', 0]], 'unk_id': 1}}", "unk_id 1"},
        {"{" LETTERS ", 'normalizer': {'type': 'BertNormalizer'}}", "\"BertNormalizer\""},
        {"{" LETTERS ", 'normalizer': {'type': 'Replace', 'pattern': {'Regex': '('}}}",
         "bad regular expression"},
        {"{" LETTERS ", 'normalizer': {'type': 'Replace'}}", "wanted a pattern"},
        {"{" LETTERS ", 'normalizer': {'type': 'Precompiled', 'precompiled_charsmap': 'A!=='}}",
         "byte 1 is no base64"},
        {"{" LETTERS
         ", 'normalizer': {'type': 'Precompiled', 'precompiled_charsmap': '////fw=='}}",
         "does not fit in 4 bytes"},
        {"{" LETTERS ", 'pre_tokenizer': {'type': 'Punctuation'}}", "\"Punctuation\""},
        {"{" LETTERS ", 'pre_tokenizer': {'type': 'Split', 'behavior': 'Eaten'}}", "\"Eaten\""},
        {"{" LETTERS ", 'decoder': {'type': 'WordPiece'}}", "\"WordPiece\""},
        {"{" LETTERS ", 'post_processor': {'type': 'Magic'}}", "\"Magic\""},
        {"{" LETTERS ", 'post_processor': {'type': 'TemplateProcessing', 'single': []}}",
         "holds the text 0 times"},
        {"{" LETTERS ", 'post_processor': {'type': 'BertProcessing', 'cls': ['a', 1], 'sep':"
         " ['b', 11]}}",
         "id 11 is not in the vocabulary of 11"},
        {"{" LETTERS ", 'added_tokens': [{'content': 'x'}]}", "0 has no id"},
        {"{" LETTERS ", 'added_tokens': [{'id': 1, 'content': 'x'}]}", "id 1 is given twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nb_tokenizer *t;
        scratch_write_json(state, "tokenizer.json", cases[i].json);
        assert_fails(nb_tokenizer_open(*state, &t), NB_E_DATA, cases[i].part);
        if (!strstr(nb_error_message(), "tokenizer.json"))
            fail_msg("the file is not named: %s", nb_error_message());
    }
}

static void test_wrong_clip_files(void **state)
{
    static const struct {
        const char *vocab, *merges, *part;
    } cases[] = {
        {"{'a': 0}", "", "not CLIP's vocabulary"},
        {"{'a</w>': 0}", "", "\"<|startoftext|>\" is not in the vocabulary"},
        {"{'a</w>': 0, '<|startoftext|>': 1, '<|endoftext|>': 2}", "#version: 0.2\nab\n",
         "line 2"},
        {"{'a</w>': 0, '<|startoftext|>': 1, '<|endoftext|>': 2}", "a b\n",
         "no such left part"},
        {"{'a</w>': 0, '<|startoftext|>': 1, '<|endoftext|>': 2}", "a \xff\n",
         "not UTF-8 at byte 2"},
    };
    nb_tokenizer *t;
    assert_fails(nb_tokenizer_open(*state, &t), NB_E_NOINPUT, "no tokenizer there");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scratch_write_json(state, "vocab.json", cases[i].vocab);
        scratch_write_text(scratch_path(state, "merges.txt"), cases[i].merges);
        assert_fails(nb_tokenizer_open(*state, &t), NB_E_DATA, cases[i].part);
    }
    scratch_write_json(state, "tokenizer_config.json", "{'added_tokens_decoder': {'x': {}}}");
    assert_fails(nb_tokenizer_open(*state, &t), NB_E_DATA, "\"x\" is not an id");
}

/* However a spiece.model is cut off, it is refused or read; nothing else happens. */
static void test_spiece_cut_off(void **state)
{
    nb_buffer *file;
    assert_ok(nb_file_map(MODELS "sharded/tokenizer_2/spiece.model", &file));
    const char *data = nb_buffer_data(file);
    size_t bytes = nb_buffer_bytes(file);
    const char *path = scratch_path(state, "spiece.model");
    int n_refused = 0;
    for (size_t n = 0; n < bytes; n += 1 + n / 20) {
        nb_tokenizer *t = NULL;
        scratch_write(path, data, n);
        nb_status status = nb_tokenizer_open(*state, &t);
        if (status == NB_OK) {
            nb_tokenizer_close(t);
            continue;
        }
        assert_int_equal(status, NB_E_DATA);
        assert_non_null(strstr(nb_error_message(), "spiece.model"));
        n_refused++;
    }
    assert_true(n_refused > 20);
    nb_buffer_unref(file);
}

/* A trie that points outside matches nothing; a replacement outside is none. */
static void test_charsmap_points_outside(void **state)
{
    (void)state;
    static const struct {
        uint32_t root, node, leaf;
        const char *wanted;
    } cases[] = {
        /* 'a' = 0x61 at unit 0x61 ^ offset(root); its leaf at that ^ offset(node) */
        {0x60u << 10, 0x61 | 0x100 | 3u << 10, 0x80000000u, "X\u00e9"},
        {0x60u << 10, 0x61 | 0x100 | 3u << 10, 0x80000007u, "a\u00e9"},
        {0x60u << 10, 0x61 | 0x100 | 900u << 10, 0x80000000u, "a\u00e9"},
        {0x1FFFFFu << 10 | 0x200, 0x61 | 0x100 | 3u << 10, 0x80000000u, "a\u00e9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t blob[] = {16, cases[i].root, cases[i].node, cases[i].leaf, 0, 'X'};
        nb_charsmap *map;
        nb_str out = {0};
        assert_ok(nb_charsmap_create("file", (const char *)blob, sizeof blob, &map));
        assert_ok(nb_charsmap_apply(map, "a\u00e9", 3, &out));
        assert_int_equal(out.n, strlen(cases[i].wanted));
        assert_memory_equal(out.data, cases[i].wanted, out.n);
        nb_str_fini(&out);
        nb_charsmap_destroy(map);
    }
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(test_wrong_tokenizer_json),
        IN_SCRATCH(test_wrong_clip_files),
        IN_SCRATCH(test_spiece_cut_off),
        cmocka_unit_test(test_charsmap_points_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
