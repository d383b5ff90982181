/*
 * nb_linear for a few rows of x, where reading W is all the time there is: tasks are runs of
 * weight rows, and for 32 of them at a time and k in blocks
 *
 *     decode 32 rows of W into a panel (L1 and L2), asking for the block after this one
 *     multiply it, transposed in registers, by all rows of x
 *
 * Sums are the same chains over k as those of many rows (kernels/cpu/linear.c).
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    TASKS_PER_THREAD = 8,
    MAX_TASK_ROWS = 16 * NB_FEW_LANES,
    BLOCK_BYTES = NB_BLOCK_UNITS * 4, /* of one row */
    PANEL_BYTES = NB_FEW_LANES * BLOCK_BYTES,
    SUMS = NB_FEW_LANES * NB_FEW_ROWS,
    LINE = 64,
};

struct plan {
    const nb_linear_args *a;
    const nb_gemm_isa *isa;
    nb_linear_part parts[NB_LINEAR_PARTS];
    char *x[NB_LINEAR_PARTS]; /* of each [blocks of k][m][units] */
    int n_parts;
    int64_t m, block_elements, task_rows;
    float *scaled; /* [k], a row of x */
    char *scratch; /* for each thread a panel */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A row of x becomes units just as a row of W does. */
static void pack_x(const struct plan *p, const nb_linear_part *part, char *out)
{
    int64_t k = part->w.k;
    for (int64_t m = 0; m < p->m; m++) {
        const float *x = nb_tensor_f32(part->x) + m * part->x.stride[0];
        if (part->w.column_scales) nb_scale_columns(p->scaled, x, part->w.column_scales, k);
        nb_weight row = {.data = part->w.column_scales ? p->scaled : x,
                         .dtype = NB_DTYPE_F32,
                         .n = 1,
                         .k = k,
                         .scale = 1};
        for (int64_t k0 = 0, b = 0; k0 < k; k0 += p->block_elements, b++)
            p->isa->decode(&row, 0, k0, min_of(p->block_elements, k - k0),
                           out + (b * p->m + m) * BLOCK_BYTES, NB_CHUNK_BYTES);
    }
}

/* The processor sees no pattern in 32 streams of a KB each. */
static void prefetch(const struct plan *p, const nb_weight *w, int64_t row, int64_t k0)
{
    int64_t row_bytes = nb_weight_row_bytes(w);
    const char *data = (const char *)w->data + row * row_bytes;
    int64_t begin = k0 * row_bytes / w->k;
    int64_t end = min_of(k0 + p->block_elements, w->k) * row_bytes / w->k;
    for (int64_t at = begin; at < end; at += LINE) __builtin_prefetch(data + at, 0, 3);
    if (w->dtype == NB_DTYPE_F4_E2M1X2)
        __builtin_prefetch((const char *)w->scales +
                           ((row * w->k + k0) >> nb_weight_block_bits(w)));
}

/* Rows n0 ... n0+n of W from k0 on into the panel; what is read next is at most n_left rows
 * from n0 on. */
static void decode(const struct plan *p, const nb_weight *w, char *panel, int64_t n0,
                   int64_t n_left, int64_t k0)
{
    int64_t count = min_of(p->block_elements, w->k - k0), next = k0 + p->block_elements;
    int64_t ahead = next < w->k ? 0 : NB_FEW_LANES;
    if (next >= w->k) next = 0;
    for (int64_t i = 0; i < NB_FEW_LANES; i++) {
        char *out = panel + i * NB_CHUNK_BYTES;
        if (i + ahead < n_left) prefetch(p, w, n0 + i + ahead, next);
        if (i < n_left) {
            p->isa->decode(w, n0 + i, k0, count, out, NB_FEW_LANES * NB_CHUNK_BYTES);
            continue;
        }
        for (int64_t u = 0; u < NB_BLOCK_UNITS; u += NB_CHUNK_UNITS)
            memset(out + u * NB_FEW_LANES * 4, 0, NB_CHUNK_BYTES);
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
    const nb_linear_part *part = &p->parts[i];
    for (int64_t k0 = 0, b = 0; k0 < part->w.k; k0 += p->block_elements, b++) {
        nb_few_span span = {.w = panel,
                            .x = p->x[i] + b * p->m * BLOCK_BYTES,
                            .units =
                                (int)min_of(NB_BLOCK_UNITS, part->units - b * NB_BLOCK_UNITS),
                            .rows = (int)p->m};
        decode(p, &part->w, panel, n0, n_left, k0);
        p->isa->few(sums, &span);
    }
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    int64_t end = min_of((task + 1) * p->task_rows, p->a->w->n);
    char *panel = p->scratch + (int64_t)thread * PANEL_BYTES;
    _Alignas(64) float sums[SUMS];
    for (int64_t n0 = task * p->task_rows; n0 < end; n0 += NB_FEW_LANES) {
        memset(sums, 0, sizeof sums);
        for (int i = 0; i < p->n_parts; i++) multiply_part(p, i, panel, sums, n0, end - n0);
        finish(p, sums, n0, min_of(16, end - n0));
        if (end - n0 > 16)
            finish(p, sums + NB_FEW_ROWS * 16, n0 + 16, min_of(16, end - n0 - 16));
    }
}

/* All memory of a job, and x in its units. */
static void prepare(nb_stream *s, struct plan *p)
{
    p->scratch = nb_arena_alloc(s->arena, (size_t)PANEL_BYTES * (size_t)s->threads);
    p->scaled = nb_arena_alloc(s->arena, (size_t)p->a->w->k * sizeof(float));
    int failed = !p->scratch || !p->scaled;
    for (int i = 0; i < p->n_parts; i++) {
        int64_t n_blocks = (p->parts[i].units + NB_BLOCK_UNITS - 1) / NB_BLOCK_UNITS;
        p->x[i] = nb_arena_alloc(s->arena, (size_t)(n_blocks * p->m * BLOCK_BYTES));
        failed |= !p->x[i];
    }
    if (failed) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    if (s->status != NB_OK) return;
    for (int i = 0; i < p->n_parts; i++) pack_x(p, &p->parts[i], p->x[i]);
}

void nb_linear_few(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct plan p = {.a = a, .isa = isa, .m = a->x.shape[0]};
    int64_t n = a->w->n;
    p.block_elements = NB_BLOCK_UNITS * isa->unit_elements;
    p.n_parts = nb_linear_parts(s, a, isa, p.parts);
    prepare(s, &p);
    p.task_rows = MAX_TASK_ROWS;
    while (p.task_rows > NB_FEW_LANES &&
           n / p.task_rows < (int64_t)TASKS_PER_THREAD * s->threads)
        p.task_rows /= 2;
    nb_parallel(s, (n + p.task_rows - 1) / p.task_rows, multiply_task, &p);
    nb_arena_rewind(s->arena, mark);
}
