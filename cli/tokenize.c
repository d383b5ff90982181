/*
 * nibble tokenize: text to token ids and back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "cli/prompt.h"
#include "kernels/base/file.h"
#include "text/tokenizer.h"

struct tokenize_options {
    nb_common_options common;
    const char *model, *prompt, *prompt_file, *ids;
    int part, jsonl, special;
};

#define AT(field) offsetof(struct tokenize_options, field)

static const char *const parts[] = {"tokenizer", "tokenizer_2"};
enum { TOKENIZER_2 = 1 };

static const nb_option options[] = {
    {.name = "model",
     .letter = 'm',
     .type = NB_OPTION_STRING,
     .value = "MODEL",
     .offset = AT(model),
     .help = "a folder with tokenizer.json, or vocab.json and merges.txt, or\n"
             "spiece.model; or a whole pipeline; default: the demo's"},
    {.name = "part",
     .type = NB_OPTION_CHOICE,
     .value = "tokenizer|tokenizer_2",
     .offset = AT(part),
     .fallback = "tokenizer",
     .help = "which one of a FLUX.1 pipeline: CLIP's or T5's"},
    {.name = "prompt",
     .letter = 'p',
     .type = NB_OPTION_STRING,
     .value = "TEXT",
     .offset = AT(prompt),
     .help = "the text, in place of WORDS; - reads it from stdin"},
    {.name = "prompt-file",
     .letter = 'f',
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(prompt_file),
     .help = "a file that holds the text; newlines at its end do not count"},
    {.name = "ids",
     .type = NB_OPTION_STRING,
     .value = "1,2,3",
     .offset = AT(ids),
     .help = "print the text of these ids"},
    {.name = "jsonl",
     .type = NB_OPTION_FLAG,
     .offset = AT(jsonl),
     .help = "read a JSON value a line from stdin, print one for each: a\n"
             "string gives its ids, an array of ids gives its text"},
    {.name = "special",
     .type = NB_OPTION_FLAG,
     .offset = AT(special),
     .fallback = "yes",
     .help = "leave out what the tokenizer puts before and behind the text"},
};

/* The folder of the tokenizer that -m and --part name. The caller frees *out. *in_pipeline: it
 * is one of a pipeline's two. */
static nb_status find_folder(const struct tokenize_options *o, char **out, int *in_pipeline)
{
    char *model;
    NB_TRY(nb_model_resolve(o->model, &model));
    char *index = nb_path_join(model, "model_index.json");
    char *part = nb_path_join(model, parts[o->part]);
    nb_status status = NB_OK;
    if (!index || !part) {
        status = nb_fail(NB_E_SYSTEM, "out of memory for a path");
    } else if (!nb_file_is_directory(model)) {
        status =
            nb_fail(NB_E_NOINPUT, "%s: wanted a folder with a tokenizer, found a file", model);
    } else if (nb_file_exists(index)) {
        *out = part;
        *in_pipeline = 1;
        part = NULL;
    } else {
        *out = model;
        model = NULL;
    }
    free(index);
    free(part);
    free(model);
    return status;
}

static json_t *ids_json(const nb_token_ids *ids)
{
    json_t *array = json_array();
    for (int64_t i = 0; i < ids->n; i++)
        if (json_array_append_new(array, json_integer(ids->ids[i]))) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static nb_status print_ids(const struct tokenize_options *o, const nb_token_ids *ids)
{
    if (o->common.json) return nb_print_json(ids_json(ids));
    for (int64_t i = 0; i < ids->n; i++) printf(i ? " %d" : "%d", (int)ids->ids[i]);
    putchar('\n');
    return nb_stdout_flush();
}

static nb_status tokenize_prompt(const struct tokenize_options *o, const nb_parsed *parsed,
                                 const nb_tokenizer *t)
{
    const nb_encode_args args = {.no_special = !o->special};
    nb_token_ids ids = {0};
    char *prompt;
    NB_TRY(nb_prompt_read(parsed, o->prompt, o->prompt_file, &prompt));
    nb_status status = nb_tokenizer_encode(t, prompt, strlen(prompt), &args, &ids);
    if (status == NB_OK) status = print_ids(o, &ids);
    free(prompt);
    nb_token_ids_fini(&ids);
    return status;
}

/* Ids separated by commas or blanks. The caller frees *out. */
static nb_status parse_ids(const char *text, int32_t **out, int64_t *n)
{
    int32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    if (!ids) return nb_fail(NB_E_SYSTEM, "out of memory for ids");
    *n = 0;
    for (const char *at = text; *(at += strspn(at, ", ")) != '\0';) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || !strchr(", ", *end)) {
            free(ids);
            return nb_fail(NB_E_USAGE, "--ids: wanted ids like 1,2,3, found \"%.40s\"", at);
        }
        ids[(*n)++] = (int32_t)id;
        at = end;
    }
    *out = ids;
    return NB_OK;
}

static nb_status text_json(const nb_tokenizer *t, const int32_t *ids, int64_t n, json_t **out)
{
    char *text;
    size_t bytes;
    NB_TRY(nb_tokenizer_decode(t, ids, n, 0, &text, &bytes));
    *out = json_stringn(text, bytes);
    free(text);
    return NB_OK;
}

