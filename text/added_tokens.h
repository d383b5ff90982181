/*
 * Added tokens: strings that are cut out of the text before anything else looks at it, the
 * longest first, and become one id each. Those with `normalized` are looked for in the
 * normalized text (and are normalized themselves), the others in the text as it was typed.
 */
#ifndef NB_TEXT_ADDED_TOKENS_H
#define NB_TEXT_ADDED_TOKENS_H

#include <jansson.h>

#include "text/normalizer.h"
#include "text/vocab.h"

typedef struct nb_added_token {
    int32_t id;
    nb_str content;
    int single_word;    /* only where no letter or digit touches it */
    int lstrip, rstrip; /* takes the white space before, after it along */
    int normalized, special;
} nb_added_token;

/* Zero-initialised is empty. */
typedef struct nb_added_tokens {
    nb_added_token *tokens;
    int32_t n, capacity;
    nb_trie raw, normalized; /* values: index in tokens */
} nb_added_tokens;

void nb_added_tokens_fini(nb_added_tokens *a);

/* Copies the token. Its id is the vocabulary's where that has the content; else token->id goes
 * into the vocabulary. Content that was added before is left as it was. E_DATA, E_SYSTEM. */
nb_status nb_added_tokens_add(nb_added_tokens *a, nb_vocab *vocab,
                              const nb_added_token *token) NB_MUST_CHECK;

/* The flags of a token from an object of a file; id and content are left alone. */
nb_status nb_added_token_read_flags(const char *path, const json_t *json,
                                    nb_added_token *token) NB_MUST_CHECK;

/* After the last add: makes the tries. */
nb_status nb_added_tokens_finish(nb_added_tokens *a, const nb_normalizer *z) NB_MUST_CHECK;

/* Is this id a special added token? */
int nb_added_tokens_is_special(const nb_added_tokens *a, int32_t id);

/* A stretch of the text: an added token's id, or -1 for text between. */
typedef struct nb_stretch {
    size_t start, end;
    int32_t id;
} nb_stretch;

/* Cuts the text at the added tokens; the caller frees *stretches. E_SYSTEM. */
nb_status nb_added_tokens_cut(const nb_added_tokens *a, int normalized, const char *text,
                              size_t n, nb_stretch **stretches,
                              size_t *n_stretches) NB_MUST_CHECK;

#endif
