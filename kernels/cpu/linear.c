/*
 * The driver of nb_linear on CPUs: x is packed into lanes once, then tasks of n_block weight
 * rows times m_block activation rows go over k in blocks:
 *
 *     decode n_block rows of W into panels (L2)
 *     for each tile of lanes
 *         for each chain of the block (its x: 12 to 32 KB, L1)
 *             for each panel: one register tile, whose sums are stored exactly
 *         after the last block: transpose the tile's sums into y, with the epilogue
 *
 * What is read from memory next, and the y that will be written, are asked for between the
 * register tiles. Blocks only say which task computes an element; how it is computed does not
 * depend on them. A low-rank branch is more of k: its sums go on where those of W end.
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    MAX_PANELS = 16, /* weight rows of a task: x is read from L3 once for that many */
    FEW_PANELS = 4,  /* less of them only where x has no more rows to share out */
    PANELS_BYTES = 680 << 10,
    TASKS_PER_THREAD = 4,  /* so that threads end together */
    MIN_PACKED_ROWS = 512, /* W is decoded once for them */
    LINE_BYTES = 64,
    LINE_FLOATS = LINE_BYTES / 4,
    /* of scaled rows of x, 2 elements to a unit: not a power of two */
    SCALED_STRIDE = 2 * NB_BLOCK_UNITS + 16,
    BLOCK_STEP = 256, /* of the units of a block: what decoders ask of k0 */
};
static const int64_t MAX_PACKED_BYTES = 16 << 20; /* L3 */

struct plan {
    const nb_linear_args *a;
    const nb_gemm_isa *isa;
    nb_linear_part parts[NB_LINEAR_PARTS];
    int n_parts, n_threads;
    int64_t units;    /* of all parts */
    int64_t n_panels; /* of W */
    int64_t m0, m;    /* rows of x that are packed now */
    int64_t m_block;  /* a multiple of lanes */
    int64_t n_m_blocks, n_n_blocks;
    int is_one_block; /* of k: a tile's sums are done with before the next tile */
    char *packed;     /* [parts][blocks of k][tiles of m][chains][units][lanes] */
    char *scratch;    /* for each thread: panels, sums, a row's chunks before they are spread */
    int64_t max_panels, panel_bytes, sums_bytes, scratch_bytes;
};

/* What a task works on. */
struct block {
    const struct plan *p;
    int64_t m0, m, n0, n; /* m0 from the first packed row */
    int64_t n_panels;
    char *panels;
    float *sums; /* [tile][panel][rows][lanes] */
    char *chunks;
};

/* A part's block of k. */
struct k_block {
    const nb_linear_part *part;
    int64_t unit, n_units;
    int64_t chain_units, chain_bytes; /* of a chain, of a panel's chain */
    int is_first, is_last;            /* of all parts' blocks */
};

