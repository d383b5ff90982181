/*
 * The driver of nb_linear on CPUs: x is packed into lanes once, then tasks of n_block weight
 * rows times m_block activation rows go over k in blocks of NB_BLOCK_UNITS:
 *
 *     decode n_block rows of W into panels (L2)
 *     for each tile of lanes (x: 32 KB, L1)
 *         for each panel: one register tile, its sums loaded and stored exactly
 *
 * and at the end the sums, [n][m], are transposed into y with the epilogue. Blocks only say
 * which task computes an element; how it is computed does not depend on them. A low-rank branch
 * is more of k: its sums go on where those of W end.
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    MAX_PANELS = 16,      /* weight rows of a task: x is read from L3 once for that many */
    MAX_M_BLOCK = 512,    /* with MAX_PANELS: 384 KB of sums in L2 */
    TASKS_PER_THREAD = 4, /* so that threads end together */
    MAX_ROWS = 16,        /* of a panel, in any instruction set */
    /* of scaled rows of x, 2 elements to a unit: not a power of two */
    SCALED_STRIDE = 2 * NB_BLOCK_UNITS + 16,
};
static const int64_t MAX_PACKED_BYTES = 64 << 20;

struct plan {
    const nb_linear_args *a;
    const nb_gemm_isa *isa;
    nb_linear_part parts[NB_LINEAR_PARTS];
    int n_parts;
    int64_t units;            /* of all parts */
    int64_t m0, m;            /* rows of x that are packed now */
    int64_t m_block, n_block; /* multiples of lanes and rows */
    int64_t n_m_blocks;
    char *packed;  /* [parts][blocks of k][tiles of m][units][lanes] */
    char *scratch; /* for each thread: panels, then sums */
    int64_t panel_bytes, scratch_bytes;
};

/* What a task works on. */
struct block {
    const struct plan *p;
    int64_t m0, m, n0, n; /* m0 from the first packed row */
    char *panels;
    float *sums; /* [tile][panel][rows][lanes] */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t round_up(int64_t a, int64_t step)
{
    return (a + step - 1) / step * step;
}

/* Lanes of the tile at row m of the packed rows: only the last one can be a half tile. */
static int lanes_at(const struct plan *p, int64_t m)
{
    int lanes = p->isa->lanes;
    return p->m - m > lanes / 2 ? lanes : lanes / 2;
}

/* Tile at row m, block of k at a part's `unit`. A block of k is contiguous: tiles at the
 * distance of whole rows, often a power of two, would compete for the same places in the
 * caches. */
static char *packed_at(const struct plan *p, const nb_linear_part *part, int64_t m,
                       int64_t unit)
{
    int64_t n_units = min_of(NB_BLOCK_UNITS, part->units - unit);
    int64_t before = round_up(p->m, p->isa->lanes) * (part->first_unit + unit);
    return p->packed + (before + m * n_units) * 4;
}

/* A block of x with its columns scaled: [n_rows, k] at stride SCALED_STRIDE. */
static const float *scale_block(float *out, const float *x, int64_t stride, const float *scales,
                                int64_t n_rows, int64_t k)
{
    for (int64_t i = 0; i < n_rows; i++)
        nb_scale_columns(out + i * SCALED_STRIDE, x + i * stride, scales, k);
    return out;
}

static void pack_part(const struct plan *p, const nb_linear_part *part, int64_t m,
                      float *scaled)
{
    int64_t stride = part->x.stride[0], block = NB_BLOCK_UNITS * p->isa->unit_elements;
    int64_t n_rows = min_of(p->isa->lanes, p->m - m);
    const float *scales = part->w.column_scales;
    for (int64_t unit = 0; unit < part->units; unit += NB_BLOCK_UNITS) {
        int64_t k0 = unit * p->isa->unit_elements, k = min_of(block, part->w.k - k0);
        const float *x = nb_tensor_f32(part->x) + (p->m0 + m) * stride + k0;
        if (scales) x = scale_block(scaled, x, stride, scales + k0, n_rows, k);
        p->isa->pack_rows(packed_at(p, part, m, unit), lanes_at(p, m), x,
                          scales ? SCALED_STRIDE : stride, n_rows, k);
    }
}

static void pack_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    float *scaled = (float *)(void *)(p->scratch + thread * p->scratch_bytes);
    for (int i = 0; i < p->n_parts; i++)
        pack_part(p, &p->parts[i], task * p->isa->lanes, scaled);
}

