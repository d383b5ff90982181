/*
 * Unigram encoding of one word: the cut into pieces whose scores have the largest sum (Kudo
 * 2018), as the tokenizers library finds it.
 *
 * Viterbi over the character starts, scores in double: of equal sums the first one found stays
 * (positions ascending, short pieces first). Where no piece is exactly the one character, an
 * unknown edge with the lowest score of the vocabulary - 10 is added. Unknown neighbours are
 * fused into one. O(n x longest piece).
 */
#ifndef NB_TEXT_UNIGRAM_H
#define NB_TEXT_UNIGRAM_H

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct nb_unigram nb_unigram;

/* `vocab` is borrowed and outlives the model; its ids are 0..n-1 without holes and scores[id]
 * are theirs (copied). unk_id -1: none, an unknown character fails then. E_DATA, E_SYSTEM. */
nb_status nb_unigram_create(const nb_vocab *vocab, const double *scores, int32_t unk_id,
                            int byte_fallback, nb_unigram **out) NB_MUST_CHECK;
void nb_unigram_destroy(nb_unigram *u);

/* Best ends of pieces, kept from word to word; zeroed before the first. */
typedef struct nb_unigram_scratch {
    struct nb_unigram_node *nodes;
    size_t capacity;
    nb_token_ids reversed;
} nb_unigram_scratch;
void nb_unigram_scratch_fini(nb_unigram_scratch *scratch);

nb_status nb_unigram_encode(const nb_unigram *u, nb_unigram_scratch *scratch, const char *word,
                            size_t n, nb_token_ids *ids) NB_MUST_CHECK;

#endif
