/*
 * Tensors of the harness. Each lies at the end of a mapping of its own, before a page without
 * access, so that reading too far is a crash; in front of it, and between rows where there are
 * gaps, lies a pattern that is a NaN when read and shows when overwritten.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/ggml_blocks.h"
#include "tests/check/run.h"

enum { GUARD_BYTES = 256 };
static const uint32_t PATTERN = 0x7fc0dead;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 (Steele et al. 2014) */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double next_uniform(uint64_t *state)
{
    return ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53;
}

/* An element; `row_sign` is the same for a whole row. */
static float draw(input_kind kind, uint64_t *state, float row_sign)
{
    double normal =
        sqrt(-2 * log(next_uniform(state))) * cos(6.283185307 * next_uniform(state));
    uint64_t dice = next_random(state) % 512;
    switch (kind) {
    case NORMAL:
        return (float)normal;
    case OUTLIERS:
        return (float)(dice < 8 ? 20 * normal : normal);
    case EXTREMES:
        return 64 * row_sign;
    case ZEROS:
        return 0;
    case NONFINITE:
        if (dice < 2) return dice ? INFINITY : -INFINITY;
        return dice == 2 ? NAN : (float)normal;
    default:
        return NAN;
    }
}

/* Where blocks have numbers of F16: any bits are good but these. */
static const struct {
    nb_dtype dtype;
    int n, at[2];
} block_numbers[] = {
    {NB_DTYPE_Q4_0, 1, {offsetof(nb_block_q4_0, d)}},
    {NB_DTYPE_Q4_1, 2, {offsetof(nb_block_q4_1, d), offsetof(nb_block_q4_1, m)}},
    {NB_DTYPE_Q5_0, 1, {offsetof(nb_block_q5_0, d)}},
    {NB_DTYPE_Q5_1, 2, {offsetof(nb_block_q5_1, d), offsetof(nb_block_q5_1, m)}},
    {NB_DTYPE_Q8_0, 1, {offsetof(nb_block_q8_0, d)}},
    {NB_DTYPE_Q2_K, 2, {offsetof(nb_block_q2_k, d), offsetof(nb_block_q2_k, dmin)}},
    {NB_DTYPE_Q3_K, 1, {offsetof(nb_block_q3_k, d)}},
    {NB_DTYPE_Q4_K, 2, {offsetof(nb_block_q4_k, d), offsetof(nb_block_q4_k, dmin)}},
    {NB_DTYPE_Q5_K, 2, {offsetof(nb_block_q5_k, d), offsetof(nb_block_q5_k, dmin)}},
    {NB_DTYPE_Q6_K, 1, {offsetof(nb_block_q6_k, d)}},
    {NB_DTYPE_IQ4_NL, 1, {offsetof(nb_block_iq4_nl, d)}},
    {NB_DTYPE_IQ4_XS, 1, {offsetof(nb_block_iq4_xs, d)}},
};

static void store_block(nb_dtype dtype, uint8_t *block, float value, uint64_t dice)
{
    uint16_t half = nb_f16_from_f32(value * 0x1p-6f);
    for (size_t i = 0; i < nb_dtype_bytes(dtype); i++) block[i] = (uint8_t)next_random(&dice);
    for (size_t i = 0; i < sizeof block_numbers / sizeof *block_numbers; i++)
        for (int j = 0; block_numbers[i].dtype == dtype && j < block_numbers[i].n; j++)
            memcpy(block + block_numbers[i].at[j], &half, sizeof half);
    for (int i = 0; dtype == NB_DTYPE_NVFP4 && i < 4; i++)
        block[i] = (uint8_t)(value != 0 ? block[i] & 0x3f : 0);
    if (dtype == NB_DTYPE_MXFP4) *block = value != 0 ? (uint8_t)(118 + (dice & 7)) : 0;
}

static void store(nb_dtype dtype, void *data, int64_t i, float value, int64_t limit,
                  uint64_t dice)
{
    if (nb_dtype_elements(dtype) > 1) {
        size_t bytes = nb_dtype_bytes(dtype);
        store_block(dtype, (uint8_t *)data + (size_t)i * bytes, value, dice);
        return;
    }
    uint16_t half = dtype == NB_DTYPE_BF16 ? nb_bf16_from_f32(value) : nb_f16_from_f32(value);
    uint8_t byte = dtype == NB_DTYPE_F8_E4M3 ? nb_e4m3_from_f32(value) : (uint8_t)(half >> 8);
    if (dtype == NB_DTYPE_F8_E8M0) byte = (uint8_t)(123 + (dice & 7));
    if (dtype == NB_DTYPE_F4_E2M1X2) byte = value != 0 ? (uint8_t)dice : 0;
    int32_t index = (int32_t)(limit ? dice % (uint64_t)limit : 0);
    switch (nb_dtype_bytes(dtype)) {
    case 1:
        memcpy((uint8_t *)data + i, &byte, 1);
        return;
    case 2:
        memcpy((uint16_t *)data + i, &half, 2);
        return;
    default:
        if (dtype == NB_DTYPE_I32)
            memcpy((int32_t *)data + i, &index, 4);
        else
            memcpy((float *)data + i, &value, 4);
    }
}

int64_t nb_check_n_rows(const nb_tensor *t)
{
    int64_t n = t->shape[t->rank - 1];
    return n ? nb_tensor_count(*t) / n : 0;
}

int64_t nb_check_row_at(const nb_tensor *t, int64_t row)
{
    int64_t at = 0;
    for (int i = t->rank - 2; i >= 0; i--) {
        at += row % t->shape[i] * t->stride[i];
        row /= t->shape[i];
    }
    return at;
}

