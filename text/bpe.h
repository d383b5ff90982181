/*
 * Byte-pair encoding of one word, as the tokenizers library does it.
 *
 * A word starts as one symbol per character (the last one with the end-of-word suffix, all but
 * the first with the continuing prefix); then the pair of neighbours with the lowest rank, of
 * equal ones the leftmost, is merged until no pair has a rank. With a heap of pairs and a
 * linked list of symbols that is O(n log n) in the word. Characters that the vocabulary lacks
 * become bytes (byte_fallback), the unknown token, or vanish if there is none.
 */
#ifndef NB_TEXT_BPE_H
#define NB_TEXT_BPE_H

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct nb_bpe nb_bpe;

typedef struct nb_bpe_args {
    int32_t unk_id; /* -1: none */
    int fuse_unk;   /* neighbouring unknown characters are one unknown token */
    int byte_fallback, ignore_merges;
    const char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; may be "" */
} nb_bpe_args;

/* `vocab` is borrowed and outlives the bpe. E_SYSTEM. */
nb_status nb_bpe_create(const nb_vocab *vocab, const nb_bpe_args *args,
                        nb_bpe **out) NB_MUST_CHECK;
void nb_bpe_destroy(nb_bpe *bpe);

/* Adds the next merge; the first has the lowest rank. E_DATA if a part or the whole is not in
 * the vocabulary; the sentence names them, not the file. */
nb_status nb_bpe_add_merge(nb_bpe *bpe, const char *left, size_t left_bytes, const char *right,
                           size_t right_bytes) NB_MUST_CHECK;

/* Ids of a word (valid UTF-8) are pushed to *ids. Scratch is zeroed before the first word, kept
 * from word to word, and given back by nb_bpe_scratch_fini. */
typedef struct nb_bpe_scratch {
    struct nb_bpe_symbol *symbols;
    struct nb_bpe_pair *heap;
    size_t n_symbols, symbols_capacity, n_heap, heap_capacity;
    nb_str piece;
} nb_bpe_scratch;
void nb_bpe_scratch_fini(nb_bpe_scratch *scratch);

nb_status nb_bpe_encode(const nb_bpe *bpe, nb_bpe_scratch *scratch, const char *word, size_t n,
                        nb_token_ids *ids) NB_MUST_CHECK;

#endif
