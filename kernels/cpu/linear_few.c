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
    int64_t m, units, block_elements, task_rows;
    char *x;       /* [blocks of k][m][units] */
    char *scratch; /* for each thread a panel */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A row of x becomes units just as a row of W does. */
static void pack_x(const struct plan *p)
{
    int64_t k = p->a->w->k;
    for (int64_t m = 0; m < p->m; m++) {
        nb_weight row = {.data = nb_tensor_f32(p->a->x) + m * p->a->x.stride[0],
                         .dtype = NB_DTYPE_F32,
                         .n = 1,
                         .k = k,
                         .scale = 1};
        for (int64_t k0 = 0, b = 0; k0 < k; k0 += p->block_elements, b++)
            p->isa->decode(&row, 0, k0, min_of(p->block_elements, k - k0),
                           p->x + (b * p->m + m) * BLOCK_BYTES, NB_CHUNK_BYTES);
    }
}

/* The processor sees no pattern in 32 streams of a KB each. */
static void prefetch(const struct plan *p, int64_t row, int64_t k0)
{
    const nb_weight *w = p->a->w;
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
static void decode(const struct plan *p, char *panel, int64_t n0, int64_t n_left, int64_t k0)
{
    const nb_weight *w = p->a->w;
    int64_t count = min_of(p->block_elements, w->k - k0), next = k0 + p->block_elements;
    int64_t ahead = next < w->k ? 0 : NB_FEW_LANES;
    if (next >= w->k) next = 0;
    for (int64_t i = 0; i < NB_FEW_LANES; i++) {
        char *out = panel + i * NB_CHUNK_BYTES;
        if (i + ahead < n_left) prefetch(p, n0 + i + ahead, next);
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

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    const nb_weight *w = p->a->w;
    int64_t end = min_of((task + 1) * p->task_rows, w->n);
    char *panel = p->scratch + (int64_t)thread * PANEL_BYTES;
    _Alignas(64) float sums[SUMS];
    for (int64_t n0 = task * p->task_rows; n0 < end; n0 += NB_FEW_LANES) {
        memset(sums, 0, sizeof sums);
        for (int64_t k0 = 0, b = 0; k0 < w->k; k0 += p->block_elements, b++) {
            nb_few_span span = {.w = panel,
                                .x = p->x + b * p->m * BLOCK_BYTES,
                                .units =
                                    (int)min_of(NB_BLOCK_UNITS, p->units - b * NB_BLOCK_UNITS),
                                .rows = (int)p->m};
            decode(p, panel, n0, end - n0, k0);
            p->isa->few(sums, &span);
        }
        finish(p, sums, n0, min_of(16, end - n0));
        if (end - n0 > 16)
            finish(p, sums + NB_FEW_ROWS * 16, n0 + 16, min_of(16, end - n0 - 16));
    }
}

void nb_linear_few(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct plan p = {.a = a, .isa = isa, .m = a->x.shape[0]};
    int64_t n = a->w->n;
    p.units = (a->w->k + isa->unit_elements - 1) / isa->unit_elements;
    p.block_elements = NB_BLOCK_UNITS * isa->unit_elements;
    int64_t n_blocks = (p.units + NB_BLOCK_UNITS - 1) / NB_BLOCK_UNITS;
    p.x = nb_arena_alloc(s->arena, (size_t)(n_blocks * p.m * BLOCK_BYTES));
    p.scratch = nb_arena_alloc(s->arena, (size_t)PANEL_BYTES * (size_t)s->threads);
    if (!p.x || !p.scratch) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    p.task_rows = MAX_TASK_ROWS;
    while (p.task_rows > NB_FEW_LANES &&
           n / p.task_rows < (int64_t)TASKS_PER_THREAD * s->threads)
        p.task_rows /= 2;
    pack_x(&p);
    nb_parallel(s, (n + p.task_rows - 1) / p.task_rows, multiply_task, &p);
    nb_arena_rewind(s->arena, mark);
}
