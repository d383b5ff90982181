/*
 * Tokenizers: each component by a vocabulary small enough to follow by hand, text that is none,
 * and the ids published for CLIP and T5 where NIBBLE_TOKENIZERS names their folder
 * (golden/tokenizer compares many more strings through the program). Ids were checked with the
 * tokenizers library. Wrong files: tokenizer_files_test.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "text/tokenizer.h"
#include "text/utf8.h"
#include "tests/unit/scratch.h"

#define MODELS "golden/flux/models/"

/* A tokenizer.json of that text; what is left out of it is null. */
static nb_tokenizer *open_json(void **state, const char *text)
{
    nb_tokenizer *t = NULL;
    scratch_write_json(state, "tokenizer.json", text);
    assert_ok(nb_tokenizer_open(*state, &t));
    return t;
}

static nb_tokenizer *open_folder(const char *dir)
{
    nb_tokenizer *t = NULL;
    assert_ok(nb_tokenizer_open(dir, &t));
    return t;
}

/* Compares as text: "1 2 3". */
static void check_ids(const nb_tokenizer *t, const char *text, size_t bytes,
                      const nb_encode_args *args, const char *wanted)
{
    char got[4096] = "";
    size_t n = 0;
    nb_token_ids ids = {0};
    assert_ok(nb_tokenizer_encode(t, text, bytes, args, &ids));
    for (int64_t i = 0; i < ids.n && n < sizeof got - 16; i++)
        n += (size_t)snprintf(got + n, 16, i ? " %d" : "%d", (int)ids.ids[i]);
    if (strcmp(got, wanted)) fail_msg("\"%s\": wanted %s, found %s", text, wanted, got);
    nb_token_ids_fini(&ids);
}

static void assert_ids(const nb_tokenizer *t, const char *text, const char *wanted)
{
    check_ids(t, text, strlen(text), NULL, wanted);
}

static void assert_text(const nb_tokenizer *t, const int32_t *ids, int64_t n,
                        const char *wanted)
{
    char *text;
    size_t bytes;
    assert_ok(nb_tokenizer_decode(t, ids, n, 0, &text, &bytes));
    assert_string_equal(text, wanted);
    assert_int_equal(bytes, strlen(wanted));
    free(text);
}

static void test_bpe_merges_lowest_rank_then_leftmost(void **state)
{
    nb_tokenizer *t =
        open_json(state, "{'model': {'type': 'BPE', 'vocab': {'a': 0, 'b': 1, 'ab': 2, 'aa': 3,"
                         " 'aab': 4}, 'merges': ['a a', ['aa', 'b'], 'a b']}}");
    assert_string_equal(nb_tokenizer_kind(t), "BPE");
    assert_int_equal(nb_tokenizer_vocab_size(t), 5);
    assert_ids(t, "aaa", "3 0");
    assert_ids(t, "aaaa", "3 3");
    assert_ids(t, "ab", "2");
    assert_ids(t, "aab", "4");
    assert_ids(t, "aaaab", "3 4");
    assert_ids(t, "", "");
    assert_ids(t, "axb", "2"); /* without an unknown token a character vanishes */
    nb_tokenizer_close(t);
}

static void test_bpe_unknown_characters(void **state)
{
    nb_tokenizer *t = open_json(
        state, "{'model': {'type': 'BPE', 'unk_token': '?', 'vocab': {'?': 0, 'a': 1},"
               " 'merges': []}}");
    assert_ids(t, "xay\u00e9", "0 1 0 0");
    nb_tokenizer_close(t);
    t = open_json(state,
                  "{'model': {'type': 'BPE', 'unk_token': '?', 'fuse_unk': true,"
                  " 'byte_fallback': true, 'vocab': {'?': 0, 'a': 1, '<0xC3>': 2,"
                  " '<0xA9>': 3, '<0xC2>': 4}, 'merges': []},"
                  " 'decoder': {'type': 'Sequence', 'decoders': [{'type': 'ByteFallback'},"
                  " {'type': 'Fuse'}]}}");
    assert_ids(t, "xya\u00e9", "0 1 2 3");
    assert_ids(t, "a\u00a3\u00a3", "1 0"); /* <0xA3> is missing: unknown, and fused */
    assert_text(t, (int32_t[]){1, 2, 3, 2, 1}, 5, "a\ufffd\ufffd\ufffda");
    assert_text(t, (int32_t[]){1, 2, 3, 1, 2}, 5, "a\u00e9a\ufffd");
    nb_tokenizer_close(t);
}

