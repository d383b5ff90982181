#include <string.h>

#include "kernels/base/json.h"
#include "text/tokenizer_parts.h"

nb_status nb_tokenizer_read_pipeline(nb_tokenizer *t, const json_t *root)
{
    NB_TRY(nb_normalizer_read(t->path, json_object_get(root, "normalizer"), &t->normalizer));
    NB_TRY(nb_pretokenizer_read(t->path, json_object_get(root, "pre_tokenizer"),
                                &t->pretokenizer));
    return nb_token_decoder_read(t->path, json_object_get(root, "decoder"), &t->decoder);
}

nb_status nb_tokenizer_set_pipeline(nb_tokenizer *t, const char *json)
{
    json_t *root;
    NB_TRY(nb_json_parse(t->path, json, strlen(json), &root));
    nb_status status = nb_tokenizer_read_pipeline(t, root);
    json_decref(root);
    return status;
}

nb_status nb_tokenizer_read_vocab(nb_tokenizer *t, const json_t *object)
{
    const char *piece;
    json_t *id;
    if (!json_is_object(object) || json_object_size(object) == 0)
        return nb_fail(NB_E_DATA, "%s: the vocabulary is not an object of tokens and ids",
                       t->path);
    json_object_foreach((json_t *)object, piece, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > NB_ID_MAX)
            return nb_fail(NB_E_DATA, "%s: vocabulary: the id of \"%.80s\" is not in 0..%d",
                           t->path, piece, NB_ID_MAX);
        nb_status status =
            nb_vocab_add(&t->vocab, (int32_t)json_integer_value(id), piece, strlen(piece));
        if (status != NB_OK) return nb_fail_context(status, "%s: vocabulary", t->path);
    }
    return NB_OK;
}

static nb_status read_added_tokens(nb_tokenizer *t, const json_t *list)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        int64_t id;
        const char *content;
        nb_added_token token = {0};
        if (!json_is_object(item))
            return nb_fail(NB_E_DATA, "%s: added_tokens: %zu is not an object", t->path, i);
        NB_TRY(nb_json_get_int(t->path, item, "id", -1, 0, NB_ID_MAX, &id));
        NB_TRY(nb_json_get_string(t->path, item, "content", "", &content));
        NB_TRY(nb_added_token_read_flags(t->path, item, &token));
        if (id < 0) return nb_fail(NB_E_DATA, "%s: added_tokens: %zu has no id", t->path, i);
        token.id = (int32_t)id;
        NB_TRY(nb_str_append(&token.content, content, strlen(content)));
        nb_status status = nb_added_tokens_add(&t->added, &t->vocab, &token);
        nb_str_fini(&token.content);
        if (status != NB_OK) return nb_fail_context(status, "%s: added_tokens", t->path);
    }
    return NB_OK;
}

/* A merge is "left right" or ["left", "right"]. */
static nb_status read_merge(nb_tokenizer *t, const json_t *item, size_t i)
{
    const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
    if (json_is_array(item) && json_array_size(item) == 2 && json_is_string(left) &&
        json_is_string(right))
        return nb_bpe_add_merge(t->bpe, json_string_value(left), json_string_length(left),
                                json_string_value(right), json_string_length(right));
    const char *line = json_string_value(item);
    const char *blank = line ? strchr(line, ' ') : NULL;
    if (!blank || strchr(blank + 1, ' '))
        return nb_fail(NB_E_DATA, "merge %zu is not \"left right\"", i);
    return nb_bpe_add_merge(t->bpe, line, (size_t)(blank - line), blank + 1, strlen(blank + 1));
}

static nb_status read_bpe(nb_tokenizer *t, const json_t *model)
{
    nb_bpe_args args = {.unk_id = -1};
    const char *unk;
    double dropout;
    NB_TRY(nb_json_get_string(t->path, model, "unk_token", NULL, &unk));
    NB_TRY(nb_json_get_string(t->path, model, "continuing_subword_prefix", "", &args.prefix));
    NB_TRY(nb_json_get_string(t->path, model, "end_of_word_suffix", "", &args.suffix));
    NB_TRY(nb_json_get_bool(t->path, model, "fuse_unk", 0, &args.fuse_unk));
    NB_TRY(nb_json_get_bool(t->path, model, "byte_fallback", 0, &args.byte_fallback));
    NB_TRY(nb_json_get_bool(t->path, model, "ignore_merges", 0, &args.ignore_merges));
    NB_TRY(nb_json_get_real(t->path, model, "dropout", 0, 0, 1, &dropout));
    if (dropout > 0)
        return nb_fail(NB_E_DATA, "%s: model: dropout %g would make ids random", t->path,
                       dropout);
    if (unk) {
        args.unk_id = nb_vocab_find(&t->vocab, unk, strlen(unk));
        if (args.unk_id < 0)
            return nb_fail(NB_E_DATA, "%s: model: unk_token \"%.80s\" is not in the vocabulary",
                           t->path, unk);
    }
    NB_TRY(nb_bpe_create(&t->vocab, &args, &t->bpe));
    NB_TRY(nb_str_append(&t->word_suffix, args.suffix, strlen(args.suffix)));
    const json_t *merges = json_object_get(model, "merges"), *item;
    if (!json_is_array(merges))
        return nb_fail(NB_E_DATA, "%s: model: no list of merges", t->path);
    size_t i;
    json_array_foreach(merges, i, item)
    {
        nb_status status = read_merge(t, item, i);
        if (status != NB_OK) return nb_fail_context(status, "%s", t->path);
    }
    t->kind = args.suffix[0] ? "CLIP BPE" : "BPE";
    return NB_OK;
}

