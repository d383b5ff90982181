#include "text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/token_ids.h"

typedef struct merge {
    uint64_t pair; /* left id << 32 | right id, UINT64_MAX free */
    int32_t rank, id;
} merge;

struct nb_bpe {
    const nb_vocab *vocab;
    int32_t unk_id;
    int fuse_unk, byte_fallback, ignore_merges;
    nb_str prefix, suffix;
    int32_t byte_ids[256]; /* of <0x00> .. <0xFF>, -1 if absent */
    merge *merges;         /* [n_slots] open addressing */
    uint32_t n_slots;
    int32_t n_merges;
};

/* Symbols are a doubly linked list in an array; a symbol that was merged away has id -1. */
struct nb_bpe_symbol {
    int32_t id;
    int32_t previous, next;
};

/* Two neighbours that could be merged when they were put in the heap. */
struct nb_bpe_pair {
    int32_t rank, at, id; /* `at` is the left symbol, `id` what they become */
};

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for byte-pair encoding");
}

static uint32_t merge_slot(const nb_bpe *bpe, uint64_t pair)
{
    uint32_t mask = bpe->n_slots - 1;
    uint32_t i = (uint32_t)(pair * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (bpe->merges[i].pair != UINT64_MAX && bpe->merges[i].pair != pair) i = (i + 1) & mask;
    return i;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static const merge *find_merge(const nb_bpe *bpe, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return NULL;
    const merge *m = &bpe->merges[merge_slot(bpe, pair_key(left, right))];
    return m->pair == UINT64_MAX ? NULL : m;
}

static nb_status grow_merges(nb_bpe *bpe)
{
    uint32_t n_old = bpe->n_slots;
    merge *old = bpe->merges;
    uint32_t n_slots = n_old ? n_old * 2 : 1024;
    merge *merges = malloc(n_slots * sizeof *merges);
    if (!merges) return no_memory();
    memset(merges, 0xFF, n_slots * sizeof *merges);
    bpe->merges = merges;
    bpe->n_slots = n_slots;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].pair != UINT64_MAX) merges[merge_slot(bpe, old[i].pair)] = old[i];
    free(old);
    return NB_OK;
}

nb_status nb_bpe_create(const nb_vocab *vocab, const nb_bpe_args *args, nb_bpe **out)
{
    nb_bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) return no_memory();
    bpe->vocab = vocab;
    bpe->unk_id = args->unk_id;
    bpe->fuse_unk = args->fuse_unk;
    bpe->byte_fallback = args->byte_fallback;
    bpe->ignore_merges = args->ignore_merges;
    for (int i = 0; i < 256; i++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        bpe->byte_ids[i] = nb_vocab_find(vocab, name, (size_t)n);
    }
    nb_status status = nb_str_append(&bpe->prefix, args->prefix, strlen(args->prefix));
    if (status == NB_OK)
        status = nb_str_append(&bpe->suffix, args->suffix, strlen(args->suffix));
    if (status == NB_OK) status = grow_merges(bpe);
    if (status != NB_OK)
        nb_bpe_destroy(bpe);
    else
        *out = bpe;
    return status;
}

void nb_bpe_destroy(nb_bpe *bpe)
{
    if (!bpe) return;
    nb_str_fini(&bpe->prefix);
    nb_str_fini(&bpe->suffix);
    free(bpe->merges);
    free(bpe);
}

nb_status nb_bpe_add_merge(nb_bpe *bpe, const char *left, size_t left_bytes, const char *right,
                           size_t right_bytes)
{
    size_t skip = right_bytes >= bpe->prefix.n ? bpe->prefix.n : right_bytes;
    int32_t a = nb_vocab_find(bpe->vocab, left, left_bytes);
    int32_t b = nb_vocab_find(bpe->vocab, right, right_bytes);
    nb_str whole = {0};
    NB_TRY(nb_str_append(&whole, left, left_bytes));
    nb_status status = nb_str_append(&whole, right + skip, right_bytes - skip);
    int32_t id = status == NB_OK ? nb_vocab_find(bpe->vocab, whole.data, whole.n) : -1;
    nb_str_fini(&whole);
    if (status != NB_OK) return status;
    if (a < 0 || b < 0 || id < 0)
        return nb_fail(NB_E_DATA, "merge %d, \"%.*s %.*s\": the vocabulary has no such %s",
                       (int)bpe->n_merges, (int)(left_bytes < 80 ? left_bytes : 80), left,
                       (int)(right_bytes < 80 ? right_bytes : 80), right,
                       a < 0   ? "left part"
                       : b < 0 ? "right part"
                               : "whole");
    if ((uint32_t)bpe->n_merges >= bpe->n_slots / 2) NB_TRY(grow_merges(bpe));
    /* A pair given twice has the rank of its last line, as in the library's map. */
    bpe->merges[merge_slot(bpe, pair_key(a, b))] =
        (merge){.pair = pair_key(a, b), .rank = bpe->n_merges++, .id = id};
    return NB_OK;
}

void nb_bpe_scratch_fini(nb_bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    nb_str_fini(&s->piece);
    *s = (nb_bpe_scratch){0};
}

static nb_status push_symbol(nb_bpe_scratch *s, int32_t id)
{
    if (s->n_symbols == s->symbols_capacity) {
        size_t capacity = s->symbols_capacity ? s->symbols_capacity * 2 : 64;
        struct nb_bpe_symbol *symbols = realloc(s->symbols, capacity * sizeof *symbols);
        if (!symbols || capacity > INT32_MAX) return no_memory();
        s->symbols = symbols;
        s->symbols_capacity = capacity;
    }
    int32_t at = (int32_t)s->n_symbols++;
    s->symbols[at] = (struct nb_bpe_symbol){.id = id, .previous = at - 1, .next = at + 1};
    return NB_OK;
}

