/*
 * 8-bit linears of a few rows of x: tasks are runs of weight rows, which are multiplied 16 at a
 * time straight from where they lie, k in pieces of NB_A8_DECODED, while the piece after this
 * is asked for. Integer sums are exact in any order and those of floats the same chain as for
 * many rows.
 */
#include <string.h>

#include "kernels/cpu/linear_a8.h"

enum { TASKS_PER_THREAD = 8, ROWS = 16, MAX_TASK_ROWS = 32 * ROWS };

struct plan {
    const nb_linear_args *a;
    const nb_a8_isa *isa;
    nb_a8_part parts[NB_A8_PARTS];
    char *x[NB_A8_PARTS]; /* of each its pieces */
    int n_parts;
    int64_t m, task_rows;
    float *scaled; /* [k], a row of x */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t x_bytes_of(const struct plan *p, int i)
{
    int64_t pieces = (p->parts[i].w.k + NB_A8_DECODED - 1) / NB_A8_DECODED;
    return pieces * p->m * NB_A8_FEW_BYTES;
}

static void pack_x(const struct plan *p, int i)
{
    const nb_a8_part *part = &p->parts[i];
    const float *scales = part->w.column_scales;
    for (int64_t m = 0; m < p->m; m++) {
        const float *x = nb_tensor_f32(part->x) + m * part->x.stride[0];
        for (int64_t k = 0; scales && k < part->w.k; k++) p->scaled[k] = x[k] * scales[k];
        p->isa->pack_few(p->x[i], (int)p->m, (int)m, scales ? p->scaled : x, part->w.k,
                         part->w.high_first);
    }
}

/* Adds part i of weight rows n0 ... n0+n to their sums. */
static void multiply_part(const struct plan *p, int i, float *sums, int64_t n0, int64_t n)
{
    const nb_a8_part *part = &p->parts[i];
    const nb_weight *w = &part->w;
    for (int64_t k0 = 0; k0 < w->k; k0 += NB_A8_DECODED) {
        int64_t next = k0 + NB_A8_DECODED;
        nb_a8_few_span span = {.w = w,
                               .row = n0,
                               .k0 = k0,
                               .count = min_of(NB_A8_DECODED, w->k - k0),
                               .n_rows = (int)n,
                               .x = p->x[i] + k0 / NB_A8_DECODED * p->m * NB_A8_FEW_BYTES,
                               .m = (int)p->m,
                               .next_row = next < w->k ? n0 : n0 + n,
                               .next_k0 = next < w->k ? next : 0};
        p->isa->few(sums, &span);
    }
}

static void finish(const struct plan *p, const float *sums, int64_t n0, int64_t n)
{
    _Alignas(64) float turned[ROWS][16] = {{0}};
    const float *rows[ROWS];
    for (int64_t j = 0; j < n; j++)
        for (int64_t m = 0; m < p->m; m++) turned[j][m] = sums[m * ROWS + j];
    for (int j = 0; j < ROWS; j++) rows[j] = turned[j];
    p->isa->finish(p->a, rows, 0, p->m, n0, n);
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    int64_t end = min_of((task + 1) * p->task_rows, p->a->w->n);
    (void)thread;
    for (int64_t n0 = task * p->task_rows; n0 < end; n0 += ROWS) {
        _Alignas(64) float sums[NB_FEW_ROWS * ROWS] = {0};
        int64_t n = min_of(ROWS, end - n0);
        for (int i = 0; i < p->n_parts; i++) multiply_part(p, i, sums, n0, n);
        finish(p, sums, n0, n);
    }
}

/* All memory of a job, and x rounded. */
static void prepare(nb_stream *s, struct plan *p)
{
    p->scaled = nb_arena_alloc(s->arena, (size_t)p->a->w->k * sizeof(float));
    int failed = !p->scaled;
    for (int i = 0; i < p->n_parts; i++) {
        p->x[i] = nb_arena_alloc(s->arena, (size_t)x_bytes_of(p, i));
        failed |= !p->x[i];
    }
    if (failed) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    for (int i = 0; s->status == NB_OK && i < p->n_parts; i++) pack_x(p, i);
}

void nb_linear_a8_few(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct plan p = {.a = a, .isa = isa, .m = a->x.shape[0], .task_rows = MAX_TASK_ROWS};
    int64_t n = a->w->n;
    p.n_parts = nb_a8_parts(s, a, p.parts);
    prepare(s, &p);
    while (p.task_rows > ROWS && n / p.task_rows < (int64_t)TASKS_PER_THREAD * s->threads)
        p.task_rows /= 2;
    nb_parallel(s, (n + p.task_rows - 1) / p.task_rows, multiply_task, &p);
    nb_arena_rewind(s->arena, mark);
}