/* Row i of the block's panels; rows past the last weight row are 0. */
static void decode_row(const struct block *b, const nb_linear_part *part, int64_t i,
                       int64_t unit, int64_t n_units)
{
    const nb_gemm_isa *isa = b->p->isa;
    const nb_weight *w = &part->w;
    int64_t stride = isa->rows * NB_CHUNK_BYTES;
    char *row = b->panels + i / isa->rows * b->p->panel_bytes + i % isa->rows * NB_CHUNK_BYTES;
    int64_t k0 = unit * isa->unit_elements;
    if (i < b->n)
        isa->decode(w, b->n0 + i, k0, min_of(n_units * isa->unit_elements, w->k - k0), row,
                    stride);
    else
        for (int64_t u = 0; u < n_units; u += NB_CHUNK_UNITS, row += stride)
            memset(row, 0, NB_CHUNK_BYTES);
}

/* Asks for what decode_row will read: the rows of a k block are too short for the processor to
 * see the pattern by itself. */
static void prefetch_row(const struct block *b, const nb_linear_part *part, int64_t i,
                         int64_t unit)
{
    const nb_weight *w = &part->w;
    int64_t row_bytes = nb_weight_row_bytes(w);
    int64_t k0 = unit * b->p->isa->unit_elements;
    int64_t k1 = min_of(k0 + NB_BLOCK_UNITS * b->p->isa->unit_elements, w->k);
    const char *row = (const char *)w->data + (b->n0 + i) * row_bytes;
    int64_t begin = k0 * row_bytes / w->k, end = k1 * row_bytes / w->k;
    for (int64_t at = begin; i < b->n && at < end; at += 64) __builtin_prefetch(row + at, 0, 2);
}

static void multiply(const struct block *b, const nb_linear_part *part, int64_t unit,
                     int64_t n_units)
{
    const struct plan *p = b->p;
    const int64_t no_offset = 0;
    int64_t n_panels = round_up(b->n, p->isa->rows) / p->isa->rows, n_done = 0;
    int64_t n_tiles = round_up(b->m, p->isa->lanes) / p->isa->lanes;
    int64_t tile_floats = p->isa->rows * p->isa->lanes;
    for (int64_t t = 0; t < n_tiles; t++) {
        int64_t m = b->m0 + t * p->isa->lanes;
        int lanes = lanes_at(p, m);
        nb_gemm_tile_fn *tile = lanes == p->isa->lanes ? p->isa->tile_full : p->isa->tile_half;
        nb_gemm_span span = {.x = packed_at(p, part, m, unit),
                             .x_stride = lanes * 4,
                             .taps = &no_offset,
                             .n_taps = 1,
                             .units = (int)n_units,
                             .accumulate = part->first_unit + unit > 0};
        for (int64_t i = 0; i < n_panels; i++) {
            int64_t wanted = (t * n_panels + i + 1) * b->n / (n_tiles * n_panels);
            for (; n_done < wanted; n_done++)
                prefetch_row(b, part, n_done, unit + NB_BLOCK_UNITS);
            span.w = b->panels + i * p->panel_bytes;
            tile(b->sums + (t * n_panels + i) * tile_floats, &span);
        }
    }
}

/* 16 outputs times 16 rows at a time. */
static void finish(const struct block *b)
{
    const struct plan *p = b->p;
    int rows = p->isa->rows;
    int64_t n_panels = round_up(b->n, rows) / rows, tile_floats = rows * p->isa->lanes;
    for (int64_t m = 0; m < b->m; m += 16) {
        int64_t t = m / p->isa->lanes;
        int lanes = lanes_at(p, b->m0 + t * p->isa->lanes);
        const float *tile = b->sums + t * n_panels * tile_floats + m % p->isa->lanes;
        for (int64_t n = 0; n < b->n; n += 16) {
            const float *sums[16];
            for (int64_t j = 0; j < 16; j++) {
                int64_t row = min_of(n + j, b->n - 1);
                sums[j] = tile + row / rows * tile_floats + row % rows * lanes;
            }
            p->isa->finish(p->a, sums, p->m0 + b->m0 + m, min_of(16, b->m - m), b->n0 + n,
                           min_of(16, b->n - n));
        }
    }
}