static void test_bpe_prefix_and_ignore_merges(void **state)
{
    nb_tokenizer *t = open_json(
        state,
        "{'model': {'type': 'BPE', 'continuing_subword_prefix': '##', 'ignore_merges': true,"
        " 'vocab': {'a': 0, '##b': 1, 'ab': 2, '##c': 3, 'abc': 4, 'cab': 5},"
        " 'merges': ['a ##b']}, 'pre_tokenizer': {'type': 'WhitespaceSplit'}}");
    assert_ids(t, "ab abc \u2003 cab", "2 4 5");
    assert_ids(t, "abcc", "2 3 3");
    nb_tokenizer_close(t);
}

#define UNIGRAM(rest)                                                                          \
    "{'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': [['?', 0], ['a', -1], ['b', -1],"     \
    " ['ab', -2], ['abc', -2.5], ['\u2581', -1], ['\u2581a', -1.5]]}" rest "}"

static void test_unigram_takes_the_best_path(void **state)
{
    nb_tokenizer *t = open_json(state, UNIGRAM(""));
    assert_string_equal(nb_tokenizer_kind(t), "Unigram");
    assert_ids(t, "abc", "4");
    assert_ids(t, "abb", "3 2");          /* equal sums: the first found, ab, stays */
    assert_ids(t, "aXY\u6f22b", "1 0 2"); /* unknown neighbours fuse */
    assert_ids(t, "X", "0");
    assert_ids(t, "a?b", "1 0 2");
    nb_tokenizer_close(t);
    t = open_json(state, "{'model': {'type': 'Unigram', 'vocab': [['a', -1]]}}");
    nb_token_ids ids = {0};
    assert_fails(nb_tokenizer_encode(t, "b", 1, NULL, &ids), NB_E_DATA, "no unknown token");
    nb_token_ids_fini(&ids);
    nb_tokenizer_close(t);
}

static void test_metaspace(void **state)
{
    static const char *const schemes[] = {"always", "first", "never"};
    static const char *const wanted[] = {"6 6 99 6 6", "6 6 99 1 6", "1 6 99 1 6"};
    for (int i = 0; i < 3; i++) {
        char text[1024];
        snprintf(
            text, sizeof text,
            UNIGRAM(", 'added_tokens': [{'id': 99, 'content': '<x>'}], 'pre_tokenizer': "
                    "{'type': 'Metaspace', 'replacement': '\u2581', 'prepend_scheme': '%s'},"
                    " 'decoder': {'type': 'Metaspace', 'replacement': '\u2581'}"),
            schemes[i]);
        nb_tokenizer *t = open_json(state, text);
        assert_ids(t, "a a<x>a a", wanted[i]);
        assert_ids(t, "\u2581a", "6");
        assert_ids(t, " a  a", "6 5 6");
        assert_text(t, (int32_t[]){6, 2, 6, 99, 6}, 5, "ab a<x> a");
        nb_tokenizer_close(t);
    }
}

/* Characters of a text, each one a token with id = its place in the vocabulary. */
#define LETTERS                                                                                \
    "'model': {'type': 'BPE', 'unk_token': '?', 'merges': [], 'vocab': {'?': 0, 'a': 1, 'b': " \
    "2, ' ': 3, '\u00e9': 4, 'i': 5, '\u0307': 6, '\u03c3': 7, '<': 8, '>': 9, '-': 10}}"

static void test_added_tokens(void **state)
{
    nb_tokenizer *t =
        open_json(state, "{" LETTERS ", 'normalizer': {'type': 'Lowercase'}, 'added_tokens': ["
                         "{'id': 20, 'content': '<A>'}, {'id': 21, 'content': '<A>b'},"
                         "{'id': 22, 'content': '<-', 'lstrip': true}, {'id': 23, 'content': "
                         "'->', 'rstrip': true},"
                         "{'id': 24, 'content': 'AA', 'single_word': true, 'normalized': true, "
                         "'special': true}]}");
    assert_ids(t, "<A>a<A>ba", "20 1 21 1"); /* the longest counts */
    assert_ids(t, "<a>", "8 1 9");           /* as it was typed */
    assert_ids(t, "a \u00a0\n<- a ->  b", "1 22 3 1 3 23 2");
    assert_ids(t, "aA-AA aab", "24 10 24 3 1 1 2"); /* normalized on both sides, whole words */
    assert_text(t, (int32_t[]){24, 1}, 2, "AA a");
    char *text;
    size_t bytes;
    assert_ok(nb_tokenizer_decode(t, (int32_t[]){24, 1, 20}, 3, 1, &text, &bytes));
    assert_string_equal(text, "a <A>"); /* without a decoder blanks lie between tokens */
    free(text);
    nb_tokenizer_close(t);
}

