/*
 * The driver of nb_linear on CPUs: x is packed into lanes once, then tasks of n_block weight
 * rows times m_block activation rows go over k in blocks:
 *
 *     decode n_block rows of W into panels (L2)
 *     for each tile of lanes
 *         for each chain of the block (its x: 12 to 32 KB, L1)
 *             for each panel: one register tile, whose sums are stored exactly
 *
 * and at the end the sums, [n][m], are transposed into y with the epilogue. Blocks only say
 * which task computes an element; how it is computed does not depend on them. A low-rank branch
 * is more of k: its sums go on where those of W end.
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    MAX_PANELS = 16,   /* weight rows of a task: x is read from L3 once for that many */
    MAX_M_BLOCK = 512, /* with 8 panels: 192 KB of sums in L2 */
    PANELS_BYTES = 680 << 10,
    TASKS_PER_THREAD = 4, /* so that threads end together */
    MAX_ROWS = 16,        /* of a panel, in any instruction set */
    /* of scaled rows of x, 2 elements to a unit: not a power of two */
    SCALED_STRIDE = 2 * NB_BLOCK_UNITS + 16,
    BLOCK_STEP = 256, /* of the units of a block: what decoders ask of k0 */
};
static const int64_t MAX_PACKED_BYTES = 16 << 20; /* L3 */

struct plan {
    const nb_linear_args *a;
    const nb_gemm_isa *isa;
    nb_linear_part parts[NB_LINEAR_PARTS];
    int n_parts;
    int64_t units;            /* of all parts */
    int64_t m0, m;            /* rows of x that are packed now */
    int64_t m_block, n_block; /* multiples of lanes and rows */
    int64_t n_m_blocks;
    char *packed;  /* [parts][blocks of k][tiles of m][chains][units][lanes] */
    char *scratch; /* for each thread: panels, sums, a row's chunks before they are spread */
    int64_t max_panels, panel_bytes, sums_bytes, scratch_bytes;
};

/* What a task works on. */
struct block {
    const struct plan *p;
    int64_t m0, m, n0, n; /* m0 from the first packed row */
    char *panels;
    float *sums; /* [tile][panel][rows][lanes] */
    char *chunks;
};

/* A part's block of k. */
struct k_block {
    const nb_linear_part *part;
    int64_t unit, n_units;
    int64_t chain_units, chain_bytes; /* of a chain, of a panel's chain */
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

static struct k_block k_block_at(const struct plan *p, const nb_linear_part *part, int64_t unit)
{
    struct k_block k = {
        .part = part, .unit = unit, .n_units = min_of(part->block_units, part->units - unit)};
    k.chain_units = k.n_units / part->chains;
    k.chain_bytes = round_up(k.chain_units, NB_CHUNK_UNITS) * p->isa->rows * 4;
    return k;
}

/* Tile at row m in a block of k. A block is contiguous: tiles at the distance of whole rows,
 * often a power of two, would compete for the same places in the caches. */
static char *packed_at(const struct plan *p, const struct k_block *k, int64_t m)
{
    int64_t before = round_up(p->m, p->isa->lanes) * (k->part->first_unit + k->unit);
    return p->packed + (before + m * k->n_units) * 4;
}

/* A block of x with its columns scaled: [n_rows, k] at stride SCALED_STRIDE. */
static const float *scale_block(float *out, const float *x, int64_t stride, const float *scales,
                                int64_t n_rows, int64_t k)
{
    for (int64_t i = 0; i < n_rows; i++)
        nb_scale_columns(out + i * SCALED_STRIDE, x + i * stride, scales, k);
    return out;
}

static void pack_block(const struct plan *p, const struct k_block *k, int64_t m, float *scaled)
{
    int64_t stride = k->part->x.stride[0], step = NB_BLOCK_UNITS * p->isa->unit_elements;
    int64_t n_rows = min_of(p->isa->lanes, p->m - m), lane_bytes = lanes_at(p, m) * 4;
    int64_t k0 = k->unit * p->isa->unit_elements;
    int64_t k1 = min_of(k0 + k->n_units * p->isa->unit_elements, k->part->w.k);
    const float *scales = k->part->w.column_scales;
    nb_pack_place to = {.out = packed_at(p, k, m), .lanes = lanes_at(p, m)};
    to.unit_stride = k->part->chains > 1 ? k->chain_units * lane_bytes : lane_bytes;
    to.chunk_stride = k->part->chains > 1 ? lane_bytes : NB_CHUNK_UNITS * lane_bytes;
    for (; k0 < k1; k0 += step) {
        const float *x = nb_tensor_f32(k->part->x) + (p->m0 + m) * stride + k0;
        int64_t count = min_of(step, k1 - k0);
        if (scales) x = scale_block(scaled, x, stride, scales + k0, n_rows, count);
        p->isa->pack_rows(&to, x, scales ? SCALED_STRIDE : stride, n_rows, count);
        to.out = (char *)to.out + NB_BLOCK_UNITS / NB_CHUNK_UNITS * to.chunk_stride;
    }
}

static void pack_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    float *scaled = (float *)(void *)(p->scratch + thread * p->scratch_bytes);
    for (int i = 0; i < p->n_parts; i++)
        for (int64_t unit = 0; unit < p->parts[i].units; unit += p->parts[i].block_units) {
            struct k_block k = k_block_at(p, &p->parts[i], unit);
            pack_block(p, &k, task * p->isa->lanes, scaled);
        }
}

