/*
 * Normalizers of tokenizer.json: what is done to the text before it is cut into words.
 *
 * Known: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend, Precompiled.
 * Lowercase maps each character alone, as Rust's char::to_lowercase: U+0130 becomes two
 * characters, a sigma at the end of a word is not special.
 */
#ifndef NB_TEXT_NORMALIZER_H
#define NB_TEXT_NORMALIZER_H

#include <jansson.h>

#include "text/charsmap.h"

typedef struct nb_normalizer nb_normalizer;

/* The "normalizer" of a file; null is the one that changes nothing. E_DATA names `path` and the
 * component, E_SYSTEM. */
nb_status nb_normalizer_read(const char *path, const json_t *json,
                             nb_normalizer **out) NB_MUST_CHECK;
void nb_normalizer_destroy(nb_normalizer *z);

/* Takes the map and applies it before all other steps. For a normalizer that has few. */
void nb_normalizer_take_charsmap(nb_normalizer *z, nb_charsmap *map);

/* Leaves out all steps but the first charsmap, if there is one. */
void nb_normalizer_keep_charsmap(nb_normalizer *z);

/* Replaces *text (valid UTF-8) by its normalized form. */
nb_status nb_normalizer_apply(const nb_normalizer *z, nb_str *text) NB_MUST_CHECK;

#endif