static nb_status read_unigram(nb_tokenizer *t, const json_t *model)
{
    const json_t *list = json_object_get(model, "vocab"), *item;
    size_t n = json_array_size(list), i;
    int64_t unk_id;
    int byte_fallback;
    if (n == 0 || n > NB_ID_MAX)
        return nb_fail(NB_E_DATA, "%s: model: no list of pieces and scores", t->path);
    NB_TRY(nb_json_get_int(t->path, model, "unk_id", -1, 0, NB_ID_MAX, &unk_id));
    NB_TRY(nb_json_get_bool(t->path, model, "byte_fallback", 0, &byte_fallback));
    nb_str scores = {0}; /* of doubles */
    nb_status status = NB_OK;
    json_array_foreach(list, i, item)
    {
        const json_t *piece = json_array_get(item, 0), *score = json_array_get(item, 1);
        double value = json_number_value(score);
        if (!json_is_string(piece) || !json_is_number(score))
            status = nb_fail(NB_E_DATA, "piece %zu is not [text, score]", i);
        else
            status = nb_vocab_add(&t->vocab, (int32_t)i, json_string_value(piece),
                                  json_string_length(piece));
        if (status == NB_OK) status = nb_str_append(&scores, (char *)&value, sizeof value);
        if (status != NB_OK) break;
    }
    if (status == NB_OK)
        status = nb_unigram_create(&t->vocab, (const double *)(void *)scores.data,
                                   (int32_t)unk_id, byte_fallback, &t->unigram);
    nb_str_fini(&scores);
    t->kind = "Unigram";
    return status == NB_OK ? NB_OK : nb_fail_context(status, "%s: model", t->path);
}

static nb_status append_id(const nb_tokenizer *t, nb_affix *affix, int64_t id)
{
    if (affix->n == NB_MAX_AFFIX)
        return nb_fail(NB_E_DATA, "%s: post_processor: more than %d tokens", t->path,
                       NB_MAX_AFFIX);
    size_t bytes;
    if (id < 0 || id > NB_ID_MAX || !nb_vocab_piece(&t->vocab, (int32_t)id, &bytes))
        return nb_fail(NB_E_DATA, "%s: post_processor: id %lld is not in the vocabulary of %d",
                       t->path, (long long)id, (int)t->vocab.n_ids);
    affix->ids[affix->n++] = (int32_t)id;
    return NB_OK;
}

/* {"id": name} of a template: the ids that "special_tokens" gives to the name. */
static nb_status append_template_token(const nb_tokenizer *t, const json_t *post,
                                       const json_t *token, nb_affix *affix)
{
    const char *name;
    NB_TRY(nb_json_get_string(t->path, token, "id", "", &name));
    const json_t *entry = json_object_get(json_object_get(post, "special_tokens"), name);
    int64_t ids[NB_MAX_AFFIX];
    int n;
    NB_TRY(nb_json_get_ints(t->path, entry, "ids", 0, NB_ID_MAX, ids, NB_MAX_AFFIX, &n));
    if (n < 0)
        return nb_fail(NB_E_DATA, "%s: post_processor: special_tokens has no \"%.80s\"",
                       t->path, name);
    for (int i = 0; i < n; i++) NB_TRY(append_id(t, affix, ids[i]));
    return NB_OK;
}

static nb_status read_template(const nb_tokenizer *t, const json_t *post, nb_affix *prefix,
                               nb_affix *suffix)
{
    const json_t *single = json_object_get(post, "single"), *item;
    size_t i;
    int n_texts = 0;
    json_array_foreach(single, i, item)
    {
        const json_t *token = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence"))
            n_texts++;
        else if (token)
            NB_TRY(append_template_token(t, post, token, n_texts ? suffix : prefix));
        else
            return nb_fail(NB_E_DATA,
                           "%s: post_processor: item %zu of the template is neither "
                           "Sequence nor SpecialToken",
                           t->path, i);
    }
    if (n_texts != 1)
        return nb_fail(NB_E_DATA, "%s: post_processor: the template holds the text %d times",
                       t->path, n_texts);
    return NB_OK;
}

/* Puts `outer` before or behind what is there. */
static nb_status wrap(const nb_tokenizer *t, nb_affix *affix, const nb_affix *outer, int before)
{
    nb_affix both = before ? *outer : *affix;
    const nb_affix *rest = before ? affix : outer;
    for (int i = 0; i < rest->n; i++) NB_TRY(append_id(t, &both, rest->ids[i]));
    *affix = both;
    return NB_OK;
}