/* Row i of the block's panels; rows past the last weight row are 0. */
static void decode_row(const struct block *b, const struct k_block *k, int64_t i)
{
    const nb_gemm_isa *isa = b->p->isa;
    const nb_weight *w = &k->part->w;
    int64_t stride = isa->rows * NB_CHUNK_BYTES, k0 = k->unit * isa->unit_elements;
    int64_t count = min_of(k->n_units * isa->unit_elements, w->k - k0);
    char *row = b->panels + i / isa->rows * b->p->panel_bytes + i % isa->rows * NB_CHUNK_BYTES;
    if (i >= b->n) {
        for (int64_t at = 0; at < b->p->panel_bytes; at += stride)
            memset(row + at, 0, NB_CHUNK_BYTES);
    } else if (k->part->chains == 1) {
        isa->decode(w, b->n0 + i, k0, count, row, stride);
    } else {
        int64_t padded = round_up(k->chain_units, NB_CHUNK_UNITS);
        memset(b->chunks + k->chain_units * NB_CHUNK_BYTES, 0,
               (size_t)((padded - k->chain_units) * NB_CHUNK_BYTES));
        isa->decode(w, b->n0 + i, k0, count, b->chunks, NB_CHUNK_BYTES);
        isa->spread(row, k->chain_bytes, stride, b->chunks, padded);
    }
}

/* Asks for what decode_row will read: the rows of a block of k are too short for the processor
 * to see the pattern by itself. */
static void prefetch_row(const struct block *b, const nb_linear_part *part, int64_t i,
                         int64_t unit)
{
    const nb_weight *w = &part->w;
    int64_t row_bytes = nb_weight_row_bytes(w);
    int64_t k0 = unit * b->p->isa->unit_elements;
    int64_t k1 = min_of(k0 + part->block_units * b->p->isa->unit_elements, w->k);
    const char *row = (const char *)w->data + (b->n0 + i) * row_bytes;
    int64_t begin = k0 * row_bytes / w->k, end = k1 * row_bytes / w->k;
    for (int64_t at = begin; i < b->n && at < end; at += 64) __builtin_prefetch(row + at, 0, 2);
}

static void prefetch_lines(const char *p, int64_t begin, int64_t end)
{
    for (int64_t at = begin; at < end; at += 64) __builtin_prefetch(p + at, 0, 3);
}

/* A tile of lanes times all panels, chain by chain. Meanwhile rows prefetch0 ... prefetch1 of
 * the next block and the next chain of x are asked for. */
