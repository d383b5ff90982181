#include "text/unigram.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/token_ids.h"

static const double UNKNOWN_PENALTY = 10.0;

struct nb_unigram {
    const nb_vocab *vocab;
    nb_trie trie;
    double *scores; /* [n] */
    double unknown_score;
    int32_t unk_id;
    int byte_fallback;
    int32_t byte_ids[256]; /* of <0x00> .. <0xFF>, -1 if absent */
};

/* The best way to the end of a piece. */
struct nb_unigram_node {
    double score;
    size_t start;
    int32_t id;
    int reached;
};

static nb_status build(nb_unigram *u, const double *scores)
{
    double lowest = INFINITY;
    for (int32_t id = 0; id < u->vocab->n_ids; id++) {
        size_t n;
        const char *piece = nb_vocab_piece(u->vocab, id, &n);
        if (!piece) return nb_fail(NB_E_DATA, "Unigram vocabulary: there is no id %d", (int)id);
        if (!isfinite(scores[id]))
            return nb_fail(NB_E_DATA, "Unigram vocabulary: the score of \"%.*s\" is not finite",
                           (int)n, piece);
        u->scores[id] = scores[id];
        if (scores[id] < lowest) lowest = scores[id];
        if (n) NB_TRY(nb_trie_add(&u->trie, piece, n, id));
    }
    u->unknown_score = lowest - UNKNOWN_PENALTY;
    for (int i = 0; i < 256; i++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        u->byte_ids[i] = nb_vocab_find(u->vocab, name, (size_t)n);
    }
    return NB_OK;
}

nb_status nb_unigram_create(const nb_vocab *vocab, const double *scores, int32_t unk_id,
                            int byte_fallback, nb_unigram **out)
{
    if (vocab->n_ids == 0) return nb_fail(NB_E_DATA, "Unigram vocabulary: it is empty");
    if (unk_id >= vocab->n_ids)
        return nb_fail(NB_E_DATA, "Unigram vocabulary: unk_id %d is not one of its %d ids",
                       (int)unk_id, (int)vocab->n_ids);
    nb_unigram *u = calloc(1, sizeof *u);
    double *copy = malloc((size_t)vocab->n_ids * sizeof *copy);
    if (!u || !copy) {
        free(u);
        free(copy);
        return nb_fail(NB_E_SYSTEM, "out of memory for a Unigram vocabulary");
    }
    u->vocab = vocab;
    u->scores = copy;
    u->unk_id = unk_id;
    u->byte_fallback = byte_fallback;
    nb_status status = build(u, scores);
    if (status != NB_OK)
        nb_unigram_destroy(u);
    else
        *out = u;
    return status;
}

void nb_unigram_destroy(nb_unigram *u)
{
    if (!u) return;
    nb_trie_fini(&u->trie);
    free(u->scores);
    free(u);
}

void nb_unigram_scratch_fini(nb_unigram_scratch *s)
{
    free(s->nodes);
    nb_token_ids_fini(&s->reversed);
    *s = (nb_unigram_scratch){0};
}

static void offer(struct nb_unigram_node *end, double score, size_t start, int32_t id)
{
    if (end->reached && !(score > end->score)) return;
    *end = (struct nb_unigram_node){.score = score, .start = start, .id = id, .reached = 1};
}

static void find_best_path(const nb_unigram *u, struct nb_unigram_node *nodes, const char *word,
                           size_t n)
{
    memset(nodes, 0, (n + 1) * sizeof *nodes);
    for (size_t start = 0; start < n;) {
        double score = nodes[start].score;
        size_t bytes = (size_t)nb_utf8_bytes(word[start]);
        int has_single = 0;
        uint32_t node = 0;
        for (size_t i = start; i < n && (node = nb_trie_step(&u->trie, node, word[i])) != 0;
             i++) {
            int32_t id = u->trie.values[node];
            if (id < 0) continue;
            offer(&nodes[i + 1], score + u->scores[id], start, id);
            has_single |= i + 1 - start == bytes;
        }
        if (!has_single)
            offer(&nodes[start + bytes], score + u->unknown_score, start, u->unk_id);
        start += bytes;
    }
}

/* What an unknown stretch becomes, last id first. */
static nb_status push_unknown(const nb_unigram *u, const char *text, size_t n,
                              nb_token_ids *reversed)
{
    int32_t id = nb_vocab_find(u->vocab, text, n);
    if (id >= 0) return nb_token_ids_push(reversed, id);
    int has_bytes = u->byte_fallback;
    for (size_t i = 0; has_bytes && i < n; i++)
        has_bytes = u->byte_ids[(unsigned char)text[i]] >= 0;
    if (has_bytes) {
        for (size_t i = n; i-- > 0;)
            NB_TRY(nb_token_ids_push(reversed, u->byte_ids[(unsigned char)text[i]]));
        return NB_OK;
    }
    if (u->unk_id < 0)
        return nb_fail(NB_E_DATA,
                       "the tokenizer has no token for \"%.*s\" and no unknown token",
                       (int)(n < 80 ? n : 80), text);
    return nb_token_ids_push(reversed, u->unk_id);
}

static nb_status walk_back(const nb_unigram *u, const struct nb_unigram_node *nodes,
                           const char *word, size_t n, nb_token_ids *reversed)
{
    size_t end = n;
    while (end > 0) {
        size_t start = nodes[end].start;
        int32_t id = nodes[end].id;
        if (id == u->unk_id) {
            while (start > 0 && nodes[start].id == u->unk_id) start = nodes[start].start;
            NB_TRY(push_unknown(u, word + start, end - start, reversed));
        } else {
            NB_TRY(nb_token_ids_push(reversed, id));
        }
        end = start;
    }
    return NB_OK;
}

nb_status nb_unigram_encode(const nb_unigram *u, nb_unigram_scratch *s, const char *word,
                            size_t n, nb_token_ids *ids)
{
    if (n + 1 > s->capacity) {
        size_t capacity = 2 * n + 64;
        struct nb_unigram_node *nodes = realloc(s->nodes, capacity * sizeof *nodes);
        if (!nodes) return nb_fail(NB_E_SYSTEM, "out of memory for a word of %zu bytes", n);
        s->nodes = nodes;
        s->capacity = capacity;
    }
    find_best_path(u, s->nodes, word, n);
    s->reversed.n = 0;
    NB_TRY(walk_back(u, s->nodes, word, n, &s->reversed));
    for (int64_t i = s->reversed.n; i-- > 0;)
        NB_TRY(nb_token_ids_push(ids, s->reversed.ids[i]));
    return NB_OK;
}