static nb_status read_post_processor(nb_tokenizer *t, const json_t *post, int depth)
{
    const char *type;
    if (post == NULL || json_is_null(post)) return NB_OK;
    if (!json_is_object(post))
        return nb_fail(NB_E_DATA, "%s: a post_processor is not an object", t->path);
    NB_TRY(nb_json_get_string(t->path, post, "type", "", &type));
    if (!strcmp(type, "ByteLevel")) return NB_OK; /* moves offsets only */
    if (!strcmp(type, "Sequence") && depth < 4) {
        const json_t *list = json_object_get(post, "processors"), *item;
        size_t i;
        json_array_foreach(list, i, item) NB_TRY(read_post_processor(t, item, depth + 1));
        return NB_OK;
    }
    nb_affix prefix = {0}, suffix = {0};
    if (!strcmp(type, "TemplateProcessing")) {
        NB_TRY(read_template(t, post, &prefix, &suffix));
    } else if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing")) {
        const json_t *cls = json_array_get(json_object_get(post, "cls"), 1);
        const json_t *sep = json_array_get(json_object_get(post, "sep"), 1);
        if (!json_is_integer(cls) || !json_is_integer(sep))
            return nb_fail(NB_E_DATA, "%s: post_processor %s has no cls and sep", t->path,
                           type);
        NB_TRY(append_id(t, &prefix, json_integer_value(cls)));
        NB_TRY(append_id(t, &suffix, json_integer_value(sep)));
    } else {
        return nb_fail(NB_E_DATA, "%s: post_processor type \"%.80s\" is not known to nibble",
                       t->path, type);
    }
    NB_TRY(wrap(t, &t->prefix, &prefix, 1));
    return wrap(t, &t->suffix, &suffix, 0);
}

static nb_status read_root(nb_tokenizer *t, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    const char *type;
    if (!json_is_object(model)) return nb_fail(NB_E_DATA, "%s: there is no model", t->path);
    /* Old files have no type. */
    NB_TRY(nb_json_get_string(t->path, model, "type",
                              json_object_get(model, "merges") ? "BPE" : "Unigram", &type));
    int is_bpe = !strcmp(type, "BPE");
    if (!is_bpe && strcmp(type, "Unigram"))
        return nb_fail(NB_E_DATA, "%s: model type \"%.80s\" is not known to nibble", t->path,
                       type);
    NB_TRY(is_bpe ? nb_tokenizer_read_vocab(t, json_object_get(model, "vocab"))
                  : read_unigram(t, model));
    NB_TRY(read_added_tokens(t, json_object_get(root, "added_tokens")));
    if (is_bpe) NB_TRY(read_bpe(t, model));
    NB_TRY(nb_tokenizer_read_pipeline(t, root));
    return read_post_processor(t, json_object_get(root, "post_processor"), 0);
}

/* tokenizer_config.json may ask for a BOS that the post-processor does not give. */
static nb_status add_bos(nb_tokenizer *t, const nb_special_tokens *special)
{
    const char *name = special->names[NB_TOKEN_BOS];
    if (!special->add_bos || !name) return NB_OK;
    int32_t bos = nb_tokenizer_token_id(t, name);
    if (bos < 0)
        return nb_fail(NB_E_DATA, "%s: bos_token \"%.80s\" is not in the vocabulary of %s",
                       special->config_path, name, t->path);
    if (t->prefix.n && t->prefix.ids[0] == bos) return NB_OK;
    nb_affix prefix = {.ids = {bos}, .n = 1};
    return wrap(t, &t->prefix, &prefix, 1);
}

/* What transformers' classes take where no file names the special tokens. */
static void set_default_special(nb_tokenizer *t)
{
    static const char *const unigram[] = {[NB_TOKEN_BOS] = "<s>",
                                          [NB_TOKEN_EOS] = "</s>",
                                          [NB_TOKEN_PAD] = "<pad>",
                                          [NB_TOKEN_UNK] = "<unk>"};
    static const char *const clip[] = {[NB_TOKEN_BOS] = "<|startoftext|>",
                                       [NB_TOKEN_EOS] = "<|endoftext|>",
                                       [NB_TOKEN_PAD] = "<|endoftext|>",
                                       [NB_TOKEN_UNK] = "<|endoftext|>"};
    const char *const *names = t->unigram ? unigram : t->word_suffix.n ? clip : NULL;
    for (int i = 0; names && i < NB_N_SPECIAL_TOKENS; i++)
        t->special[i] = nb_tokenizer_token_id(t, names[i]);
}

nb_status nb_tokenizer_read_json(nb_tokenizer *t, const nb_special_tokens *special)
{
    json_t *root;
    NB_TRY(nb_json_load_object(t->path, &root));
    nb_status status = read_root(t, root);
    json_decref(root);
    if (status != NB_OK) return status;
    set_default_special(t);
    return add_bos(t, special);
}