static void test_normalizers(void **state)
{
    nb_tokenizer *t = open_json(
        state,
        "{" LETTERS ", 'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'NFC'},"
        "{'type': 'Lowercase'}, {'type': 'Strip', 'strip_left': true, 'strip_right': true},"
        "{'type': 'Replace', 'pattern': {'Regex': '\\\\s+'}, 'content': ' '},"
        "{'type': 'Prepend', 'prepend': '-'}]}}");
    assert_ids(t, "e\u0301E\u0301", "10 4 4");
    assert_ids(t, "\u0130", "10 5 6");       /* two characters */
    assert_ids(t, "\u03a3\u03a3", "10 7 7"); /* no final sigma */
    assert_ids(t, " \u2028a\t\u3000b\x1c ", "10 1 3 2 0");
    assert_ids(t, "a\u180eb", "10 1 0 2"); /* no white space since Unicode 6.3 */
    assert_ids(t, " \n ", "");
    nb_tokenizer_close(t);
}

/* Ids do not depend on how new the Unicode libraries are. */
static void test_new_characters(void **state)
{
    nb_tokenizer *t = open_json(
        state,
        "{'model': {'type': 'BPE', 'ignore_merges': true, 'merges': [], 'vocab': {"
        "'a\U00031350b': 1, '\U000105c0': 2, '\U00010d70': 3, '\uac00\u11a7': 4,"
        "'\u1100\u0323\U00010f4b': 5}},"
        " 'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'NFC'},"
        " {'type': 'Lowercase'}]}, 'pre_tokenizer': {'type': 'Split', 'invert': true,"
        " 'behavior': 'Removed', 'pattern': {'Regex': '[\\\\p{L}]+|[^\\\\p{L}\\\\s-]+'}}}");
    assert_ids(t, "a\U00031350b-\U000105c0", "1 2");
    assert_ids(t, "\U00010d50", "3");
    nb_tokenizer_close(t);
    t = open_json(state,
                  "{'model': {'type': 'BPE', 'ignore_merges': true, 'merges': [], 'vocab': "
                  "{'\uac00\u11a7': 4, 'a\u0345\U00010f4b': 5, 'a\u0323\u0345': 6}},"
                  " 'normalizer': {'type': 'NFC'}}");
    assert_ids(t, "\u1100\u1161\u11a7", "4");
    assert_ids(t, "a\u0345\U00010f4b", "5"); /* a mark since Unicode 11: not moved */
    nb_tokenizer_close(t);
}

static void test_split_behaviors(void **state)
{
    static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious",
                                            "MergedWithNext", "Contiguous"};
    static const char *const wanted[] = {"1 1 1", "1 2 1 2 2 1", "3 3 2 1", "1 4 2 4",
                                         "1 2 1 5 1"};
    for (int i = 0; i < 5; i++) {
        char text[512];
        snprintf(
            text, sizeof text,
            "{'model': {'type': 'BPE', 'ignore_merges': true, 'merges': [], 'vocab': {'a': 1,"
            "'-': 2, 'a-': 3, '-a': 4, '--': 5}}, 'pre_tokenizer': {'type': 'Split',"
            "'pattern': {'String': '-'}, 'behavior': '%s', 'invert': false}}",
            behaviors[i]);
        nb_tokenizer *t = open_json(state, text);
        assert_ids(t, "a-a--a", wanted[i]);
        nb_tokenizer_close(t);
    }
}

static void test_byte_level(void **state)
{
    nb_tokenizer *t = open_json(
        state,
        "{'model': {'type': 'BPE', 'merges': ['\u0120 a', '\u00c3 \u00a9'], 'vocab': {'a':"
        " 1, '\u0120': 2, '\u0120a': 3, '\u00c3': 4, '\u00a9': 5, '\u00c3\u00a9': 6,"
        " '\u0100': 7}}, 'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': true},"
        " 'decoder': {'type': 'ByteLevel'}}");
    assert_ids(t, "a a  a\u00e9", "3 3 2 3 6");
    check_ids(t, "a\0", 2, NULL, "3 7");
    assert_text(t, (int32_t[]){3, 6, 4, 1}, 4, " a\u00e9\ufffda"); /* half a character */
    nb_tokenizer_close(t);
}

