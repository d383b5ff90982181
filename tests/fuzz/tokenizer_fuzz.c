/*
 * The readers of tokenizers, and what they have read at work. The first byte of an input says
 * which files the rest is, with a NUL between two:
 *
 *     j    tokenizer.json, a text
 *     c    vocab.json, merges.txt, a text
 *     s    spiece.model
 *     t    tokenizer_config.json, special_tokens_map.json, beside a small tokenizer.json
 *
 * Each refuses with a sentence, or gives ids that it has tokens for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fuzz/target.h"
#include "text/tokenizer.h"

static const char *const names[] = {"tokenizer.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "spiece.model",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json"};
enum { JSON, VOCAB, MERGES, SPIECE, CONFIG, MAP, N_FILES };

static const char small[] =
    "{\"added_tokens\":[{\"id\":2,\"content\":\"<s>\",\"special\":true}],\"model\":{\"type\":"
    "\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"<s>\",-2]]}}";

static char folder[] = "/tmp/nibble-fuzz-XXXXXX";

static const char *path_of(int file)
{
    static char path[sizeof folder + 32];
    snprintf(path, sizeof path, "%s/%s", folder, names[file]);
    return path;
}

static void remove_files(void)
{
    for (int i = 0; i < N_FILES; i++) unlink(path_of(i));
}

static void remove_folder(void)
{
    remove_files();
    rmdir(folder);
}

static void write_file(int file, const void *data, size_t bytes)
{
    FILE *f = fopen(path_of(file), "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) abort();
}

/* The part before the next NUL, and *data, *size go behind it. */
static size_t part(const char **data, size_t *size, const char **out)
{
    const char *end = memchr(*data, 0, *size);
    size_t bytes = end ? (size_t)(end - *data) : *size, step = bytes + (end != NULL);
    *out = *data;
    *data += step;
    *size -= step;
    return bytes;
}

static void write_part(int file, const char **data, size_t *size)
{
    const char *start;
    size_t bytes = part(data, size, &start);
    write_file(file, start, bytes);
}

/* 0: no such form. */
static int write_files(char form, const char **data, size_t *size)
{
    switch (form) {
    case 'j':
        write_part(JSON, data, size);
        return 1;
    case 'c':
        write_part(VOCAB, data, size);
        write_part(MERGES, data, size);
        return 1;
    case 's':
        write_file(SPIECE, *data, *size);
        *size = 0;
        return 1;
    case 't':
        write_file(JSON, small, sizeof small - 1);
        write_part(CONFIG, data, size);
        write_part(MAP, data, size);
        return 1;
    default:
        return 0;
    }
}

static void encode(const nb_tokenizer *t, const char *text, size_t bytes)
{
    nb_token_ids ids = {0};
    char *back;
    size_t n;
    if (!nb_tokenizer_encode(t, text, bytes, &(nb_encode_args){.max_length = 77}, &ids)) {
        if (ids.n > 77) abort();
        for (int64_t i = 0; i < ids.n; i++)
            if (!nb_tokenizer_token(t, ids.ids[i], &n)) abort();
        if (!nb_tokenizer_decode(t, ids.ids, ids.n, 0, &back, &n)) free(back);
    }
    nb_token_ids_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char known[] =
        "  A cat's </s>b<s> \xc2\x85x  1234 \xe2\x96\x81\xf0\x9f\x99\x82";
    static int ready;
    const char *rest = (const char *)data + 1;
    nb_tokenizer *t;
    if (!ready) {
        if (!mkdtemp(folder)) abort();
        atexit(remove_folder);
        ready = 1;
    }
    if (!size--) return 0;
    remove_files();
    if (!write_files((char)data[0], &rest, &size) || nb_tokenizer_open(folder, &t)) return 0;
    encode(t, known, sizeof known - 1);
    encode(t, rest, size);
    nb_tokenizer_close(t);
    return 0;
}
