/*
 * Two look-up structures over pieces of text: piece <-> id (nb_vocab), and all pieces that
 * begin a text (nb_trie). Both are zero-initialised empty, grow by insertion, are given back by
 * _fini, and once filled may be read by any number of threads. Pieces are bytes, at most
 * NB_PIECE_MAX of them.
 */
#ifndef NB_TEXT_VOCAB_H
#define NB_TEXT_VOCAB_H

#include "text/utf8.h"

#define NB_ID_MAX    ((1 << 24) - 1) /* a larger id in a file is taken for damage */
#define NB_PIECE_MAX 65535

typedef struct nb_vocab {
    nb_str pool;      /* all pieces, one after the other */
    uint32_t *offset; /* [n_ids] into pool; UINT32_MAX: no such id */
    uint32_t *length; /* [n_ids] */
    int32_t n_ids, ids_capacity;
    int32_t *slots; /* [n_slots] id, -1 free; open addressing */
    uint32_t n_slots, n_used;
} nb_vocab;

void nb_vocab_fini(nb_vocab *v);

/* Gives `id` (0..NB_ID_MAX) a piece. An id given twice is E_DATA; a piece given twice keeps
 * both ids for nb_vocab_piece, and nb_vocab_find gives the last. E_SYSTEM. */
nb_status nb_vocab_add(nb_vocab *v, int32_t id, const char *piece, size_t n) NB_MUST_CHECK;

int32_t nb_vocab_find(const nb_vocab *v, const char *piece,
                      size_t n); /* -1 if it is not there */

/* The piece of an id and its bytes, borrowed; NULL if there is no such id. */
const char *nb_vocab_piece(const nb_vocab *v, int32_t id, size_t *n);

typedef struct nb_trie {
    uint64_t *keys;     /* [n_slots] (node << 8 | byte) + 1, 0 free */
    uint32_t *children; /* [n_slots] */
    int32_t *values;    /* [n_nodes] -1: no piece ends here */
    uint32_t n_slots, n_nodes, nodes_capacity;
} nb_trie;

void nb_trie_fini(nb_trie *t);
nb_status nb_trie_add(nb_trie *t, const char *piece, size_t n, int32_t value) NB_MUST_CHECK;

/* Node 0 is the root. The node after one more byte, 0 if no piece goes on that way. */
uint32_t nb_trie_step(const nb_trie *t, uint32_t node, char byte);

#endif