static void fill(const nb_check *c, const struct entry *e, int64_t limit)
{
    const nb_tensor *t = &e->t;
    uint64_t state = (uint64_t)c->setup.shape * 977 + (uint64_t)c->setup.kind * 131 +
                     (uint64_t)c->n_tensors * 7919 + 1;
    for (int64_t row = 0; row < nb_check_n_rows(t); row++) {
        float sign = next_random(&state) & 1 ? 1 : -1;
        for (int64_t i = 0; i < t->shape[t->rank - 1]; i++) {
            float value = draw(c->setup.kind, &state, sign);
            store(t->dtype, t->data, nb_check_row_at(t, row) + i, value, limit,
                  next_random(&state));
        }
    }
}

/* Elements from the first to the last, gaps included. */
static int64_t span_of(const nb_tensor *t)
{
    int64_t span = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] == 0) return 0;
        span += (t->shape[i] - 1) * t->stride[i];
    }
    return span;
}

static void map_entry(struct entry *e)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t data_bytes = (size_t)span_of(&e->t) * nb_dtype_bytes(e->t.dtype);
    size_t usable = (data_bytes + GUARD_BYTES + page - 1) / page * page;
    e->mapped = usable + page;
    e->base = mmap(NULL, e->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (e->base == MAP_FAILED || mprotect(e->base + usable, page, PROT_NONE)) abort();
    e->bytes = usable;
    e->t.data = e->base + usable - data_bytes;
    for (size_t i = 0; i < usable; i += sizeof PATTERN) memcpy(e->base + i, &PATTERN, 4);
}

/* "in 17x3x64", for messages. */
static void describe(nb_check *c, const struct entry *e)
{
    static const char *const names[] = {"in", "out", "inout"};
    size_t at = strlen(c->shapes);
    if (at && at + 3 < MAX_TEXT) at += (size_t)snprintf(c->shapes + at, 3, ", ");
    for (int i = 0; i < e->t.rank && at + 40 < MAX_TEXT; i++)
        at += (size_t)snprintf(c->shapes + at, 40, "%s%s%lld", i ? "x" : names[e->role],
                               i ? "" : " ", (long long)e->t.shape[i]);
}

static nb_tensor make(nb_check *c, tensor_role role, nb_dtype dtype, int rank,
                      const int64_t *shape, int dense, int64_t limit)
{
    assert(c->n_tensors < MAX_TENSORS);
    struct entry *e = &c->tensors[c->n_tensors];
    if (c->reuse && e->base) {
        c->n_tensors++;
        return e->t;
    }
    *e = (struct entry){.role = role};
    e->t = nb_tensor_view(c->stream->device, NULL, dtype, rank, shape);
    if (c->setup.strided && !dense)
        for (int i = rank - 2; i >= 0; i--)
            e->t.stride[i] = e->t.stride[i + 1] * e->t.shape[i + 1] + 3 + 2 * i;
    map_entry(e);
    if (role != OUT) fill(c, e, limit);
    e->before = malloc(e->bytes);
    if (!e->before) abort();
    memcpy(e->before, e->base, e->bytes);
    describe(c, e);
    c->n_tensors++;
    return e->t;
}

nb_tensor nb_check_in(nb_check *c, int rank, const int64_t *shape)
{
    return make(c, IN, NB_DTYPE_F32, rank, shape, 0, 0);
}

nb_tensor nb_check_in_dense(nb_check *c, int rank, const int64_t *shape)
{
    return make(c, IN, NB_DTYPE_F32, rank, shape, 1, 0);
}

nb_tensor nb_check_out(nb_check *c, int rank, const int64_t *shape)
{
    return make(c, OUT, NB_DTYPE_F32, rank, shape, 0, 0);
}

nb_tensor nb_check_out_dense(nb_check *c, int rank, const int64_t *shape)
{
    return make(c, OUT, NB_DTYPE_F32, rank, shape, 1, 0);
}

nb_tensor nb_check_inout(nb_check *c, int rank, const int64_t *shape)
{
    return make(c, INOUT, NB_DTYPE_F32, rank, shape, 0, 0);
}

nb_tensor nb_check_inout_dense(nb_check *c, int rank, const int64_t *shape)
{
    return make(c, INOUT, NB_DTYPE_F32, rank, shape, 1, 0);
}

nb_tensor nb_check_in_typed(nb_check *c, nb_dtype dtype, int rank, const int64_t *shape,
                            int64_t limit)
{
    return make(c, IN, dtype, rank, shape, 1, limit);
}

nb_tensor nb_check_rows(nb_check *c, nb_tensor t)
{
    int64_t n = t.shape[0];
    c->has_rows = 1;
    if (!c->setup.subset || n == 0) return t;
    for (int i = 0; i < c->n_tensors; i++)
        if (c->tensors[i].t.data == t.data) c->tensors[i].sliced = 1;
    c->first_row = c->setup.subset == 1 ? n / 3 : n - 1;
    return nb_tensor_slice(t, 0, c->first_row, n - c->first_row);
}

nb_stream *nb_check_stream(nb_check *c)
{
    return c->stream;
}

void nb_check_flops(nb_check *c, double flops)
{
    c->flops = flops;
}

void nb_check_free(nb_check *c)
{
    for (int i = 0; i < MAX_TENSORS; i++) {
        free(c->tensors[i].before);
        if (c->tensors[i].base) munmap(c->tensors[i].base, c->tensors[i].mapped);
        c->tensors[i] = (struct entry){.base = NULL};
    }
    nb_stream_destroy(c->stream);
    c->stream = NULL;
    c->n_tensors = 0;
}
