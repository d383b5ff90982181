/*
 * Tokenizers for synthetic pipelines: vocabularies of any size, of words that are no words.
 */
#ifndef NB_PIPELINE_SYNTHETIC_WORDS_H
#define NB_PIPELINE_SYNTHETIC_WORDS_H

#include <jansson.h>

#include "kernels/base/status.h"

/* The least vocabularies: the characters and the special tokens. */
enum { NB_CLIP_LEAST_VOCAB = 514, NB_T5_LEAST_VOCAB = 100 };

/* tokenizer/ and tokenizer_2/ as FLUX.1's folders hold them, into folders that are there; so
 * many tokens. E_CANTCREATE, E_IO, E_SYSTEM. */
nb_status nb_synthetic_clip_words(const char *folder, int64_t vocab) NB_MUST_CHECK;
nb_status nb_synthetic_t5_words(const char *folder, int64_t vocab) NB_MUST_CHECK;

/* FOLDER/NAME, whole or not at all. The value is consumed; NULL counts as "out of memory". */
nb_status nb_synthetic_write_json(const char *folder, const char *name,
                                  json_t *value) NB_MUST_CHECK;

#endif
