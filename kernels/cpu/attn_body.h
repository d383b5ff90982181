/*
 * The body of fast attention, compiled once for each instruction set. The file that includes it
 * has included a vec_*.h and defined
 *
 *     PAIR                      operands per 32-bit word along the summed dimension: 1 of F32,
 *                               2 of BF16
 *     word, load_word(p)        a word in all lanes
 *     step(acc, word, vec)      acc += word * vec, lane by lane
 *     load_words(p, n, round)   words of up to LANES * PAIR neighbours in memory, n of them
 *                               there
 *     join(a, b, round)         words of a (and b, for PAIR 2), lane by lane
 *
 * Lanes are queries. A task is one head and up to QUERIES queries; it walks over the keys in
 * blocks of KEYS, and both products are the same kernel, C[rows][lanes] += A[rows] B[lanes]
 * with A broadcast from panels of ROWS rows and B in registers:
 *
 *     scores [keys][queries]  = K panels [words of D][8 keys] x Q' [words of D][queries]
 *     probabilities           = exp(scores - running maximum), by lanes: no sums across lanes
 *     out'   [D][queries]     = out' * exp(old - new maximum)
 *                             + V panels [words of keys][8 of D] x probabilities
 *
 * K and V are packed into panels once, for as many heads as fit into GROUP_BYTES. Every lane
 * sees the same operations in the same order wherever it stands in its block, and blocks of
 * keys begin at multiples of KEYS: results depend on nothing but a query and its keys.
 */
#include <assert.h>
#include <float.h>
#include <math.h>

#include "kernels/cpu/cpu_ops.h"

enum {
    ROWS = LANES / 2,
    MAX_VECS = 3,
    QUERIES = MAX_VECS * LANES,
    KEYS = 128,  /* of a block; a multiple of LANES */
    CHUNK = 128, /* words of D that a score tile takes at a time: then Q' stays in L1 */
    PACK_KEYS = 4 * KEYS, /* of a packing task */
    GROUP_BYTES = 32 << 20,
};

struct job {
    const nb_attn_args *a;
    int64_t n_queries, n_keys, dims, head_ratio; /* heads of q for each of k and v */
    int64_t words, padded_words, padded_keys, padded_dims;
    int64_t n_blocks;       /* of queries */
    int64_t first, n_heads; /* of k and v, in this group */
    int64_t head_floats, bias_floats, scratch_floats;
    float *packed;  /* [n_heads][head_floats]: K panels, V panels */
    float *bias;    /* [n_heads * head_ratio][bias_floats]: reversed, zeros behind */
    float *scratch; /* [threads][scratch_floats] */
    int round;      /* values to BF16, where PAIR is 1 */
};

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static const float *row_of(const nb_tensor *t, int64_t row, int64_t head)
{
    return (const float *)t->data + row * t->stride[0] + head * t->stride[1];
}

/* Rows of one head lie far apart: the next LANES of them are fetched while these are packed. */
static void fetch_rows(const nb_tensor *t, int64_t row, int64_t head, int64_t d, int n_lines)
{
    for (int i = 0; i < LANES; i++)
        for (int line = 0; line < n_lines; line++)
            __builtin_prefetch(row_of(t, row + i, head) + d + line * 16);
}

/* LANES rows from `row` on, of `n_rows`, turned to [word][row], from word w on. */
static inline void load_turned(const struct job *j, const nb_tensor *t, int64_t row,
                               int64_t n_rows, int64_t head, int64_t w, vec r[LANES])
{
    fetch_rows(t, row + LANES, head, w * PAIR, LANES * PAIR / 16 ? LANES * PAIR / 16 : 1);
    for (int i = 0; i < LANES; i++)
        r[i] = row + i < n_rows ? load_words(row_of(t, row + i, head) + w * PAIR,
                                             j->dims - w * PAIR, j->round)
                                : vec_zero();
    vec_transpose(r);
}

/* K panels: [key / ROWS][word][ROWS] for keys first ... end, zeros behind the last. */
static void pack_k(const struct job *j, float *panels, int64_t head, int64_t first, int64_t end)
{
    for (int64_t key = first; key < end; key += LANES)
        for (int64_t w = 0; w < j->words; w += LANES) {
            float *to = panels + key * j->padded_words + w * ROWS;
            vec r[LANES];
            load_turned(j, &j->a->k, key, j->n_keys, head, w, r);
            for (int i = 0; i < LANES; i++)
                vec_store_halves(to + i * ROWS, to + (j->padded_words + i) * ROWS, r[i]);
        }
}