static void multiply_tile(const struct block *b, const struct k_block *k, int64_t t,
                          int64_t prefetch0, int64_t prefetch1)
{
    const struct plan *p = b->p;
    const int64_t no_offset = 0;
    int64_t n_panels = round_up(b->n, p->isa->rows) / p->isa->rows;
    int64_t tile_floats = p->isa->rows * p->isa->lanes, m = b->m0 + t * p->isa->lanes;
    int lanes = lanes_at(p, m), chains = k->part->chains;
    nb_gemm_tile_fn *tile = lanes == p->isa->lanes ? p->isa->tile_full : p->isa->tile_half;
    nb_gemm_span span = {.x = packed_at(p, k, m),
                         .x_stride = lanes * 4,
                         .taps = &no_offset,
                         .n_taps = 1,
                         .units = (int)k->chain_units,
                         .accumulate = k->part->first_unit + k->unit > 0};
    if (span.accumulate && chains > 1) span.accumulate = NB_SUMS_ADD;
    int64_t done = prefetch0, left = chains * n_panels, x_bytes = k->chain_units * lanes * 4;
    for (int j = 0; j < chains; j++) {
        for (int64_t i = 0; i < n_panels; i++, left--) {
            for (int64_t n = (prefetch1 - done + left - 1) / left; n > 0; n--)
                prefetch_row(b, k->part, done++, k->unit + k->n_units);
            prefetch_lines((const char *)span.x + x_bytes, x_bytes * i / n_panels,
                           x_bytes * (i + 1) / n_panels);
            span.w = b->panels + i * p->panel_bytes + j * k->chain_bytes;
            tile(b->sums + (t * n_panels + i) * tile_floats, &span);
        }
        span.x = (const char *)span.x + x_bytes;
        span.accumulate = NB_SUMS_ADD;
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
    int64_t n_tiles = round_up(b->m, b->p->isa->lanes) / b->p->isa->lanes;
    for (int64_t unit = 0; unit < part->units; unit += part->block_units) {
        struct k_block k = k_block_at(b->p, part, unit);
        for (int64_t i = 0; i < round_up(b->n, b->p->isa->rows); i++) decode_row(b, &k, i);
        for (int64_t t = 0; t < n_tiles; t++)
            multiply_tile(b, &k, t, t * b->n / n_tiles, (t + 1) * b->n / n_tiles);
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
                      .sums = (float *)(void *)(scratch + p->max_panels * p->panel_bytes)};
    b.chunks = (char *)b.sums + p->sums_bytes;
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
    p->n_block = p->max_panels * rows;
    while (p->n_block > rows && round_up(n, p->n_block) / p->n_block * p->n_m_blocks <
                                    (int64_t)TASKS_PER_THREAD * threads)
        p->n_block = p->n_block / rows / 2 * rows;
}

/* Blocks and chains of k: they depend on nothing else. */
static void cut_k(nb_linear_part *part, const nb_gemm_isa *isa)
{
    int64_t units = (part->w.k + isa->unit_elements - 1) / isa->unit_elements;
    part->units = round_up(units, NB_CHUNK_UNITS);
    part->chains = 1;
    part->block_units = NB_BLOCK_UNITS;
    if (!isa->few || part->units < NB_CHAINED_UNITS) return;
    int64_t n_blocks = round_up(part->units, NB_SEGMENT_UNITS) / NB_SEGMENT_UNITS;
    part->chains = NB_CHAINS;
    part->block_units = round_up(round_up(part->units, n_blocks) / n_blocks, BLOCK_STEP);
}

int nb_linear_parts(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa,
                    nb_linear_part parts[NB_LINEAR_PARTS])
{
    const nb_low_rank *low = &a->w->low_rank;
    parts[0] = (nb_linear_part){.w = *a->w, .x = a->x};
    cut_k(&parts[0], isa);
    if (!low->rank) return 1;
    nb_weight down = {
        .data = low->down, .dtype = low->dtype, .n = low->rank, .k = a->w->k, .scale = 1.0f};
    nb_weight up = {
        .data = low->up, .dtype = low->dtype, .n = a->w->n, .k = low->rank, .scale = 1.0f};
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(a->x.shape[0], low->rank));
    if (t.data) nb_linear_gemm(s, &(nb_linear_args){.y = t, .x = a->x, .w = &down}, isa);
    parts[1] = (nb_linear_part){.w = up, .x = t, .first_unit = parts[0].units};
    cut_k(&parts[1], isa);
    return 2;
}

/* All memory of a job; x is packed `step` rows at a time. */
static void prepare(nb_stream *s, struct plan *p, int64_t step)
{
    const nb_gemm_isa *isa = p->isa;
    for (int i = 0; i < p->n_parts; i++) {
        int64_t bytes = round_up(p->parts[i].block_units, NB_BLOCK_UNITS) * 4 * isa->rows;
        if (bytes > p->panel_bytes) p->panel_bytes = bytes;
    }
    p->max_panels = min_of(MAX_PANELS, PANELS_BYTES / p->panel_bytes);
    p->sums_bytes = p->max_panels * isa->rows * MAX_M_BLOCK * 4;
    p->scratch_bytes = p->max_panels * p->panel_bytes + p->sums_bytes + NB_SEGMENT_UNITS * 4;
    p->packed = nb_arena_alloc(s->arena, (size_t)(round_up(step, isa->lanes) * p->units * 4));
    p->scratch = nb_arena_alloc(s->arena, (size_t)(p->scratch_bytes * s->threads));
    if (!p->packed || !p->scratch) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
}

void nb_linear_gemm(nb_stream *s, const nb_linear_args *a, const nb_gemm_isa *isa)
{
    if (!a->x.shape[0] || !a->w->n) return;
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
    prepare(s, &p, step);
    for (; p.m0 < m; p.m0 += step) {
        p.m = min_of(step, m - p.m0);
        choose_blocks(&p, s->threads);
        nb_parallel(s, round_up(p.m, lanes) / lanes, pack_task, &p);
        nb_parallel(s, round_up(a->w->n, p.n_block) / p.n_block * p.n_m_blocks, multiply_task,
                    &p);
    }
    nb_arena_rewind(s->arena, mark);
}