/* Order of merging: lowest rank, then leftmost. */
static int comes_before(const struct nb_bpe_pair *a, const struct nb_bpe_pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static nb_status push_pair(const nb_bpe *bpe, nb_bpe_scratch *s, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return NB_OK;
    const merge *m = find_merge(bpe, s->symbols[left].id, s->symbols[right].id);
    if (!m) return NB_OK;
    if (s->n_heap == s->heap_capacity) {
        size_t capacity = s->heap_capacity ? s->heap_capacity * 2 : 64;
        struct nb_bpe_pair *heap = realloc(s->heap, capacity * sizeof *heap);
        if (!heap) return no_memory();
        s->heap = heap;
        s->heap_capacity = capacity;
    }
    struct nb_bpe_pair pair = {.rank = m->rank, .at = left, .id = m->id};
    size_t i = s->n_heap++;
    for (; i > 0 && comes_before(&pair, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = pair;
    return NB_OK;
}

static struct nb_bpe_pair pop_pair(nb_bpe_scratch *s)
{
    struct nb_bpe_pair top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && comes_before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!comes_before(&s->heap[child], &last)) break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

static nb_status merge_all(const nb_bpe *bpe, nb_bpe_scratch *s)
{
    s->n_heap = 0;
    s->symbols[s->n_symbols - 1].next = -1;
    for (size_t i = 0; i + 1 < s->n_symbols; i++)
        NB_TRY(push_pair(bpe, s, (int32_t)i, (int32_t)i + 1));
    while (s->n_heap) {
        struct nb_bpe_pair top = pop_pair(s);
        struct nb_bpe_symbol *left = &s->symbols[top.at];
        if (left->id < 0 || left->next < 0) continue;
        struct nb_bpe_symbol *right = &s->symbols[left->next];
        /* The symbols may have changed since; the library asks only whether they still become
         * the same token. */
        const merge *m = find_merge(bpe, left->id, right->id);
        if (!m || m->id != top.id) continue;
        left->id = top.id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0) s->symbols[left->next].previous = top.at;
        NB_TRY(push_pair(bpe, s, left->previous, top.at));
        NB_TRY(push_pair(bpe, s, top.at, left->next));
    }
    return NB_OK;
}

/* The bytes of s->piece as <0xNN> tokens; *done = 0 if one of them is not in the vocabulary. */
static nb_status push_bytes(const nb_bpe *bpe, nb_bpe_scratch *s, int *done)
{
    *done = 1;
    for (size_t i = 0; i < s->piece.n; i++)
        *done &= bpe->byte_ids[(unsigned char)s->piece.data[i]] >= 0;
    for (size_t i = 0; *done && i < s->piece.n; i++)
        NB_TRY(push_symbol(s, bpe->byte_ids[(unsigned char)s->piece.data[i]]));
    return NB_OK;
}

/* The character in s->piece. *pending counts an unknown token that is not pushed yet, because
 * more unknown characters may melt into it. */
static nb_status push_piece(const nb_bpe *bpe, nb_bpe_scratch *s, int *pending)
{
    int32_t id = nb_vocab_find(bpe->vocab, s->piece.data, s->piece.n);
    if (id >= 0) {
        if (*pending) NB_TRY(push_symbol(s, bpe->unk_id));
        *pending = 0;
        return push_symbol(s, id);
    }
    int done = 0;
    if (bpe->byte_fallback) NB_TRY(push_bytes(bpe, s, &done));
    if (done || bpe->unk_id < 0) return NB_OK;
    if (*pending && !bpe->fuse_unk) NB_TRY(push_symbol(s, bpe->unk_id));
    *pending = 1;
    return NB_OK;
}

static nb_status push_characters(const nb_bpe *bpe, nb_bpe_scratch *s, const char *word,
                                 size_t n)
{
    int pending = 0;
    s->n_symbols = 0;
    for (size_t i = 0; i < n;) {
        size_t bytes = (size_t)nb_utf8_bytes(word[i]);
        s->piece.n = 0;
        if (i > 0) NB_TRY(nb_str_append(&s->piece, bpe->prefix.data, bpe->prefix.n));
        NB_TRY(nb_str_append(&s->piece, word + i, bytes));
        i += bytes;
        if (i == n) NB_TRY(nb_str_append(&s->piece, bpe->suffix.data, bpe->suffix.n));
        NB_TRY(push_piece(bpe, s, &pending));
    }
    return pending ? push_symbol(s, bpe->unk_id) : NB_OK;
}

nb_status nb_bpe_encode(const nb_bpe *bpe, nb_bpe_scratch *s, const char *word, size_t n,
                        nb_token_ids *ids)
{
    if (bpe->ignore_merges) {
        int32_t whole = nb_vocab_find(bpe->vocab, word, n);
        if (whole >= 0) return nb_token_ids_push(ids, whole);
    }
    NB_TRY(push_characters(bpe, s, word, n));
    if (s->n_symbols == 0) return NB_OK;
    NB_TRY(merge_all(bpe, s));
    for (int32_t i = 0; i >= 0; i = s->symbols[i].next)
        NB_TRY(nb_token_ids_push(ids, s->symbols[i].id));
    return NB_OK;
}