static void test_special_tokens_and_lengths(void **state)
{
    scratch_write_json(
        state, "tokenizer_config.json",
        "{'bos_token': {'content': '<s>'}, 'pad_token': '?', 'add_bos_token': true,"
        " 'model_max_length': 1000000000000000019884624838656}");
    nb_tokenizer *t = open_json(
        state,
        "{" LETTERS ", 'added_tokens': [{'id': 11, 'content': '<s>', 'special': true}, {'id'"
        ": 12, 'content': '</s>'}], 'post_processor': {'type': 'TemplateProcessing',"
        " 'single': [{'Sequence': {'id': 'A'}}, {'SpecialToken': {'id': 'end'}}],"
        " 'special_tokens': {'end': {'ids': [12, 10]}}}}");
    assert_int_equal(nb_tokenizer_max_length(t), 0);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_BOS), 11);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_EOS), -1);
    assert_int_equal(nb_tokenizer_token_id(t, "</s>"), 12);
    assert_ids(t, "ab", "11 1 2 12 10");
    check_ids(t, "ab", 2, &(nb_encode_args){.no_special = 1}, "1 2");
    check_ids(t, "abab", 4, &(nb_encode_args){.max_length = 5}, "11 1 2 12 10");
    check_ids(t, "a", 1, &(nb_encode_args){.max_length = 6, .pad = 1}, "11 1 12 10 0 0");
    nb_token_ids ids = {0};
    assert_ok(
        nb_tokenizer_encode(t, "abab", 4, &(nb_encode_args){.max_length = 3, .pad = 1}, &ids));
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.n_used, 3);
    assert_int_equal(ids.n_cut, 4);
    assert_fails(nb_tokenizer_encode(t, "", 0, &(nb_encode_args){.max_length = 2}, &ids),
                 NB_E_USAGE, "no room");
    nb_token_ids_fini(&ids);
    nb_tokenizer_close(t);
}

/* Is <|STARTOFTEXT|> a token? The flags of CLIP's special tokens decide, and these come from
 * wherever the folder has them. */
static void test_clip_token_flags(void **state)
{
#define TOKEN(normalized) "{'content': '<|startoftext|>', 'normalized': " normalized "}"
    static const char *const plain = "1 2 2 2 2 3 2 2 2 2 2 2 2 2 2 2 2", *const token =
                                                                              "1 1 2";
    const struct {
        const char *config, *map, *wanted;
    } cases[] = {
        {"{}", "{}", plain},
        {"{'bos_token': '<|startoftext|>'}", "{'bos_token': " TOKEN("true") "}", token},
        {"{'bos_token': '<|startoftext|>', 'added_tokens_decoder': {'1': " TOKEN("false") "}}",
         "{'bos_token': " TOKEN("true") "}", plain},
        {"{'bos_token': '<|startoftext|>', 'added_tokens_decoder': {'1': " TOKEN("true") "}}",
         "{}", token},
    };
    scratch_write_json(
        state, "vocab.json",
        "{'a</w>': 0, '<|startoftext|>': 1, '<|endoftext|>': 2, 'a': 3, '!</w>': 4}");
    scratch_write_text(scratch_path(state, "merges.txt"), "#version: 0.2\n");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scratch_write_json(state, "tokenizer_config.json", cases[i].config);
        scratch_write_json(state, "special_tokens_map.json", cases[i].map);
        nb_tokenizer *t = open_folder(*state);
        assert_ids(t, "a<|startoftext|>A a!", "1 0 1 0 0 4 2");
        assert_ids(t, "<|STARTOFTEXT|>", cases[i].wanted);
        nb_tokenizer_close(t);
    }
}

static void test_wrong_text_and_ids(void **state)
{
    static const struct {
        const char *text, *where;
    } cases[] = {{"a\xff", "byte 1 (0xFF)"},     {"\xc3", "byte 0"},
                 {"ab\xc0\xaf", "byte 2"},       {"\xed\xa0\x80", "byte 0"},
                 {"\xf4\x90\x80\x80", "byte 0"}, {"\u00e9\xe2\x82", "byte 2"},
                 {"\xf0\x9f\x99", "byte 0"},     {"a\x80", "byte 1"}};
    nb_tokenizer *t = open_json(state, "{" LETTERS "}");
    nb_token_ids ids = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_fails(nb_tokenizer_encode(t, cases[i].text, strlen(cases[i].text), NULL, &ids),
                     NB_E_DATA, cases[i].where);
    char *text;
    size_t bytes;
    assert_fails(nb_tokenizer_decode(t, (int32_t[]){11}, 1, 0, &text, &bytes), NB_E_DATA,
                 "no token with id 11");
    assert_fails(nb_tokenizer_decode(t, (int32_t[]){-1}, 1, 0, &text, &bytes), NB_E_DATA, "-1");
    nb_token_ids_fini(&ids);
    nb_tokenizer_close(t);
}

