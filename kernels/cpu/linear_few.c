/*
 * nb_linear for a few rows of x, where reading W is all the time there is. Tasks are runs of
 * weight rows, taken 32 at a time. Where k is long enough for chains (kernels/cpu/gemm.h), some
 * rows side by side are multiplied by x just as they lie in the file, or FP4 by way of a table
 * of its 256 scales times 16 codes; other types are decoded some hundred units at a time. A
 * chain is a lane of a vector; then
 *
 *     the lanes of 16 rows are transposed and added in their order
 *
 * Where all of k is one chain, 32 rows are decoded and multiplied with rows as the lanes.
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    TASKS_PER_THREAD = 8,
    MAX_TASK_ROWS = 16 * NB_FEW_LANES,
    BLOCK_BYTES = NB_BLOCK_UNITS * 4, /* of one row */
    PANEL_BYTES = NB_FEW_LANES * BLOCK_BYTES,
    SUMS = NB_FEW_LANES * NB_FEW_ROWS,
    GROUP = 16, /* rows that are folded at once */
    LANES_BYTES = GROUP * NB_FEW_ROWS * 64,
    SCRATCH_BYTES = PANEL_BYTES + LANES_BYTES,
    LINE = 64,
    PIECE_BYTES = 24 << 10, /* of x, in L1 beside W */
};

/* How a part is multiplied. */
enum way { ONE_CHAIN, AS_IT_LIES, TYPED, F8, FP4, DECODED };

struct plan {
    const nb_linear_args *a;
    const nb_gemm_isa *isa;
    nb_linear_part parts[NB_LINEAR_PARTS];
    enum way way[NB_LINEAR_PARTS];
    char *x[NB_LINEAR_PARTS]; /* [m][units]; for one chain [blocks of k][m][units] */
    char *table;              /* FP4's values, as units [scales][codes] */
    int n_parts;
    int64_t m, block_elements, task_rows;
    float *scaled; /* [k], a row of x */
    char *scratch; /* for each thread a panel and lanes */
};

/* What a task works on. */
struct rows {
    const struct plan *p;
    char *panel;
    float *lanes; /* [GROUP][m][16] */
    float *sums;  /* [2][NB_FEW_ROWS][16] */
    int64_t n0, n;
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Does a row have one scale, and no end within a chunk? */
static int is_even(const nb_weight *w, const nb_gemm_isa *isa)
{
    int one_scale = w->scale_kind == NB_SCALE_NONE || w->scale_kind == NB_SCALE_ROW;
    return one_scale && w->k % (NB_CHUNK_UNITS * isa->unit_elements) == 0;
}

static enum way way_of(const nb_linear_part *part, const nb_gemm_isa *isa)
{
    const nb_weight *w = &part->w;
    if (part->chains == 1) return ONE_CHAIN;
    if (w->dtype == NB_DTYPE_F4_E2M1X2) return FP4;
    if (!is_even(w, isa)) return DECODED;
    if (w->dtype == isa->dot_dtype && w->scale_kind == NB_SCALE_NONE && w->scale == 1.0f)
        return AS_IT_LIES;
    int is_f8 = w->dtype == NB_DTYPE_F8_E4M3 || w->dtype == NB_DTYPE_F8_E5M2;
    if (is_f8 && isa->dot_f8 && w->scale_kind == NB_SCALE_NONE) return F8;
    if (!isa->dot_typed) return DECODED;
    switch (w->dtype) {
    case NB_DTYPE_F32:
    case NB_DTYPE_F16:
    case NB_DTYPE_BF16:
    case NB_DTYPE_F8_E4M3:
        return TYPED;
    default:
        return DECODED;
    }
}

/* Units into the lanes that the codes of FP4 come in. */
static void reorder(char *units, int64_t n, const int32_t order[16])
{
    for (int64_t i = 0; i < n; i += NB_CHUNK_UNITS, units += NB_CHUNK_BYTES) {
        uint32_t from[16], to[16];
        memcpy(from, units, sizeof from);
        for (int j = 0; j < 16; j++) to[order[j]] = from[j];
        memcpy(units, to, sizeof to);
    }
}

/* A row of x becomes units just as a row of W does. */
static void pack_x(const struct plan *p, int i)
{
    const nb_linear_part *part = &p->parts[i];
    int64_t k = part->w.k;
    for (int64_t m = 0; m < p->m; m++) {
        const float *x = nb_tensor_f32(part->x) + m * part->x.stride[0];
        char *out = p->x[i] + m * part->units * 4;
        if (part->w.column_scales) nb_scale_columns(p->scaled, x, part->w.column_scales, k);
        nb_weight row = {.data = part->w.column_scales ? p->scaled : x,
                         .dtype = NB_DTYPE_F32,
                         .n = 1,
                         .k = k,
                         .scale = 1};
        if (p->way[i] != ONE_CHAIN) p->isa->decode(&row, 0, 0, k, out, NB_CHUNK_BYTES);
        if (p->way[i] == FP4 && p->isa->fp4_order) reorder(out, part->units, p->isa->fp4_order);
        if (p->way[i] != ONE_CHAIN) continue;
        for (int64_t k0 = 0, b = 0; k0 < k; k0 += p->block_elements, b++)
            p->isa->decode(&row, 0, k0, min_of(p->block_elements, k - k0),
                           p->x[i] + (b * p->m + m) * BLOCK_BYTES, NB_CHUNK_BYTES);
    }
}

/* The decoder itself makes the tables: that of FP4 of a row of blocks that have all codes under
 * all scales, a chunk for each scale. */
static void make_fp4_table(const struct plan *p)
{
    enum { MOST = 2, BLOCK = 16 };
    static const uint8_t all[BLOCK / 2] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};
    uint8_t codes[NB_SCALE_CODES * MOST * sizeof all], scales[NB_SCALE_CODES * MOST];
    int n_blocks = NB_SCALE_CODES * p->isa->unit_elements;
    nb_weight row = {.data = codes,
                     .dtype = NB_DTYPE_F4_E2M1X2,
                     .n = 1,
                     .k = n_blocks * BLOCK,
                     .scale_kind = NB_SCALE_NVFP4,
                     .scales = scales,
                     .scale = 1,
                     .scale_values = p->a->w->scale_values};
    for (int i = 0; i < n_blocks; i++) {
        memcpy(codes + (size_t)i * sizeof all, all, sizeof all);
        scales[i] = (uint8_t)(i / p->isa->unit_elements);
    }
    p->isa->decode(&row, 0, 0, row.k, p->table, NB_CHUNK_BYTES);
}