/* V panels: [d / ROWS][word of keys][ROWS]. */
static void pack_v(const struct job *j, float *panels, int64_t head, int64_t first, int64_t end)
{
    int64_t key_words = j->padded_keys / PAIR;
    for (int64_t key = first; key < end; key += LANES)
        for (int64_t d = 0; d < j->dims; d += LANES) {
            float *to = panels + d * key_words + key / PAIR * ROWS;
            fetch_rows(&j->a->v, key + LANES, head, d, 1);
            for (int64_t i = key; i < key + LANES; i += PAIR, to += ROWS) {
                vec r[2] = {vec_zero(), vec_zero()};
                for (int o = 0; o < PAIR && i + o < j->n_keys; o++)
                    r[o] = vec_load_n(row_of(&j->a->v, i + o, head) + d, j->dims - d);
                vec_store_halves(to, to + key_words * ROWS, join(r[0], r[1], j->round));
            }
        }
}

/* bias[i - j + Sk - 1] for query i and key j, so that neighbouring queries are neighbours. */
static void pack_bias(const struct job *j, int64_t head)
{
    int64_t n = j->n_queries + j->n_keys - 1;
    const float *from = nb_tensor_f32(j->a->rel_bias) + head * j->a->rel_bias.stride[0];
    float *to = j->bias + (head - j->first * j->head_ratio) * j->bias_floats;
    for (int64_t i = 0; i < n; i++) to[i] = from[n - 1 - i];
    for (int64_t i = n; i < j->bias_floats; i++) to[i] = 0;
}

static void pack_task(void *arg, int64_t task, int thread)
{
    const struct job *j = arg;
    int64_t n_chunks = (j->padded_keys + PACK_KEYS - 1) / PACK_KEYS;
    int64_t head = task / n_chunks, first = task % n_chunks * PACK_KEYS;
    int64_t end = first + PACK_KEYS < j->padded_keys ? first + PACK_KEYS : j->padded_keys;
    float *panels = j->packed + head * j->head_floats;
    (void)thread;
    pack_k(j, panels, j->first + head, first, end);
    pack_v(j, panels + j->padded_keys * j->padded_words, j->first + head, first, end);
    for (int64_t i = 0; j->bias && first == 0 && i < j->head_ratio; i++)
        pack_bias(j, (j->first + head) * j->head_ratio + i);
}

/* One block of queries and its state, in the scratch of its thread. */
struct block {
    int64_t head, query; /* the first query */
    int n_vecs;
    const float *k, *v, *bias;
    float *q;                /* [padded_words][QUERIES] */
    float *scores, *p;       /* [KEYS][QUERIES], [KEYS / PAIR][QUERIES] */
    float *sum;              /* [padded_dims][QUERIES]: out', not yet divided */
    float *max, *total, *by; /* [QUERIES]: running, and the factor of the last change */
    float *ones;
};

/* C = C * by + A B (C = A B where `by` is NULL), n words deep. `next` floats on from A is
 * the panel that comes next: it is fetched meanwhile, because panels are too short for hardware
 * to see a stream in them. */
