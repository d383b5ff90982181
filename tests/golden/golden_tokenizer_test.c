/*
 * golden_tokenizer_test GOLDEN_DIR NAME NIBBLE: does `nibble tokenize --jsonl` give the
 * reference's token ids for all strings of GOLDEN_DIR/tokenizer/NAME.jsonl (see
 * make_tokenizer.py)? Of a T5 tokenizer both kinds: "file_ids" of its folder, and "ids" of a
 * pipeline that holds it as its tokenizer_2. A real tokenizer is looked for in the folder that
 * NIBBLE_TOKENIZERS names; skipped where it is not set.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/json.h"
#include "tests/golden/run.h"

/* The entry of index.json with that name. Borrowed from index. */
static const json_t *find(const json_t *index, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(index, i, entry)
    {
        const char *its = json_string_value(json_object_get(entry, "name"));
        if (its != NULL && strcmp(its, name) == 0) return entry;
    }
    run_die("index.json has no %s", name);
}

/* Absolute; the caller frees it. */
static char *tokenizer_folder(const json_t *entry, const char *dir)
{
    const char *folder = json_string_value(json_object_get(entry, "folder"));
    if (folder == NULL) run_die("index.json: an entry has no folder");
    if (!json_is_true(json_object_get(entry, "real")))
        return run_text("%s/tokenizer/%s", dir, folder);
    const char *real = getenv("NIBBLE_TOKENIZERS");
    if (real == NULL || real[0] == '\0') {
        printf("SKIP: NIBBLE_TOKENIZERS is not set\n");
        exit(RUN_SKIP);
    }
    return run_text("%s/%s", real, folder);
}

/* Line by line: the object of a string, its text alone goes to `out`. Returns an array of them.
 */
static json_t *read_strings(const char *path, const char *out)
{
    char *text = run_read(path);
    FILE *f = fopen(out, "wb");
    json_t *all = json_array();
    if (f == NULL || all == NULL) run_die("%s: cannot be written", out);
    for (char *line = text, *end; *line != '\0'; line = end + 1) {
        end = line + strcspn(line, "\n");
        json_t *object = NULL;
        if (nb_json_parse(path, line, (size_t)(end - line), &object) != NB_OK)
            run_die("%s", nb_error_message());
        const json_t *string = json_object_get(object, "text");
        if (!json_is_string(string)) run_die("%s: a line has no text", path);
        if (json_dumpf(string, f, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) != 0 ||
            fputc('\n', f) == EOF)
            run_die("%s: cannot be written", out);
        json_array_append_new(all, object);
        if (*end == '\0') break;
    }
    if (fclose(f) != 0 || json_array_size(all) == 0) run_die("%s: holds nothing", path);
    free(text);
    return all;
}

static void print_mismatch(const json_t *object, const json_t *want, const char *got,
                           size_t bytes)
{
    char *text =
        json_dumps(json_object_get(object, "text"), JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    char *ids = json_dumps(want, JSON_COMPACT);
    printf("FAIL %s\n     wanted %s\n     got    %.*s\n", text, ids, (int)bytes, got);
    free(ids);
    free(text);
}

/* Compares the program's lines with the strings' ids, those under `key` where there are such;
 * returns how many are wrong or missing. */
static int compare(const json_t *strings, const char *key, const char *output)
{
    int n_wrong = 0;
    size_t i;
    json_t *object;
    json_array_foreach(strings, i, object)
    {
        const json_t *want = json_object_get(object, key);
        if (want == NULL) want = json_object_get(object, "ids");
        size_t bytes = strcspn(output, "\n");
        json_t *got = json_loadb(output, bytes, 0, NULL);
        if (!json_is_array(want) || !json_equal(got, want)) {
            print_mismatch(object, want, output, bytes);
            n_wrong++;
        }
        json_decref(got);
        output += bytes + (output[bytes] == '\n');
    }
    if (*output != '\0') printf("FAIL: more lines than strings\n");
    return n_wrong + (*output != '\0');
}

/* A pipeline's folder in `temp`, whose tokenizer_2 is `folder`; the caller frees it. */
static char *make_pipeline(const char *temp, const char *folder)
{
    char *index = run_text("%s/model_index.json", temp);
    char *part = run_text("%s/tokenizer_2", temp);
    FILE *f = fopen(index, "wb");
    if (f == NULL || fputs("{}\n", f) == EOF || fclose(f) != 0 || symlink(folder, part) != 0)
        run_die("%s: no pipeline can be made there", temp);
    free(index);
    free(part);
    return run_text("%s", temp);
}

/* Runs the program over the strings in the file `in`; returns how many are wrong. */
static int check(const char *nibble, const char *folder, const char *part,
                 const json_t *strings, const char *key, const char *in)
{
    char *out = run_text("%s.out", in);
    const char *const args[] = {nibble,    "tokenize", "-m", folder,
                                "--jsonl", "--part",   part, NULL};
    int status = run_program(args, in, out);
    char *output = run_read(out);
    int n_wrong = compare(strings, key, output);
    printf("%s: %zu strings, %d wrong; nibble ended with %d\n", key, json_array_size(strings),
           n_wrong, status);
    free(output);
    free(out);
    return n_wrong + (status != 0);
}

int main(int argc, char **argv)
{
    if (argc != 4) run_die("usage: golden_tokenizer_test GOLDEN_DIR NAME NIBBLE");
    const char *dir = argv[1], *name = argv[2], *nibble = argv[3];
    char *index_path = run_text("%s/tokenizer/index.json", dir);
    json_t *index = NULL;
    if (nb_json_load(index_path, &index) != NB_OK) run_die("%s", nb_error_message());
    const json_t *entry = find(index, name);
    char *folder = tokenizer_folder(entry, dir), *temp = run_temp_folder();
    char *strings_path = run_text("%s/tokenizer/%s.jsonl", dir, name);
    char *in = run_text("%s/in", temp);

    json_t *strings = read_strings(strings_path, in);
    int n_wrong = check(nibble, folder, "tokenizer", strings, "file_ids", in);
    if (json_is_true(json_object_get(entry, "t5"))) {
        char *pipeline = make_pipeline(temp, folder);
        n_wrong += check(nibble, pipeline, "tokenizer_2", strings, "ids", in);
        free(pipeline);
    }

    run_remove_folder(temp);
    json_decref(strings);
    free(in);
    free(strings_path);
    free(temp);
    free(folder);
    json_decref(index);
    free(index_path);
    return n_wrong == 0 ? 0 : 1;
}
