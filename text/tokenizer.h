/*
 * Tokenizers: text to token ids and back, id for id as the Hugging Face `tokenizers` library.
 *
 * A tokenizer is a folder. What is in it decides the kind:
 *   tokenizer.json            BPE or Unigram, with the normalizer, pre-tokenizer,
 *                             post-processor and decoder that the file states
 *   vocab.json + merges.txt   CLIP's byte-level BPE, with the pipeline of CLIPTokenizer
 *   spiece.model              T5's SentencePiece Unigram model; the pipeline of T5's
 *                             tokenizer.json and the 100 <extra_id_n> are put around it
 * Beside them tokenizer_config.json and special_tokens_map.json name the special tokens and
 * model_max_length; both may be missing.
 *
 * nb_tokenizer_open reads a file as it is. FluxPipeline does not: its T5TokenizerFast (of
 * transformers 5) takes vocabulary, added tokens and charsmap from the file and puts its own
 * pipeline around them. nb_tokenizer_open_t5 does the same. Ids differ after a literal special
 * token that no blank follows, at a typed U+2581, and at white space that the charsmap leaves,
 * such as U+0085.
 *
 * Encoding: added tokens are cut out of the text; what lies between them is normalized,
 * pre-tokenized into words, and each word goes through BPE (Gage 1994; Sennrich et al. 2016) or
 * Unigram's best path (Kudo 2018). Any Unicode text is fine, U+0000 too. Time is O(n log n) in
 * the text, a megabyte is a matter of a second.
 *
 * Unicode: normal forms and lower case are those of the utf8proc in use, letter classes in
 * regular expressions those of the PCRE2 in use; characters newer than these libraries may
 * split otherwise than the reference does.
 *
 * Threads: an open tokenizer is read-only, any number of threads may use it.
 */
#ifndef NB_TEXT_TOKENIZER_H
#define NB_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef struct nb_tokenizer nb_tokenizer;

/* E_NOINPUT: no tokenizer in that folder. E_DATA names the file and what is wrong with it; a
 * component that nibble does not know is such a fault. E_SYSTEM: memory. */
nb_status nb_tokenizer_open(const char *dir, nb_tokenizer **out) NB_MUST_CHECK;

/* The same, as transformers' T5TokenizerFast makes it: of the normalizer the charsmap alone;
 * words between white space, each beginning with U+2581; </s> at the end. What is no Unigram
 * model is read as it is. */
nb_status nb_tokenizer_open_t5(const char *dir, nb_tokenizer **out) NB_MUST_CHECK;
void nb_tokenizer_close(nb_tokenizer *t); /* NULL is fine */

/* Ids in storage that grows: zero it first, use it for any number of calls, then fini it. */
typedef struct nb_token_ids {
    int32_t *ids;
    int64_t n;      /* ids in all */
    int64_t n_used; /* of these before padding */
    int64_t n_cut;  /* ids of the text that max_length left out */
    int64_t capacity;
} nb_token_ids;

void nb_token_ids_fini(nb_token_ids *ids);

typedef struct nb_encode_args {
    int no_special;     /* leave out what the post-processor adds (BOS, EOS); tokens that stand
                           literally in the text still count */
    int64_t max_length; /* > 0: cut the text's ids on the right so that with the added ones
                           there are at most this many */
    int pad;            /* 1: fill up to max_length with the padding token (CLIP: its end token;
                           T5: 0). A tokenizer without one: E_DATA */
} nb_encode_args;

/* FluxPipeline: CLIP {.max_length = 77, .pad = 1}, T5 {.max_length = 512, .pad = 1}. `args` may
 * be NULL: everything, with special tokens. E_DATA when the text is not UTF-8 (the sentence
 * says at which byte). On failure *out keeps its storage and has n = 0. */
nb_status nb_tokenizer_encode(const nb_tokenizer *t, const char *text, size_t bytes,
                              const nb_encode_args *args, nb_token_ids *out) NB_MUST_CHECK;

/* The text of ids, special tokens included unless skip_special; NUL-terminated, *bytes long,
 * the caller frees it. Bytes of byte-level tokens that form no UTF-8 become U+FFFD. An id that
 * the tokenizer does not have is E_DATA. */
nb_status nb_tokenizer_decode(const nb_tokenizer *t, const int32_t *ids, int64_t n,
                              int skip_special, char **text, size_t *bytes) NB_MUST_CHECK;

typedef enum nb_special_token {
    NB_TOKEN_BOS,
    NB_TOKEN_EOS,
    NB_TOKEN_PAD,
    NB_TOKEN_UNK,
    NB_N_SPECIAL_TOKENS
} nb_special_token;

/* -1 if the tokenizer has none. */
int32_t nb_tokenizer_special_id(const nb_tokenizer *t, nb_special_token which);

/* The largest id + 1, added tokens included; a model's embedding may have more rows. */
int64_t nb_tokenizer_vocab_size(const nb_tokenizer *t);

/* model_max_length; 0 if the configuration sets none (1e30 means none). */
int64_t nb_tokenizer_max_length(const nb_tokenizer *t);

/* "CLIP BPE", "BPE" or "Unigram", and the file that the vocabulary was read from. Borrowed. */
const char *nb_tokenizer_kind(const nb_tokenizer *t);
const char *nb_tokenizer_path(const nb_tokenizer *t);

/* The id of a token as the vocabulary writes it, -1 if there is none; and the token of an id
 * (borrowed, not terminated), NULL if there is none. */
int32_t nb_tokenizer_token_id(const nb_tokenizer *t, const char *token);
const char *nb_tokenizer_token(const nb_tokenizer *t, int32_t id, size_t *bytes);

#endif