static void multiply_part(const struct block *b, const nb_linear_part *part)
{
    for (int64_t unit = 0; unit < part->units; unit += NB_BLOCK_UNITS) {
        int64_t n_units = min_of(NB_BLOCK_UNITS, part->units - unit);
        for (int64_t i = 0; i < round_up(b->n, b->p->isa->rows); i++)
            decode_row(b, part, i, unit, n_units);
        multiply(b, part, unit, n_units);
    }
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    char *scratch = p->scratch + thread * p->scratch_bytes;
    struct block b = {.p = p,
                      .m0 = task % p->n_m_blocks * p->m_block,
                      .n0 = task / p->n_m_blocks * p->n_block,
                      .panels = scratch,
                      .sums = (float *)(void *)(scratch + MAX_PANELS * p->panel_bytes)};
    b.m = min_of(p->m_block, p->m - b.m0);
    b.n = min_of(p->n_block, p->a->w->n - b.n0);
    for (int i = 0; i < p->n_parts; i++) multiply_part(&b, &p->parts[i]);
    finish(&b);
}

/* Blocks as even as they can be, and enough tasks to go round. */
static void choose_blocks(struct plan *p, int threads)
{
    int64_t n = p->a->w->n, lanes = p->isa->lanes, rows = p->isa->rows;
    int64_t n_m_blocks = round_up(p->m, MAX_M_BLOCK) / MAX_M_BLOCK;
    p->m_block = round_up(round_up(p->m, n_m_blocks) / n_m_blocks, lanes);
    p->n_m_blocks = round_up(p->m, p->m_block) / p->m_block;
    p->n_block = MAX_PANELS * rows;
    while (p->n_block > rows && round_up(n, p->n_block) / p->n_block * p->n_m_blocks <
                                    (int64_t)TASKS_PER_THREAD * threads)
        p->n_block = p->n_block / rows / 2 * rows;
}

int nb_linear_parts(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa,
                    nb_linear_part parts[NB_LINEAR_PARTS])
{
    const nb_low_rank *low = &a->w->low_rank;
    int64_t k = a->w->k, unit_elements = isa->unit_elements;
    parts[0] = (nb_linear_part){
        .w = *a->w, .x = a->x, .units = (k + unit_elements - 1) / unit_elements};
    if (!low->rank) return 1;
    nb_weight down = {
        .data = low->down, .dtype = low->dtype, .n = low->rank, .k = k, .scale = 1.0f};
    nb_weight up = {
        .data = low->up, .dtype = low->dtype, .n = a->w->n, .k = low->rank, .scale = 1.0f};
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(a->x.shape[0], low->rank));
    if (t.data) nb_linear_gemm(s, &(nb_linear_args){.y = t, .x = a->x, .w = &down}, isa);
    parts[1] = (nb_linear_part){.w = up,
                                .x = t,
                                .first_unit = parts[0].units,
                                .units = (low->rank + unit_elements - 1) / unit_elements};
    return 2;
}

void nb_linear_gemm(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa)
{
    if (isa->few && a->x.shape[0] <= NB_FEW_ROWS) {
        nb_linear_few(s, a, isa);
        return;
    }
    struct plan p = {.a = a, .isa = isa};
    nb_arena_mark mark = nb_arena_save(s->arena);
    int64_t m = a->x.shape[0], lanes = isa->lanes;
    p.n_parts = nb_linear_parts(s, a, isa, p.parts);
    for (int i = 0; i < p.n_parts; i++) p.units += p.parts[i].units;
    int64_t most = MAX_PACKED_BYTES / (p.units * 4) / MAX_M_BLOCK * MAX_M_BLOCK;
    int64_t step = min_of(m, most > MAX_M_BLOCK ? most : MAX_M_BLOCK);
    p.panel_bytes = NB_BLOCK_UNITS * 4 * isa->rows;
    p.scratch_bytes = MAX_PANELS * (p.panel_bytes + isa->rows * MAX_M_BLOCK * 4);
    p.packed = nb_arena_alloc(s->arena, (size_t)(round_up(step, lanes) * p.units * 4));
    p.scratch = nb_arena_alloc(s->arena, (size_t)(p.scratch_bytes * s->threads));
    if (!p.packed || !p.scratch) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    for (; p.m0 < m; p.m0 += step) {
        p.m = min_of(step, m - p.m0);
        choose_blocks(&p, s->threads);
        nb_parallel(s, round_up(p.m, lanes) / lanes, pack_task, &p);
        nb_parallel(s, round_up(a->w->n, p.n_block) / p.n_block * p.n_m_blocks, multiply_task,
                    &p);
    }
    nb_arena_rewind(s->arena, mark);
}
