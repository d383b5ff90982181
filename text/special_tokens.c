#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "text/tokenizer_parts.h"

static const char *const NAMES[NB_N_SPECIAL_TOKENS] = {
    [NB_TOKEN_BOS] = "bos_token",
    [NB_TOKEN_EOS] = "eos_token",
    [NB_TOKEN_PAD] = "pad_token",
    [NB_TOKEN_UNK] = "unk_token",
};

static const double NO_LENGTH = 1e15; /* transformers writes 1e30 for "none" */

/* Integers are read as reals: model_max_length may be 1000000000000000019884624838656, which
 * is more than jansson's integers hold. */
static nb_status load_object(const char *path, json_t **out)
{
    json_error_t error;
    nb_buffer *file;
    NB_TRY(nb_file_map(path, &file));
    const char *text = nb_buffer_data(file);
    json_t *root = json_loadb(text ? text : "", nb_buffer_bytes(file),
                              JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    nb_buffer_unref(file);
    if (!root)
        return nb_fail(NB_E_DATA, "%s: not valid JSON: line %d, column %d: %s", path,
                       error.line, error.column, error.text);
    *out = root;
    return json_is_object(root) ? NB_OK : nb_fail(NB_E_DATA, "%s: not a JSON object", path);
}

/* An object, an empty one if there is no such file. *path is the caller's in any case. */
static nb_status load(const char *dir, const char *name, char **path, json_t **out)
{
    *path = nb_path_join(dir, name);
    if (!*path) return nb_fail(NB_E_SYSTEM, "out of memory for a path");
    if (nb_file_exists(*path)) return load_object(*path, out);
    *out = json_object();
    return *out ? NB_OK : nb_fail(NB_E_SYSTEM, "out of memory for a configuration");
}

/* The value of "bos_token" and its like: a string, or an object with the content. As
 * transformers has it, the map counts only where the configuration has no added_tokens_decoder,
 * but then first. */
static const json_t *token_value(const nb_special_tokens *s, const char *key)
{
    int has_decoder = json_object_get(s->config, "added_tokens_decoder") != NULL;
    const json_t *value = json_object_get(has_decoder ? s->config : s->map, key);
    if (!json_is_string(value) && !json_is_object(value))
        value = json_object_get(has_decoder ? s->map : s->config, key);
    return value;
}

static const char *token_content(const json_t *value)
{
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static nb_status read_config(nb_special_tokens *s)
{
    double length, extra;
    NB_TRY(nb_json_get_real(s->config_path, s->config, "model_max_length", 0, -1e300, 1e300,
                            &length));
    s->max_length = length >= 1 && length < NO_LENGTH ? (int64_t)length : 0;
    NB_TRY(nb_json_get_bool(s->config_path, s->config, "add_bos_token", 0, &s->add_bos));
    NB_TRY(nb_json_get_real(s->config_path, s->config, "extra_ids", 100, 0, 10000, &extra));
    s->extra_ids = (int)extra;
    for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++)
        s->names[i] = token_content(token_value(s, NAMES[i]));
    return NB_OK;
}

nb_status nb_special_tokens_load(const char *dir, nb_special_tokens *out)
{
    nb_special_tokens s = {0};
    char *map_path = NULL;
    nb_status status = load(dir, "tokenizer_config.json", &s.config_path, &s.config);
    if (status == NB_OK) status = load(dir, "special_tokens_map.json", &map_path, &s.map);
    if (status == NB_OK) status = read_config(&s);
    free(map_path);
    if (status != NB_OK)
        nb_special_tokens_fini(&s);
    else
        *out = s;
    return status;
}

void nb_special_tokens_fini(nb_special_tokens *s)
{
    free(s->config_path);
    json_decref(s->config);
    json_decref(s->map);
    *s = (nb_special_tokens){0};
}

/* A token of the configuration; id -1: only if the vocabulary has it. */
static nb_status add(const nb_special_tokens *s, nb_tokenizer *t, const json_t *value,
                     int32_t id)
{
    const char *content = token_content(value);
    if (!content) return NB_OK;
    nb_added_token token = {.id = id, .special = 1};
    if (json_is_object(value)) NB_TRY(nb_added_token_read_flags(s->config_path, value, &token));
    if (id < 0 && nb_vocab_find(&t->vocab, content, strlen(content)) < 0) return NB_OK;
    NB_TRY(nb_str_append(&token.content, content, strlen(content)));
    nb_status status = nb_added_tokens_add(&t->added, &t->vocab, &token);
    nb_str_fini(&token.content);
    return status;
}

nb_status nb_special_tokens_add(const nb_special_tokens *s, nb_tokenizer *t)
{
    const json_t *decoder = json_object_get(s->config, "added_tokens_decoder");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)decoder, key, value)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id > NB_ID_MAX || !json_is_object(value))
            return nb_fail(NB_E_DATA, "%s: added_tokens_decoder: \"%.80s\" is not an id",
                           s->config_path, key);
        NB_TRY(add(s, t, value, (int32_t)id));
    }
    /* Of two values with the same content the plain string counts. */
    for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++)
        if (json_is_string(token_value(s, NAMES[i])))
            NB_TRY(add(s, t, token_value(s, NAMES[i]), -1));
    for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++)
        NB_TRY(add(s, t, token_value(s, NAMES[i]), -1));
    return NB_OK;
}

void nb_special_tokens_resolve(const nb_special_tokens *s, nb_tokenizer *t)
{
    for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++)
        if (s->names[i]) t->special[i] = nb_tokenizer_token_id(t, s->names[i]);
    t->max_length = s->max_length;
}