/* Rows of W that are decoded next: bytes begin ... end of each, n_done of n are asked for. */
struct ahead {
    const char *data;
    int64_t row_bytes, begin, end, n, n_done;
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
    k.is_first = part->first_unit + unit == 0;
    k.is_last = part->first_unit + unit + k.n_units == p->units;
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

/* The first row of block i of W; past the last block, the number of rows. */
static int64_t first_row(const struct plan *p, int64_t i)
{
    int64_t panel = min_of(i, p->n_n_blocks) * p->n_panels / p->n_n_blocks;
    return min_of(panel * p->isa->rows, p->a->w->n);
}

/* Bytes of a row that a block of k is decoded from. */
static void block_bytes(const struct k_block *k, const nb_gemm_isa *isa, int64_t *begin,
                        int64_t *end)
{
    const nb_weight *w = &k->part->w;
    int64_t row_bytes = nb_weight_row_bytes(w), k0 = k->unit * isa->unit_elements;
    *begin = k0 * row_bytes / w->k;
    *end = min_of(k0 + k->n_units * isa->unit_elements, w->k) * row_bytes / w->k;
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

/* What is decoded after a block of k: rows of the next one, or those of block `next` of W. */
static struct ahead look_ahead(const struct block *b, const struct k_block *k, int64_t next)
{
    const struct plan *p = b->p;
    const nb_linear_part *part = k->part;
    int64_t unit = k->unit + k->n_units, n0 = b->n0, n = b->n;
    if (unit >= part->units) {
        part = k->is_last ? &p->parts[0] : k->part + 1;
        unit = 0;
    }
    if (k->is_last) {
        n0 = first_row(p, next);
        n = first_row(p, next + 1) - n0;
    }
    struct k_block to = k_block_at(p, part, unit);
    struct ahead f = {.row_bytes = nb_weight_row_bytes(&part->w), .n = n};
    f.data = (const char *)part->w.data + n0 * f.row_bytes;
    block_bytes(&to, p->isa, &f.begin, &f.end);
    return f;
}

/* Asks for one more row: the rows of a block of k are too short for the processor to see the
 * pattern by itself. */
static void fetch_row(struct ahead *f)
{
    const char *row = f->data + f->n_done++ * f->row_bytes;
    for (int64_t at = f->begin; at < f->end; at += LINE_BYTES)
        __builtin_prefetch(row + at, 0, 2);
}

/* Asks for a row of y and what is added to it or multiplied by it, m from the first packed
 * one. */
static void fetch_outputs(const struct block *b, int64_t m)
{
    const nb_linear_args *a = b->p->a;
    const nb_tensor t[] = {a->y, a->residual, a->mul};
    for (int i = 0; i < 3; i++) {
        if (!t[i].data || (i && t[i].data == a->y.data)) continue;
        const float *row = nb_tensor_f32(t[i]) + (b->p->m0 + m) * t[i].stride[0] + b->n0;
        for (int64_t at = 0; at < b->n; at += LINE_FLOATS) __builtin_prefetch(row + at, 1, 2);
        __builtin_prefetch(row + b->n - 1, 1, 2);
    }
}

/* A tile of lanes times all panels, chain by chain. Meanwhile the next chain of x, y and rows
 * of W up to `wanted` are asked for, evenly. */
static void multiply_tile(const struct block *b, const struct k_block *k, int64_t m,
                          float *sums, struct ahead *ahead, int64_t wanted)
{
    const struct plan *p = b->p;
    const int64_t no_offset = 0;
    int64_t tile_floats = p->isa->rows * p->isa->lanes;
    int lanes = lanes_at(p, m), chains = k->part->chains;
    nb_gemm_tile_fn *tile = lanes == p->isa->lanes ? p->isa->tile_full : p->isa->tile_half;
    nb_gemm_span span = {.x = packed_at(p, k, m),
                         .x_stride = lanes * 4,
                         .taps = &no_offset,
                         .n_taps = 1,
                         .units = (int)k->chain_units,
                         .accumulate = !k->is_first};
    if (span.accumulate && chains > 1) span.accumulate = NB_SUMS_ADD;
    span.ahead_step = (int)(lanes * 4 / b->n_panels + 1);
    int64_t n_tiles = chains * b->n_panels, x_bytes = k->chain_units * lanes * 4;
    int64_t rows = wanted - ahead->n_done, rows_due = 0;
    int64_t outputs = k->is_last ? min_of(lanes, b->m0 + b->m - m) : 0, outputs_due = 0;
    for (int j = 0; j < chains; j++) {
        for (int64_t i = 0; i < b->n_panels; i++) {
            for (rows_due += rows; rows_due >= n_tiles; rows_due -= n_tiles) fetch_row(ahead);
            for (outputs_due += outputs; outputs_due >= n_tiles; outputs_due -= n_tiles)
                fetch_outputs(b, m++);
            span.ahead = (const char *)span.x + x_bytes + x_bytes * i / b->n_panels;
            span.w = b->panels + i * p->panel_bytes + j * k->chain_bytes;
            tile(sums + i * tile_floats, &span);
        }
        span.x = (const char *)span.x + x_bytes;
        span.accumulate = NB_SUMS_ADD;
    }
}

/* A tile's sums into y: up to 16 rows times 16 columns at a time, whose lines begin where y's
 * do. */
static void finish_tile(const struct block *b, int64_t m, const float *sums)
{
    const struct plan *p = b->p;
    int rows = p->isa->rows, lanes = lanes_at(p, m);
    int64_t tile_floats = rows * p->isa->lanes, end = b->n0 + b->n;
    for (int64_t lane = 0; lane < min_of(lanes, b->m0 + b->m - m); lane += 16) {
        int64_t n_rows = min_of(16, b->m0 + b->m - m - lane);
        const float *panel = sums + lane, *at[16];
        int row = 0; /* of the panel */
        for (int64_t n = b->n0, count; n < end; n += count) {
            count = min_of(round_up(n + 1, LINE_FLOATS), end) - n;
            for (int64_t j = 0; j < 16; j++) {
                at[j] = j < count ? panel + row * lanes : at[0];
                if (j < count && ++row == rows) {
                    panel += tile_floats;
                    row = 0;
                }
            }
            p->isa->finish(p->a, at, p->m0 + m + lane, n_rows, n, count);
        }
    }
}

/* Rows that are decoded soon come from L2 or L3 into L1 meanwhile. */
static void decode_block(const struct block *b, const struct k_block *k)
{
    int64_t row_bytes = nb_weight_row_bytes(&k->part->w), begin, end;
    block_bytes(k, b->p->isa, &begin, &end);
    for (int64_t i = 0; i < b->n_panels * b->p->isa->rows; i++) {
        const char *row = (const char *)k->part->w.data + (b->n0 + i + 2) * row_bytes;
        for (int64_t at = begin; i + 2 < b->n && at < end; at += LINE_BYTES)
            __builtin_prefetch(row + at, 0, 3);
        decode_row(b, k, i);
    }
}

static void multiply_part(const struct block *b, const nb_linear_part *part, int64_t next)
{
    const struct plan *p = b->p;
    int64_t lanes = p->isa->lanes, n_tiles = round_up(b->m, lanes) / lanes;
    for (int64_t unit = 0; unit < part->units; unit += part->block_units) {
        struct k_block k = k_block_at(p, part, unit);
        struct ahead ahead = look_ahead(b, &k, next);
        decode_block(b, &k);
        for (int64_t t = 0; t < n_tiles; t++) {
            int64_t m = b->m0 + t * lanes, at = p->is_one_block ? 0 : t;
            float *sums = b->sums + at * b->n_panels * p->isa->rows * lanes;
            multiply_tile(b, &k, m, sums, &ahead, (t + 1) * ahead.n / n_tiles);
            if (k.is_last) finish_tile(b, m, sums);
        }
    }
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    char *scratch = p->scratch + thread * p->scratch_bytes;
    int64_t n_block = task / p->n_m_blocks;
    struct block b = {.p = p,
                      .m0 = task % p->n_m_blocks * p->m_block,
                      .n0 = first_row(p, n_block),
                      .panels = scratch,
                      .sums = (float *)(void *)(scratch + p->max_panels * p->panel_bytes)};
    b.chunks = (char *)b.sums + p->sums_bytes;
    b.m = min_of(p->m_block, p->m - b.m0);
    b.n = first_row(p, n_block + 1) - b.n0;
    b.n_panels = round_up(b.n, p->isa->rows) / p->isa->rows;
    for (int i = 0; i < p->n_parts; i++)
        multiply_part(&b, &p->parts[i], (task + p->n_threads) / p->n_m_blocks);
}

/* Blocks of W as even as they can be, and so many that threads end together. More blocks of x
 * mean that W is decoded more often. */
static void choose_blocks(struct plan *p)
{
    int64_t most = p->n_panels, threads = p->n_threads, lanes = p->isa->lanes;
    int64_t wanted = TASKS_PER_THREAD * threads;
    int64_t n = round_up(round_up(most, p->max_panels) / p->max_panels, threads);
    if (n < wanted) n = min_of(wanted, round_up(most, FEW_PANELS) / FEW_PANELS);
    p->n_n_blocks = min_of(n, most);
    int64_t n_m_blocks = (wanted + p->n_n_blocks - 1) / p->n_n_blocks;
    p->m_block = round_up(round_up(p->m, n_m_blocks) / n_m_blocks, lanes);
    p->n_m_blocks = round_up(p->m, p->m_block) / p->m_block;
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
    p->is_one_block = p->n_parts == 1 && p->units <= p->parts[0].block_units;
    int64_t tiles = p->is_one_block ? 1 : round_up(step, isa->lanes) / isa->lanes;
    p->sums_bytes = p->max_panels * isa->rows * tiles * isa->lanes * 4;
    p->scratch_bytes = p->max_panels * p->panel_bytes + p->sums_bytes + NB_SEGMENT_UNITS * 4;
    if (p->scratch_bytes < isa->lanes * SCALED_STRIDE * 4)
        p->scratch_bytes = isa->lanes * SCALED_STRIDE * 4;
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
    struct plan p = {.a = a, .isa = isa, .n_threads = s->threads};
    nb_arena_mark mark = nb_arena_save(s->arena);
    int64_t m = a->x.shape[0], lanes = isa->lanes;
    p.n_parts = nb_linear_parts(s, a, isa, p.parts);
    for (int i = 0; i < p.n_parts; i++) p.units += p.parts[i].units;
    p.n_panels = round_up(a->w->n, isa->rows) / isa->rows;
    int64_t most = MAX_PACKED_BYTES / (p.units * 4);
    if (most < MIN_PACKED_ROWS) most = MIN_PACKED_ROWS;
    int64_t n_passes = (m + most - 1) / most;
    int64_t step = round_up(round_up(m, n_passes) / n_passes, lanes);
    prepare(s, &p, step);
    for (; p.m0 < m; p.m0 += step) {
        p.m = min_of(step, m - p.m0);
        choose_blocks(&p);
        nb_parallel(s, round_up(p.m, lanes) / lanes, pack_task, &p);
        nb_parallel(s, p.n_n_blocks * p.n_m_blocks, multiply_task, &p);
    }
    nb_arena_rewind(s->arena, mark);
}