/* A megabyte of one word or of words must not take quadratic time. */
static void test_long_texts(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    static const char *const folders[] = {MODELS "dev/tokenizer", MODELS "schnell/tokenizer_2"};
    static const char *const units[] = {"a", "the cat ", "<|endoftext", "\u6f22",
                                        "\u0345\u0334"};
    char *text = malloc(BYTES + 16);
    assert_non_null(text);
    clock_t start = clock();
    for (int f = 0; f < 2; f++) {
        nb_tokenizer *t = open_folder(folders[f]);
        nb_token_ids ids = {0};
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            size_t n = 0;
            for (; n < BYTES; n += strlen(units[u]))
                memcpy(text + n, units[u], strlen(units[u]));
            assert_ok(nb_tokenizer_encode(t, text, n, NULL, &ids));
        }
        nb_token_ids_fini(&ids);
        nb_tokenizer_close(t);
    }
    assert_true((clock() - start) / CLOCKS_PER_SEC < 60); /* seconds; quadratic is hours */
    free(text);
}

static void test_small_published_forms(void **state)
{
    (void)state;
    nb_tokenizer *t = open_folder(MODELS "dev/tokenizer");
    assert_string_equal(nb_tokenizer_kind(t), "CLIP BPE");
    assert_int_equal(nb_tokenizer_max_length(t), 77);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_BOS), 672);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_PAD), 673);
    assert_ids(t, "a photo of a cat", "672 320 592 522 320 603 673");
    assert_text(t, (int32_t[]){672, 320, 592, 673}, 4, "<|startoftext|>a photo <|endoftext|>");
    check_ids(t, "a", 1, &(nb_encode_args){.max_length = 5, .pad = 1}, "672 320 673 673 673");
    nb_tokenizer_close(t);
    t = open_folder(MODELS "sharded/tokenizer_2");
    assert_string_equal(nb_tokenizer_kind(t), "Unigram");
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_PAD), 0);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_EOS), 1);
    check_ids(t, "", 0, &(nb_encode_args){.max_length = 3, .pad = 1}, "1 0 0");
    nb_tokenizer_close(t);
}

static nb_tokenizer *open_real(const char *name)
{
    const char *folder = getenv("NIBBLE_TOKENIZERS");
    if (!folder || !*folder) skip();
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return open_folder(path);
}

static void test_real_clip(void **state)
{
    (void)state;
    nb_tokenizer *t = open_real("clip");
    assert_int_equal(nb_tokenizer_vocab_size(t), 49408);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_PAD), 49407);
    assert_ids(t, "a photo of a cat", "49406 320 1125 539 320 2368 49407");
    assert_ids(t, "A cat holding a sign that says hello world",
               "49406 320 2368 5050 320 2292 682 1563 3306 1002 49407");
    assert_ids(t, "it's 1234 ... caf\u00e9!!",
               "49406 585 568 272 273 274 275 678 15304 748 49407");
    nb_tokenizer_close(t);
}

static void test_real_t5(void **state)
{
    (void)state;
    nb_tokenizer *t = open_real("t5");
    assert_int_equal(nb_tokenizer_vocab_size(t), 32100);
    assert_int_equal(nb_tokenizer_special_id(t, NB_TOKEN_PAD), 0);
    assert_ids(t, "The house is wonderful.", "37 629 19 1627 5 1");
    assert_ids(t, "A cat holding a sign that says hello world",
               "71 1712 3609 3 9 1320 24 845 21820 296 1");
    assert_ids(t, " a  b\n\nc ", "3 9 3 115 3 75 1");
    assert_ids(t, "\u6f22\u5b57 test \U0001f642 ok", "3 2 794 3 2 3 1825 1");
    assert_ids(t, "", "1");
    nb_tokenizer_close(t);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(test_bpe_merges_lowest_rank_then_leftmost),
        IN_SCRATCH(test_bpe_unknown_characters),
        IN_SCRATCH(test_bpe_prefix_and_ignore_merges),
        IN_SCRATCH(test_unigram_takes_the_best_path),
        IN_SCRATCH(test_metaspace),
        IN_SCRATCH(test_added_tokens),
        IN_SCRATCH(test_normalizers),
        IN_SCRATCH(test_new_characters),
        IN_SCRATCH(test_split_behaviors),
        IN_SCRATCH(test_byte_level),
        IN_SCRATCH(test_special_tokens_and_lengths),
        IN_SCRATCH(test_clip_token_flags),
        IN_SCRATCH(test_wrong_text_and_ids),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_small_published_forms),
        cmocka_unit_test(test_real_clip),
        cmocka_unit_test(test_real_t5),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
