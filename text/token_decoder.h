/*
 * Decoders of tokenizer.json: from tokens back to text.
 *
 * Known: Sequence, ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip.
 */
#ifndef NB_TEXT_TOKEN_DECODER_H
#define NB_TEXT_TOKEN_DECODER_H

#include <jansson.h>

#include "text/utf8.h"

typedef struct nb_token_decoder nb_token_decoder;

/* The "decoder" of a file; null puts a blank between tokens, as the library does. E_DATA names
 * `path` and the component, E_SYSTEM. */
nb_status nb_token_decoder_read(const char *path, const json_t *json,
                                nb_token_decoder **out) NB_MUST_CHECK;
void nb_token_decoder_destroy(nb_token_decoder *d);

/* Tokens, one after the other in `text`; token i ends at ends[i], and may be empty. */
typedef struct nb_token_texts {
    nb_str text;
    size_t *ends;
    size_t n, capacity;
} nb_token_texts;

void nb_token_texts_fini(nb_token_texts *t);
nb_status
nb_token_texts_end(nb_token_texts *t) NB_MUST_CHECK; /* ends the token in the making */

/* Decodes in place: afterwards tokens->text is the text. */
nb_status nb_token_decoder_apply(const nb_token_decoder *d,
                                 nb_token_texts *tokens) NB_MUST_CHECK;

#endif