static nb_status print_text(const struct tokenize_options *o, const nb_tokenizer *t)
{
    int32_t *ids = NULL;
    int64_t n = 0;
    char *text;
    size_t bytes;
    NB_TRY(parse_ids(o->ids, &ids, &n));
    nb_status status = nb_tokenizer_decode(t, ids, n, 0, &text, &bytes);
    free(ids);
    if (status != NB_OK) return status;
    if (o->common.json) {
        json_t *json = json_stringn(text, bytes);
        free(text);
        return nb_print_json(json);
    }
    fwrite(text, 1, bytes, stdout);
    putchar('\n');
    free(text);
    return nb_stdout_flush();
}

static nb_status answer_array(const nb_tokenizer *t, const json_t *value, json_t **out)
{
    size_t n = json_array_size(value);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (!ids) return nb_fail(NB_E_SYSTEM, "out of memory for %zu ids", n);
    nb_status status = NB_OK;
    for (size_t i = 0; i < n && status == NB_OK; i++) {
        const json_t *item = json_array_get(value, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id > INT32_MAX)
            status = nb_fail(NB_E_DATA, "item %zu of the array is not a token id", i);
        else
            ids[i] = (int32_t)id;
    }
    if (status == NB_OK) status = text_json(t, ids, (int64_t)n, out);
    free(ids);
    return status;
}

/* What one line's value becomes. */
static nb_status answer(const struct tokenize_options *o, const nb_tokenizer *t,
                        const json_t *value, nb_token_ids *ids, json_t **out)
{
    const nb_encode_args args = {.no_special = !o->special};
    if (json_is_array(value)) return answer_array(t, value, out);
    if (json_object_get(value, "messages"))
        return nb_fail(NB_E_UNAVAILABLE, "chat templates are not there yet");
    if (!json_is_string(value)) return nb_fail(NB_E_DATA, "wanted a string or an array of ids");
    NB_TRY(nb_tokenizer_encode(t, json_string_value(value), json_string_length(value), &args,
                               ids));
    *out = ids_json(ids);
    return NB_OK;
}

static nb_status answer_line(const struct tokenize_options *o, const nb_tokenizer *t,
                             const char *line, size_t n, nb_token_ids *ids)
{
    json_error_t error;
    json_t *value = json_loadb(line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error), *out = NULL;
    if (!value)
        return nb_fail(NB_E_DATA, "not valid JSON: column %d: %s", error.column, error.text);
    nb_status status = answer(o, t, value, ids, &out);
    json_decref(value);
    return status == NB_OK ? nb_print_json(out) : status;
}

static nb_status tokenize_lines(const struct tokenize_options *o, const nb_tokenizer *t)
{
    char *line = NULL;
    size_t capacity = 0;
    nb_token_ids ids = {0};
    nb_status status = NB_OK;
    ssize_t n;
    for (int64_t i = 1; status == NB_OK && (n = getline(&line, &capacity, stdin)) >= 0; i++) {
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        status = answer_line(o, t, line, (size_t)n, &ids);
        if (status != NB_OK) nb_fail_context(status, "stdin, line %lld", (long long)i);
    }
    if (status == NB_OK && ferror(stdin))
        status = nb_fail(NB_E_IO, "stdin: cannot be read: %s", strerror(errno));
    free(line);
    nb_token_ids_fini(&ids);
    return status;
}

static nb_status run(void *values, const nb_parsed *parsed)
{
    const struct tokenize_options *o = values;
    int has_text = parsed->n_words || nb_parsed_source(parsed, "prompt") == NB_FROM_ARGV ||
                   nb_parsed_source(parsed, "prompt-file") == NB_FROM_ARGV;
    if ((o->ids != NULL) + o->jsonl + has_text > 1)
        return nb_fail(NB_E_USAGE, "tokenize: wanted one of a text, --ids and --jsonl");
    char *folder = NULL;
    int in_pipeline = 0;
    nb_tokenizer *t;
    NB_TRY(find_folder(o, &folder, &in_pipeline));
    nb_status status = in_pipeline && o->part == TOKENIZER_2 ? nb_tokenizer_open_t5(folder, &t)
                                                             : nb_tokenizer_open(folder, &t);
    free(folder);
    if (status != NB_OK) return status;
    nb_console_say(o->common.console, NB_LOG_DEBUG, "%s from %s, %lld tokens",
                   nb_tokenizer_kind(t), nb_tokenizer_path(t),
                   (long long)nb_tokenizer_vocab_size(t));
    status = o->jsonl ? tokenize_lines(o, t)
             : o->ids ? print_text(o, t)
                      : tokenize_prompt(o, parsed, t);
    nb_tokenizer_close(t);
    return status;
}

const nb_command nb_command_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids and back",
    .usage = "[WORDS...]",
    .about =
        "Ids are those of the Hugging Face tokenizers library, special tokens included.\n"
        "The folder of a FLUX.1 pipeline holds two tokenizers; --part names one, and the\n"
        "ids are those that a picture is drawn from. Elsewhere tokenizer.json is the truth.\n",
    .examples = "nibble tokenize a red circle\n"
                "nibble tokenize --part tokenizer_2 -p \"a red circle\"\n"
                "nibble tokenize -m ~/models/DeepSeek-R1 --jsonl < texts.jsonl\n"
                "nibble tokenize --ids 49406,320,2368,49407 -m ~/models/clip\n",
    .groups = {{"Text", options, NB_COUNT(options)}, NB_MESSAGE_GROUP},
    .bytes = sizeof(struct tokenize_options),
    .run = run,
};