static inline __attribute__((always_inline)) void multiply(float *c, const float *a,
                                                           int64_t next, const float *b,
                                                           int64_t n, const float *by,
                                                           const int n_vecs)
{
    vec acc[ROWS][MAX_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < n_vecs; v++)
            acc[r][v] =
                by ? vec_mul(vec_load(c + r * QUERIES + v * LANES), vec_load(by + v * LANES))
                   : vec_zero();
    for (int64_t i = 0; i < n; i++, a += ROWS, b += QUERIES) {
        vec x[MAX_VECS];
        __builtin_prefetch(a + next);
#pragma GCC unroll 3
        for (int v = 0; v < n_vecs; v++) x[v] = vec_load(b + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            word w = load_word(a + r);
#pragma GCC unroll 3
            for (int v = 0; v < n_vecs; v++) acc[r][v] = step(acc[r][v], w, x[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < n_vecs; v++) vec_store(c + r * QUERIES + v * LANES, acc[r][v]);
}

static inline __attribute__((always_inline)) void
score(const struct job *j, const struct block *b, int64_t key, int64_t n_keys, const int n_vecs)
{
    for (int64_t w = 0; w < j->words; w += CHUNK) {
        int64_t n = j->words - w < CHUNK ? j->words - w : CHUNK;
        for (int64_t i = 0; i < n_keys; i += ROWS) {
            const float *panel = b->k + (key + i) * j->padded_words + w * ROWS;
            float *c = b->scores + i * QUERIES;
            if (w == 0)
                multiply(c, panel, j->padded_words * ROWS, b->q, n, NULL, n_vecs);
            else
                multiply(c, panel, j->padded_words * ROWS, b->q + w * QUERIES, n, b->ones,
                         n_vecs);
        }
    }
}

static inline __attribute__((always_inline)) void gather(const struct job *j,
                                                         const struct block *b, int64_t key,
                                                         int64_t n_keys, const int n_vecs)
{
    int64_t key_words = j->padded_keys / PAIR, n = (n_keys + PAIR - 1) / PAIR;
    for (int64_t d = 0; d < j->dims; d += ROWS)
        multiply(b->sum + d * QUERIES, b->v + d * key_words + key / PAIR * ROWS,
                 key_words * ROWS, b->p, n, b->by, n_vecs);
}

/* Scales, biases and masks the scores of one vector of queries; returns their maximum with
 * `max`. Scores left out become -inf. */
static vec finish_scores(const struct job *j, const struct block *b, int v, int64_t key,
                         int64_t n_keys, vec max)
{
    int64_t query = b->query + v * LANES, last = query + j->n_keys - j->n_queries;
    int is_masked = j->a->causal && key + n_keys - 1 > last;
    vec scale = vec_all(j->a->scale), lasts = vec_add(vec_all((float)last), vec_iota());
    const float *bias = b->bias ? b->bias + query + j->n_keys - 1 - key : NULL;
    float *s = b->scores + v * LANES;
    for (int64_t i = 0; i < n_keys; i++, s += QUERIES) {
        vec t = vec_mul(vec_load(s), scale);
        if (bias) t = vec_add(t, vec_load(bias - i));
        if (is_masked)
            t = vec_select_ge(lasts, vec_all((float)(key + i)), t, vec_all(-INFINITY));
        max = vec_max(max, t);
        vec_store(s, t);
    }
    return max;
}

static void soften(const struct job *j, const struct block *b, int64_t key, int64_t n_keys)
{
    for (int v = 0; v < b->n_vecs; v++) {
        vec old = vec_load(b->max + v * LANES);
        vec max = finish_scores(j, b, v, key, n_keys, old);
        vec by = vec_exp(vec_sub(old, max));
        vec total = vec_mul(vec_load(b->total + v * LANES), by);
        const float *s = b->scores + v * LANES;
        float *p = b->p + v * LANES;
        for (int64_t i = 0; i < n_keys; i += PAIR, p += QUERIES) {
            vec x[2] = {vec_exp(vec_sub(vec_load(s + i * QUERIES), max)), vec_zero()};
            total = vec_add(total, x[0]);
            if (PAIR == 2 && i + 1 < n_keys) {
                x[1] = vec_exp(vec_sub(vec_load(s + (i + 1) * QUERIES), max));
                total = vec_add(total, x[1]);
            }
            vec_store(p, join(x[0], x[1], j->round));
        }
        vec_store(b->max + v * LANES, max);
        vec_store(b->by + v * LANES, by);
        vec_store(b->total + v * LANES, total);
    }
}

static inline __attribute__((always_inline)) void
attend(const struct job *j, const struct block *b, int64_t end, const int n_vecs)
{
    for (int64_t key = 0; key < end; key += KEYS) {
        int64_t n = j->n_keys - key < KEYS ? j->n_keys - key : KEYS;
        score(j, b, key, n, n_vecs);
        soften(j, b, key, n);
        gather(j, b, key, n, n_vecs);
    }
}

static void load_queries(const struct job *j, const struct block *b)
{
    for (int v = 0; v < b->n_vecs; v++)
        for (int64_t w = 0; w < j->words; w += LANES) {
            float *to = b->q + w * QUERIES + v * LANES;
            vec r[LANES];
            load_turned(j, &j->a->q, b->query + v * LANES, j->n_queries, b->head, w, r);
            for (int i = 0; i < LANES; i++) vec_store(to + i * QUERIES, r[i]);
        }
}

/* Divides, and turns the block round to rows; queries that may see no key get 0. */
static void store_out(const struct job *j, const struct block *b)
{
    for (int v = 0; v < b->n_vecs; v++) {
        int64_t query = b->query + v * LANES, last = query + j->n_keys - j->n_queries;
        vec lasts = vec_add(vec_all((float)last), vec_iota());
        vec inverse = vec_div(vec_all(1), vec_load(b->total + v * LANES));
        for (int64_t d = 0; d < j->dims; d += LANES) {
            vec r[LANES];
            for (int i = 0; i < LANES; i++) {
                r[i] = vec_mul(vec_load(b->sum + (d + i) * QUERIES + v * LANES), inverse);
                if (j->a->causal && last < 0)
                    r[i] = vec_select_ge(lasts, vec_zero(), r[i], vec_zero());
            }
            vec_transpose(r);
            for (int i = 0; i < LANES && query + i < j->n_queries; i++)
                vec_store_n(nb_tensor_f32(j->a->out) + (query + i) * j->a->out.stride[0] +
                                b->head * j->a->out.stride[1] + d,
                            r[i], j->dims - d);
        }
    }
}

static struct block make_block(const struct job *j, int64_t task, int thread)
{
    struct block b = {.query = task % j->n_blocks * QUERIES};
    int64_t head = task / j->n_blocks, left = j->n_queries - b.query; /* head of the group */
    b.head = j->first * j->head_ratio + head;
    b.n_vecs = left >= QUERIES ? MAX_VECS : (int)((left + LANES - 1) / LANES);
    b.k = j->packed + head / j->head_ratio * j->head_floats;
    b.v = b.k + j->padded_keys * j->padded_words;
    b.bias = j->bias ? j->bias + head * j->bias_floats : NULL;
    b.q = j->scratch + thread * j->scratch_floats;
    b.scores = b.q + j->padded_words * QUERIES;
    b.p = b.scores + KEYS * QUERIES;
    b.sum = b.p + KEYS / PAIR * QUERIES;
    b.max = b.sum + j->padded_dims * QUERIES;
    b.total = b.max + QUERIES;
    b.by = b.total + QUERIES;
    b.ones = b.by + QUERIES;
    for (int64_t i = 0; i < QUERIES; i++) {
        b.max[i] = -FLT_MAX; /* not -inf: -inf - -inf would be a NaN */
        b.total[i] = 0;
        b.ones[i] = 1;
    }
    for (int64_t i = 0; i < j->padded_dims * QUERIES; i++) b.sum[i] = 0;
    return b;
}

static void attend_task(void *arg, int64_t task, int thread)
{
    const struct job *j = arg;
    struct block b = make_block(j, task, thread);
    int64_t last = b.query + b.n_vecs * LANES - 1 + j->n_keys - j->n_queries;
    int64_t end = j->a->causal && last + 1 < j->n_keys ? last + 1 : j->n_keys;
    load_queries(j, &b);
    switch (b.n_vecs) {
    case 1:
        attend(j, &b, end, 1);
        break;
    case 2:
        attend(j, &b, end, 2);
        break;
    default:
        attend(j, &b, end, 3);
        break;
    }
    store_out(j, &b);
}

static float *scratch(nb_stream *s, int64_t count)
{
    return nb_stream_tensor(s, NB_DTYPE_F32, 1, &count).data;
}

static void attn_run(nb_stream *s, const nb_attn_args *a, int round)
{
    int64_t n_kv_heads = a->k.shape[1], dims = a->q.shape[2], words = (dims + PAIR - 1) / PAIR;
    struct job j = {
        .a = a,
        .n_queries = a->q.shape[0],
        .n_keys = a->k.shape[0],
        .dims = dims,
        .head_ratio = a->q.shape[1] / n_kv_heads,
        .words = words,
        .padded_words = round_up(words, LANES),
        .padded_keys = round_up(a->k.shape[0], LANES),
        .padded_dims = round_up(dims, LANES),
        .n_blocks = (a->q.shape[0] + QUERIES - 1) / QUERIES,
        .round = round,
    };
    j.head_floats = j.padded_keys * (j.padded_words + j.padded_dims / PAIR);
    j.bias_floats = j.n_queries + j.n_keys + QUERIES;
    j.scratch_floats = (j.padded_words + KEYS + KEYS / PAIR + j.padded_dims + 4) * QUERIES;
    int64_t group = GROUP_BYTES / (j.head_floats * (int64_t)sizeof(float));
    group = group < 1 ? 1 : group > n_kv_heads ? n_kv_heads : group;
    nb_arena_mark mark = nb_arena_save(s->arena);
    j.packed = scratch(s, group * j.head_floats);
    j.scratch = scratch(s, s->threads * j.scratch_floats);
    if (a->rel_bias.data) j.bias = scratch(s, group * j.head_ratio * j.bias_floats);
    for (j.first = 0; s->status == NB_OK && j.first < n_kv_heads; j.first += group) {
        j.n_heads = n_kv_heads - j.first < group ? n_kv_heads - j.first : group;
        nb_parallel(s, j.n_heads * ((j.padded_keys + PACK_KEYS - 1) / PACK_KEYS), pack_task,
                    &j);
        nb_parallel(s, j.n_heads * j.head_ratio * j.n_blocks, attend_task, &j);
    }
    nb_arena_rewind(s->arena, mark);
}
