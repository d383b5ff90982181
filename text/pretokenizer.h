/*
 * Pre-tokenizers of tokenizer.json: from normalized text to words, each of which the model
 * encodes alone.
 *
 * Known: Sequence, Split, ByteLevel, Metaspace, WhitespaceSplit. Steps of a Sequence run on
 * every piece that the step before left; a regular expression sees only its piece.
 */
#ifndef NB_TEXT_PRETOKENIZER_H
#define NB_TEXT_PRETOKENIZER_H

#include <jansson.h>

#include "text/utf8.h"

typedef struct nb_pretokenizer nb_pretokenizer;

/* The "pre_tokenizer" of a file; null leaves the text whole. E_DATA names `path` and the
 * component, E_SYSTEM. */
nb_status nb_pretokenizer_read(const char *path, const json_t *json,
                               nb_pretokenizer **out) NB_MUST_CHECK;
void nb_pretokenizer_destroy(nb_pretokenizer *p);

/* Words, one after the other in `text`; word i ends at ends[i]. Zero-initialised is empty. No
 * word is empty. */
typedef struct nb_words {
    nb_str text;
    size_t *ends;
    size_t n, capacity;
    int leading; /* word 0 begins where the user's text begins */
} nb_words;

void nb_words_fini(nb_words *words);

/* Adds the rest of words->text, from the last end on, as a word; nothing if that is empty. */
nb_status nb_words_end(nb_words *words) NB_MUST_CHECK;

/* Cuts *words further, in place. */
nb_status nb_pretokenizer_apply(const nb_pretokenizer *p, nb_words *words) NB_MUST_CHECK;

#endif