/* That of F8 of a row of all codes without a sign. */
static void make_f8_table(const struct plan *p)
{
    enum { CODES = 128 };
    uint8_t codes[CODES];
    nb_weight row = *p->a->w;
    row.data = codes;
    row.n = 1;
    row.k = CODES;
    for (int i = 0; i < CODES; i++) codes[i] = (uint8_t)i;
    p->isa->decode(&row, 0, 0, CODES, p->table, NB_CHUNK_BYTES);
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

static void multiply_one_chain(const struct rows *t, int i)
{
    const struct plan *p = t->p;
    const nb_linear_part *part = &p->parts[i];
    for (int64_t k0 = 0, b = 0; k0 < part->w.k; k0 += p->block_elements, b++) {
        nb_few_span span = {.w = t->panel,
                            .x = p->x[i] + b * p->m * BLOCK_BYTES,
                            .units =
                                (int)min_of(NB_BLOCK_UNITS, part->units - b * NB_BLOCK_UNITS),
                            .rows = (int)p->m};
        decode(p, &part->w, t->panel, t->n0, t->n, k0);
        p->isa->few(t->sums, &span);
    }
}

/* The span's rows, n of them from `row` on, as they lie; missing ones are the last again. */
static void point_at_rows(nb_dot_span *span, const nb_weight *w, int64_t row, int64_t n,
                          int64_t k0)
{
    int64_t row_bytes = nb_weight_row_bytes(w);
    const char *first = (const char *)w->data + row * row_bytes + k0 * row_bytes / w->k;
    for (int64_t r = 0; r < nb_dot_rows(span->m); r++)
        span->w[r] = first + min_of(r, n - 1) * row_bytes;
}

/* The same of FP4, whose rows are at one distance: where some are missing, all are copied. */
static void point_at_codes(const struct rows *t, nb_dot_span *span, const nb_weight *w,
                           int64_t row, int64_t n, int64_t k0)
{
    int64_t rows = nb_dot_rows(span->m);
    const char *codes = (const char *)w->data + (row * w->k + k0) / 2;
    span->stride = w->k / 2;
    span->scales_stride = w->k >> span->block_bits;
    span->scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> span->block_bits);
    if (n < rows) {
        int64_t count = span->chunks * NB_CHUNK_UNITS * t->p->isa->unit_elements;
        int64_t bytes = min_of(count, w->k - k0) / 2, n_scales = bytes * 2 >> span->block_bits;
        char *copies = t->panel, *scales = copies + rows * bytes;
        for (int64_t r = 0; r < rows; r++) {
            int64_t from = min_of(r, n - 1);
            memcpy(copies + r * bytes, codes + from * span->stride, (size_t)bytes);
            memcpy(scales + r * n_scales, span->scales + from * span->scales_stride,
                   (size_t)n_scales);
        }
        codes = copies;
        span->stride = bytes;
        span->scales = (const uint8_t *)scales;
        span->scales_stride = n_scales;
    }
    for (int64_t r = 0; r < rows; r++) span->w[r] = codes + r * span->stride;
}

