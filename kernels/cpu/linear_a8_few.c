/*
 * 8-bit linears of a few rows of x, like kernels/cpu/linear_few.c: tasks are runs of weight
 * rows, and for 32 of them at a time and k in blocks
 *
 *     decode and round 32 rows of W into a panel (L1 and L2), asking for the block after this
 *     multiply it, transposed in registers, by all rows of x
 *
 * Integer sums are exact and those of floats the same chains as for many rows.
 */
#include <string.h>

#include "kernels/cpu/linear_a8.h"

enum {
    TASKS_PER_THREAD = 8,
    MAX_TASK_ROWS = 16 * NB_FEW_LANES,
    PANEL_BYTES = NB_FEW_LANES * NB_A8_BLOCK, /* of 8-bit elements */
    SCALES = NB_FEW_LANES * NB_A8_BLOCK_SCALES,
    SUMS = NB_FEW_LANES * NB_FEW_ROWS,
    LINE = 64,
};

struct plan {
    const nb_linear_args *a;
    const nb_a8_isa *isa;
    nb_a8_part parts[NB_A8_PARTS];
    char *x[NB_A8_PARTS]; /* of each [m][groups] with one lane */
    int n_parts;
    int64_t m, task_rows;
    float *scaled; /* [k], a row of x */
    char *scratch; /* for each thread a panel */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t row_bytes_of(const struct plan *p, int i)
{
    return p->parts[i].groups * nb_a8_group_bytes(p->isa);
}

static void pack_x(const struct plan *p, int i)
{
    const nb_a8_part *part = &p->parts[i];
    const float *scales = part->w.column_scales;
    int64_t block_bytes = NB_A8_BLOCK_GROUPS * nb_a8_group_bytes(p->isa);
    for (int64_t m = 0; m < p->m; m++) {
        const float *x = nb_tensor_f32(part->x) + m * part->x.stride[0];
        char *out = p->x[i] + m * row_bytes_of(p, i);
        for (int64_t k = 0; scales && k < part->w.k; k++) p->scaled[k] = x[k] * scales[k];
        for (int64_t k0 = 0; k0 < part->w.k; k0 += NB_A8_BLOCK, out += block_bytes)
            p->isa->pack(out, 1, (scales ? p->scaled : x) + k0, 0, 1,
                         min_of(NB_A8_BLOCK, part->w.k - k0));
    }
}

/* The processor sees no pattern in 32 streams of half a KB each. */
static void prefetch(const nb_weight *w, int64_t row, int64_t k0)
{
    int64_t row_bytes = nb_weight_row_bytes(w);
    const char *data = (const char *)w->data + row * row_bytes;
    int64_t begin = k0 * row_bytes / w->k;
    int64_t end = min_of(k0 + NB_A8_BLOCK, w->k) * row_bytes / w->k;
    for (int64_t at = begin; at < end; at += LINE) __builtin_prefetch(data + at, 0, 3);
    if (w->dtype == NB_DTYPE_F4_E2M1X2)
        __builtin_prefetch((const char *)w->scales +
                           ((row * w->k + k0) >> nb_weight_block_bits(w)));
}

/* Rows n0 ... of W from k0 on into the panel, at most n_left of them; what is read next is at
 * most n_left rows from n0 on, too. Rows that are not there keep what they were: sums of it are
 * not looked at. */
static void decode(const struct plan *p, const nb_weight *w, char *panel, float *scales,
                   int64_t n0, int64_t n_left, int64_t k0)
{
    int64_t count = min_of(NB_A8_BLOCK, w->k - k0), next = k0 + NB_A8_BLOCK;
    int64_t ahead = next < w->k ? 0 : NB_FEW_LANES;
    if (next >= w->k) next = 0;
    for (int64_t i = 0; i < min_of(NB_FEW_LANES, n_left); i++) {
        if (i + ahead < n_left) prefetch(w, n0 + i + ahead, next);
        p->isa->decode(w, n0 + i, k0, count, panel + i * NB_CHUNK_BYTES,
                       NB_FEW_LANES * NB_CHUNK_BYTES, scales + i, NB_FEW_LANES);
    }
}

static void finish(const struct plan *p, const float *sums, int64_t n0, int64_t n)
{
    _Alignas(64) float turned[16][16] = {{0}};
    const float *rows[16];
    for (int64_t j = 0; j < n; j++)
        for (int64_t m = 0; m < p->m; m++) turned[j][m] = sums[m * 16 + j];
    for (int j = 0; j < 16; j++) rows[j] = turned[j];
    p->isa->finish(p->a, rows, 0, p->m, n0, n);
}

/* Adds part i of weight rows n0 ... n0+n_left, at most NB_FEW_LANES, to their sums. */
static void multiply_part(const struct plan *p, int i, char *panel, float *sums, int64_t n0,
                          int64_t n_left)
{
    const nb_a8_part *part = &p->parts[i];
    _Alignas(64) float scales[SCALES] = {0};
    for (int64_t group = 0; group < part->groups; group += NB_A8_BLOCK_GROUPS) {
        nb_a8_few_span span = {.w = panel,
                               .w_scales = scales,
                               .x = p->x[i] + group * nb_a8_group_bytes(p->isa),
                               .x_stride = row_bytes_of(p, i),
                               .groups = (int)min_of(NB_A8_BLOCK_GROUPS, part->groups - group),
                               .rows = (int)p->m};
        decode(p, &part->w, panel, scales, n0, n_left, group * NB_A8_GROUP);
        p->isa->few(sums, &span);
    }
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    int64_t end = min_of((task + 1) * p->task_rows, p->a->w->n);
    char *panel = p->scratch + (int64_t)thread * PANEL_BYTES;
    _Alignas(64) float sums[SUMS];
    memset(panel, 0, PANEL_BYTES);
    for (int64_t n0 = task * p->task_rows; n0 < end; n0 += NB_FEW_LANES) {
        memset(sums, 0, sizeof sums);
        for (int i = 0; i < p->n_parts; i++) multiply_part(p, i, panel, sums, n0, end - n0);
        finish(p, sums, n0, min_of(16, end - n0));
        if (end - n0 > 16)
            finish(p, sums + NB_FEW_ROWS * 16, n0 + 16, min_of(16, end - n0 - 16));
    }
}

/* All memory of a job, and x rounded. */
static void prepare(nb_stream *s, struct plan *p)
{
    p->scratch = nb_arena_alloc(s->arena, (size_t)PANEL_BYTES * (size_t)s->threads);
    p->scaled = nb_arena_alloc(s->arena, (size_t)p->a->w->k * sizeof(float));
    int failed = !p->scratch || !p->scaled;
    for (int i = 0; i < p->n_parts; i++) {
        p->x[i] = nb_arena_alloc(s->arena, (size_t)(p->m * row_bytes_of(p, i)));
        failed |= !p->x[i];
    }
    if (failed) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    for (int i = 0; s->status == NB_OK && i < p->n_parts; i++) pack_x(p, i);
}

void nb_linear_a8_few(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct plan p = {.a = a, .isa = isa, .m = a->x.shape[0]};
    int64_t n = a->w->n;
    p.n_parts = nb_a8_parts(s, a, p.parts);
    prepare(s, &p);
    p.task_rows = MAX_TASK_ROWS;
    while (p.task_rows > NB_FEW_LANES &&
           n / p.task_rows < (int64_t)TASKS_PER_THREAD * s->threads)
        p.task_rows /= 2;
    nb_parallel(s, (n + p.task_rows - 1) / p.task_rows, multiply_task, &p);
    nb_arena_rewind(s->arena, mark);
}
