/*
 * What a tokenizer is made of, for the files that read one (tokenizer_json.c, spiece.c,
 * clip_bpe.c, special_tokens.c) and the one that runs it (tokenizer.c).
 *
 * A reader fills a zeroed struct and on failure leaves it as it is: nb_tokenizer_open closes
 * it.
 */
#ifndef NB_TEXT_TOKENIZER_PARTS_H
#define NB_TEXT_TOKENIZER_PARTS_H

#include <jansson.h>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"
#include "text/unigram.h"

enum { NB_MAX_AFFIX = 16 };

/* Ids that the post-processor puts before or behind the text's. */
typedef struct nb_affix {
    int32_t ids[NB_MAX_AFFIX];
    int n;
} nb_affix;

struct nb_tokenizer {
    char *path; /* the file of the vocabulary */
    const char *kind;
    nb_vocab vocab; /* with the added tokens */
    nb_added_tokens added;
    nb_normalizer *normalizer;
    nb_pretokenizer *pretokenizer;
    nb_bpe *bpe; /* one of the two models */
    nb_unigram *unigram;
    nb_affix prefix, suffix;
    nb_token_decoder *decoder;
    nb_str word_suffix; /* "</w>": a blank when decoded */
    int32_t special[NB_N_SPECIAL_TOKENS];
    int64_t max_length;
};

/* tokenizer_config.json and special_tokens_map.json of a folder. Names are borrowed from the
 * JSON.
 */
typedef struct nb_special_tokens {
    char *config_path;
    json_t *config, *map;                   /* empty objects where there is no file */
    const char *names[NB_N_SPECIAL_TOKENS]; /* NULL: not named */
    int64_t max_length;
    int add_bos, extra_ids;
} nb_special_tokens;

nb_status nb_special_tokens_load(const char *dir, nb_special_tokens *out) NB_MUST_CHECK;
void nb_special_tokens_fini(nb_special_tokens *s);

/* Makes the named tokens, and those of added_tokens_decoder, added tokens of `t`: for files
 * that hold nothing but a vocabulary. Their flags are those that the files give, else none. */
nb_status nb_special_tokens_add(const nb_special_tokens *s, nb_tokenizer *t) NB_MUST_CHECK;

/* Sets t->special and t->max_length; a name that is no token is left out. */
void nb_special_tokens_resolve(const nb_special_tokens *s, nb_tokenizer *t);

/* Reads t->path. */
nb_status nb_tokenizer_read_json(nb_tokenizer *t,
                                 const nb_special_tokens *special) NB_MUST_CHECK;
nb_status nb_tokenizer_read_spiece(nb_tokenizer *t,
                                   const nb_special_tokens *special) NB_MUST_CHECK;
nb_status nb_tokenizer_read_clip(nb_tokenizer *t, const char *merges_path,
                                 const nb_special_tokens *special) NB_MUST_CHECK;

/* "normalizer", "pre_tokenizer" and "decoder" of an object like tokenizer.json. */
nb_status nb_tokenizer_read_pipeline(nb_tokenizer *t, const json_t *root) NB_MUST_CHECK;

/* The same of a text that nibble itself brings. */
nb_status nb_tokenizer_set_pipeline(nb_tokenizer *t, const char *json) NB_MUST_CHECK;

/* {"token": id, ...} into t->vocab. */
nb_status nb_tokenizer_read_vocab(nb_tokenizer *t, const json_t *object) NB_MUST_CHECK;

#endif