/* Where in a part: a row of W and a unit of it. */
struct place {
    int64_t row, unit;
};

/* A piece of some rows, as units decoded into the panel. Asks for what is read next. */
static void dot_decoded(const struct rows *t, int i, nb_dot_span *span, struct place at,
                        int64_t n, struct place next, float *lanes)
{
    const struct plan *p = t->p;
    const nb_weight *w = &p->parts[i].w;
    int64_t k0 = at.unit * p->isa->unit_elements, next_k0 = next.unit * p->isa->unit_elements;
    int64_t count = min_of(span->chunks * NB_CHUNK_UNITS * p->isa->unit_elements, w->k - k0);
    for (int64_t r = 0; r < nb_dot_rows(span->m); r++) {
        span->w[r] = t->panel + r * BLOCK_BYTES;
        if (next.row + r < w->n) prefetch(p, w, next.row + r, next_k0);
        if (r < n)
            p->isa->decode(w, at.row + r, k0, count, t->panel + r * BLOCK_BYTES,
                           NB_CHUNK_BYTES);
    }
    p->isa->dot(lanes, span);
}

/* `n_units` of n rows, at most nb_dot_rows() of them. */
static void dot_piece(const struct rows *t, int i, struct place at, int64_t n, int64_t n_units,
                      struct place next, int accumulate, float *lanes)
{
    const struct plan *p = t->p;
    const nb_linear_part *part = &p->parts[i];
    const nb_weight *w = &part->w;
    int64_t k0 = at.unit * p->isa->unit_elements;
    int64_t columns = (next.unit - at.unit) * p->isa->unit_elements, rows = next.row - at.row;
    nb_dot_span span = {.x = p->x[i] + at.unit * 4,
                        .x_stride = part->units * 4,
                        .chunks = n_units / NB_CHUNK_UNITS,
                        .m = (int)p->m,
                        .accumulate = accumulate,
                        .table = p->table,
                        .block_bits = nb_weight_block_bits(w),
                        .high_first = w->high_first};
    span.ahead = rows * nb_weight_row_bytes(w) + columns * nb_weight_row_bytes(w) / w->k;
    switch (p->way[i]) {
    case FP4:
        span.scales_ahead = (rows * w->k + columns) / (1 << span.block_bits);
        span.half = k0 + n_units * p->isa->unit_elements > w->k;
        point_at_codes(t, &span, w, at.row, n, k0);
        p->isa->dot_fp4(lanes, &span);
        break;
    case AS_IT_LIES:
    case F8:
        point_at_rows(&span, w, at.row, n, k0);
        (p->way[i] == F8 ? p->isa->dot_f8 : p->isa->dot)(lanes, &span);
        break;
    case TYPED:
        point_at_rows(&span, w, at.row, n, k0);
        span.dtype = w->dtype;
        for (int64_t r = 0; r < nb_dot_rows(p->m); r++)
            span.row_scale[r] = nb_weight_scale_at(w, at.row + min_of(r, n - 1), 0);
        p->isa->dot_typed(lanes, &span);
        break;
    default:
        span.ahead = 0;
        dot_decoded(t, i, &span, at, n, next, lanes);
    }
}

/* Units of the pieces that a block of k is cut into, so that they fill the panel, or that x and
 * what is asked for ahead stay in L1. With one or two rows of x the processor's own prefetching
 * of whole blocks is the best; FP4 takes fewer bytes than further calls are worth. */
