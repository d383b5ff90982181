#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for a vocabulary");
}

/* FNV-1a, 32 bits. */
static uint32_t hash_bytes(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

void nb_vocab_fini(nb_vocab *v)
{
    nb_str_fini(&v->pool);
    free(v->offset);
    free(v->length);
    free(v->slots);
    *v = (nb_vocab){0};
}

/* The slot that holds the piece, or the free one where it belongs. */
static uint32_t slot_of(const nb_vocab *v, const char *piece, size_t n)
{
    uint32_t mask = v->n_slots - 1;
    for (uint32_t i = hash_bytes(piece, n) & mask;; i = (i + 1) & mask) {
        int32_t id = v->slots[i];
        if (id < 0 || (v->length[id] == n && !memcmp(v->pool.data + v->offset[id], piece, n)))
            return i;
    }
}

static nb_status grow_slots(nb_vocab *v)
{
    uint32_t n_slots = v->n_slots ? v->n_slots * 2 : 1024;
    int32_t *slots = malloc(n_slots * sizeof *slots);
    if (!slots) return no_memory();
    memset(slots, 0xFF, n_slots * sizeof *slots);
    int32_t *old = v->slots;
    uint32_t n_old = v->n_slots;
    v->slots = slots;
    v->n_slots = n_slots;
    for (uint32_t i = 0; i < n_old; i++) {
        int32_t id = old[i];
        if (id >= 0) slots[slot_of(v, v->pool.data + v->offset[id], v->length[id])] = id;
    }
    free(old);
    return NB_OK;
}

static nb_status grow_ids(nb_vocab *v, int32_t id)
{
    if (id >= v->ids_capacity) {
        size_t capacity = (size_t)id + (size_t)id / 2 + 1024;
        uint32_t *offset = realloc(v->offset, capacity * sizeof *offset);
        if (offset) v->offset = offset;
        uint32_t *length = realloc(v->length, capacity * sizeof *length);
        if (length) v->length = length;
        if (!offset || !length) return no_memory();
        v->ids_capacity = (int32_t)capacity;
    }
    for (; v->n_ids <= id; v->n_ids++) v->offset[v->n_ids] = UINT32_MAX;
    return NB_OK;
}

nb_status nb_vocab_add(nb_vocab *v, int32_t id, const char *piece, size_t n)
{
    if (id < 0 || id > NB_ID_MAX)
        return nb_fail(NB_E_DATA, "token id %d is not in 0..%d", (int)id, NB_ID_MAX);
    if (n > NB_PIECE_MAX)
        return nb_fail(NB_E_DATA, "token %d has %zu bytes, more than %d", (int)id, n,
                       NB_PIECE_MAX);
    if (id < v->n_ids && v->offset[id] != UINT32_MAX)
        return nb_fail(NB_E_DATA, "token id %d is given twice, to \"%.*s\" and \"%.*s\"",
                       (int)id, (int)v->length[id], v->pool.data + v->offset[id], (int)n,
                       piece);
    if (v->pool.n + n >= UINT32_MAX) return no_memory();
    NB_TRY(nb_str_reserve(&v->pool, n + 1)); /* so that data is not NULL */
    NB_TRY(grow_ids(v, id));
    if (v->n_used >= v->n_slots / 2) NB_TRY(grow_slots(v));
    uint32_t slot = slot_of(v, piece, n);
    v->n_used += v->slots[slot] < 0;
    v->slots[slot] = id;
    v->offset[id] = (uint32_t)v->pool.n;
    v->length[id] = (uint32_t)n;
    return nb_str_append(&v->pool, piece, n);
}

int32_t nb_vocab_find(const nb_vocab *v, const char *piece, size_t n)
{
    return v->n_slots ? v->slots[slot_of(v, piece, n)] : -1;
}

const char *nb_vocab_piece(const nb_vocab *v, int32_t id, size_t *n)
{
    if (id < 0 || id >= v->n_ids || v->offset[id] == UINT32_MAX) return NULL;
    *n = v->length[id];
    return v->pool.data + v->offset[id];
}

void nb_trie_fini(nb_trie *t)
{
    free(t->keys);
    free(t->children);
    free(t->values);
    *t = (nb_trie){0};
}

static uint32_t edge_slot(const nb_trie *t, uint64_t key)
{
    uint32_t mask = t->n_slots - 1;
    uint32_t i = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (t->keys[i] && t->keys[i] != key) i = (i + 1) & mask;
    return i;
}

static uint64_t edge_key(uint32_t node, char byte)
{
    return ((uint64_t)node << 8 | (unsigned char)byte) + 1;
}

uint32_t nb_trie_step(const nb_trie *t, uint32_t node, char byte)
{
    if (!t->n_slots) return 0;
    uint32_t i = edge_slot(t, edge_key(node, byte));
    return t->keys[i] ? t->children[i] : 0;
}

static nb_status grow_edges(nb_trie *t)
{
    nb_trie bigger = {.n_slots = t->n_slots ? t->n_slots * 2 : 256};
    bigger.keys = calloc(bigger.n_slots, sizeof *bigger.keys);
    bigger.children = malloc(bigger.n_slots * sizeof *bigger.children);
    if (!bigger.keys || !bigger.children) {
        nb_trie_fini(&bigger);
        return no_memory();
    }
    for (uint32_t i = 0; i < t->n_slots; i++) {
        if (!t->keys[i]) continue;
        uint32_t slot = edge_slot(&bigger, t->keys[i]);
        bigger.keys[slot] = t->keys[i];
        bigger.children[slot] = t->children[i];
    }
    free(t->keys);
    free(t->children);
    t->keys = bigger.keys;
    t->children = bigger.children;
    t->n_slots = bigger.n_slots;
    return NB_OK;
}

static nb_status add_node(nb_trie *t)
{
    if (t->n_nodes == t->nodes_capacity) {
        uint32_t capacity = t->nodes_capacity ? t->nodes_capacity * 2 : 256;
        int32_t *values = realloc(t->values, capacity * sizeof *values);
        if (!values) return no_memory();
        t->values = values;
        t->nodes_capacity = capacity;
    }
    t->values[t->n_nodes++] = -1;
    return NB_OK;
}

nb_status nb_trie_add(nb_trie *t, const char *piece, size_t n, int32_t value)
{
    if (t->n_nodes == 0) NB_TRY(add_node(t));
    if (n > (1u << 30) - t->n_nodes) return no_memory();
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t next = nb_trie_step(t, node, piece[i]);
        if (!next) {
            if (t->n_nodes >= t->n_slots / 2) NB_TRY(grow_edges(t));
            NB_TRY(add_node(t));
            next = t->n_nodes - 1;
            uint64_t key = edge_key(node, piece[i]);
            uint32_t slot = edge_slot(t, key);
            t->keys[slot] = key;
            t->children[slot] = next;
        }
        node = next;
    }
    t->values[node] = value;
    return NB_OK;
}