static int64_t piece_units(const struct plan *p, int i, int64_t n_units)
{
    const nb_weight *w = &p->parts[i].w;
    int64_t chunk = NB_CHUNK_UNITS * p->isa->unit_elements * nb_weight_row_bytes(w) / w->k;
    int64_t of_x = PIECE_BYTES / NB_CHUNK_BYTES / p->m;
    int64_t of_w = PIECE_BYTES / chunk / nb_dot_rows(p->m);
    if (p->way[i] == DECODED) return NB_BLOCK_UNITS;
    if (p->way[i] == FP4 || p->m <= 2) return n_units;
    return min_of(of_x, of_w) * NB_CHUNK_UNITS;
}

/* A block of k of up to GROUP rows into lanes. */
static void dot_group(const struct rows *t, int i, struct place at, int64_t n, int64_t n_units,
                      struct place next)
{
    const struct plan *p = t->p;
    int64_t step = nb_dot_rows(p->m), piece = piece_units(p, i, n_units);
    for (int64_t unit = 0; unit < n_units; unit += piece)
        for (int64_t r = 0; r < n; r += step) {
            struct place here = {at.row + r, at.unit + unit}, then = next;
            if (r + step < n)
                then = (struct place){here.row + step, here.unit};
            else if (unit + piece < n_units)
                then = (struct place){at.row, here.unit + piece};
            dot_piece(t, i, here, min_of(step, n - r), min_of(piece, n_units - unit), then,
                      unit ? NB_SUMS_CONTINUE : NB_SUMS_STORE, t->lanes + r * p->m * 16);
        }
}

static void multiply_chains(const struct rows *t, int i)
{
    const struct plan *p = t->p;
    const nb_linear_part *part = &p->parts[i];
    int64_t end = t->n0 + t->n;
    for (int64_t unit = 0; unit < part->units; unit += part->block_units) {
        int64_t n_units = min_of(part->block_units, part->units - unit);
        for (int64_t row = t->n0; row < end; row += GROUP) {
            struct place next = {row + GROUP, unit};
            if (next.row >= end && unit + n_units < part->units)
                next = (struct place){t->n0, unit + n_units};
            else if (next.row >= end)
                next.unit = 0;
            dot_group(t, i, (struct place){row, unit}, min_of(GROUP, end - row), n_units, next);
            p->isa->fold(t->sums + (row - t->n0) * NB_FEW_ROWS, t->lanes, (int)p->m,
                         p->way[i] == FP4 ? p->isa->fp4_order : NULL,
                         part->first_unit + unit > 0);
        }
    }
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    int64_t end = min_of((task + 1) * p->task_rows, p->a->w->n);
    char *scratch = p->scratch + (int64_t)thread * SCRATCH_BYTES;
    _Alignas(64) float sums[SUMS];
    struct rows t = {.p = p,
                     .panel = scratch,
                     .lanes = (float *)(void *)(scratch + PANEL_BYTES),
                     .sums = sums};
    for (t.n0 = task * p->task_rows; t.n0 < end; t.n0 += NB_FEW_LANES) {
        t.n = min_of(NB_FEW_LANES, end - t.n0);
        memset(sums, 0, sizeof sums);
        for (int i = 0; i < p->n_parts; i++)
            (p->way[i] == ONE_CHAIN ? multiply_one_chain : multiply_chains)(&t, i);
        for (int64_t r = 0; r < t.n; r += GROUP)
            finish(p, sums + r * NB_FEW_ROWS, t.n0 + r, min_of(GROUP, t.n - r));
    }
}

/* All memory of a job, and x in its units. */
static void prepare(nb_stream *s, struct plan *p)
{
    p->scratch = nb_arena_alloc(s->arena, (size_t)SCRATCH_BYTES * (size_t)s->threads);
    p->scaled = nb_arena_alloc(s->arena, (size_t)p->a->w->k * sizeof(float));
    p->table = nb_arena_alloc(s->arena, NB_SCALE_CODES * NB_CHUNK_BYTES);
    int failed = !p->scratch || !p->scaled || !p->table;
    for (int i = 0; i < p->n_parts; i++) {
        int64_t n_blocks = (p->parts[i].units + NB_BLOCK_UNITS - 1) / NB_BLOCK_UNITS;
        p->way[i] = way_of(&p->parts[i], p->isa);
        p->x[i] = nb_arena_alloc(s->arena, (size_t)(n_blocks * p->m * BLOCK_BYTES));
        failed |= !p->x[i];
    }
    if (failed) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    if (s->status != NB_OK) return;
    for (int i = 0; i < p->n_parts; i++) pack_x(p, i);
    if (p->way[0] == FP4) make_fp4_table(p);
    if (p->way[0] == F8) make_f8_table(p);
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
