/*
 * The driver of 8-bit linears of many rows, like kernels/cpu/linear.c: x is rounded and packed
 * into lanes once, then tasks of n_block weight rows times m_block rows of x go over k in
 * blocks
 *
 *     decode and round n_block rows of W into panels (L2)
 *     for each tile of lanes (x: 24 KB, L1)
 *         for each panel: one register tile, its sums loaded and stored exactly
 *
 * and at the end the sums, [n][m], are transposed into y with the epilogue. Integers are
 * multiplied twice as fast as BF16, so that all the rest counts twice: blocks of m are as large
 * as L2 allows for, because W is decoded anew for each.
 */
#include "kernels/cpu/linear_a8.h"

#include <string.h>

#include "kernels/ops.h"

enum {
    MAX_PANELS = 32,      /* weight rows of a task: x is read from L3 once for that many */
    MAX_M_BLOCK = 512,    /* with MAX_PANELS: 384 KB of sums in L2 */
    TASKS_PER_THREAD = 4, /* so that threads end together */
    MAX_ROWS = 16,        /* of a panel, in any instruction set */
    LINE = 64,
    DECODE_AHEAD = 24,
    SCALED_STRIDE = NB_A8_DEPTH + 16, /* of scaled rows of x: not a power of two */
};
static const int64_t MAX_PACKED_BYTES = 64 << 20;

struct plan {
    const nb_linear_args *a;
    const nb_a8_isa *isa;
    nb_a8_part parts[NB_A8_PARTS];
    int n_parts;
    int64_t m0, m;            /* rows of x that are packed now */
    int64_t m_block, n_block; /* multiples of lanes and rows */
    int64_t n_m_blocks;
    char *packed;  /* [parts][blocks of k][tiles of m], each as linear_a8.h says */
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

/* Columns of the part's block at k0. */
static int64_t depth_at(const nb_a8_part *part, int64_t k0)
{
    return min_of(NB_A8_DEPTH, part->w.k - k0);
}

/* Tile at row m, block of k at a part's k0. A block of k is contiguous. */
static char *packed_at(const struct plan *p, const nb_a8_part *part, int64_t m, int64_t k0)
{
    int64_t before = nb_a8_lane_bytes(p->isa, k0);
    for (const nb_a8_part *other = p->parts; other < part; other++)
        before += nb_a8_lane_bytes(p->isa, other->w.k);
    return p->packed + round_up(p->m, p->isa->lanes) * before +
           m * nb_a8_lane_bytes(p->isa, depth_at(part, k0));
}

/* A block of x with its columns scaled: [n_rows, k] at stride SCALED_STRIDE. */
static const float *scale_block(float *out, const float *x, int64_t stride, const float *scales,
                                int64_t n_rows, int64_t k)
{
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < k; j++)
            out[i * SCALED_STRIDE + j] = x[i * stride + j] * scales[j];
    return out;
}

static void pack_part(const struct plan *p, const nb_a8_part *part, int64_t m, float *scaled)
{
    int64_t stride = part->x.stride[0], n_rows = min_of(p->isa->lanes, p->m - m);
    const float *scales = part->w.column_scales;
    for (int64_t k0 = 0; k0 < part->w.k; k0 += NB_A8_DEPTH) {
        int64_t k = depth_at(part, k0);
        const float *x = nb_tensor_f32(part->x) + (p->m0 + m) * stride + k0;
        if (scales) x = scale_block(scaled, x, stride, scales + k0, n_rows, k);
        p->isa->pack(packed_at(p, part, m, k0), lanes_at(p, m), x,
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

/* The scales of a panel, which follow its chunks. */
static float *scales_of(const struct block *b, int64_t panel)
{
    return (float *)(void *)(b->panels + panel * b->p->panel_bytes +
                             b->p->isa->rows * NB_A8_DEPTH * b->p->isa->element_bytes);
}

static int32_t *shifts_of(const struct block *b, int64_t panel)
{
    return (int32_t *)(void *)(scales_of(b, panel) + b->p->isa->rows * NB_A8_DEPTH_GROUPS);
}

/* Row i of the block's panels. Rows past the last weight row are never looked at: a product of
 * whatever is there goes into sums that finish() leaves out. */
static void decode_row(const struct block *b, const nb_a8_part *part, int64_t i, int64_t k0)
{
    const nb_a8_isa *isa = b->p->isa;
    int64_t panel = i / isa->rows, row = i % isa->rows;
    nb_a8_decoded out = {.chunks = b->panels + panel * b->p->panel_bytes + row * NB_CHUNK_BYTES,
                         .chunk_stride = isa->rows * NB_CHUNK_BYTES,
                         .scales = scales_of(b, panel) + row * NB_A8_DEPTH_GROUPS,
                         .shifts = shifts_of(b, panel) + row * NB_A8_DEPTH_BLOCKS};
    isa->decode(&part->w, b->n0 + i, k0, depth_at(part, k0), &out);
}

/* The last line too: in a file's bytes a piece begins anywhere in its first one. */
static void prefetch_bytes(const void *data, int64_t begin, int64_t end)
{
#pragma GCC unroll 4
    for (int64_t at = begin; at < end; at += LINE)
        __builtin_prefetch((const char *)data + at, 0, 2);
    __builtin_prefetch((const char *)data + end - 1, 0, 2);
}

void nb_a8_prefetch(const nb_weight *w, int64_t row, int64_t k0, int64_t count)
{
    int64_t k1 = min_of(k0 + count, w->k), at = row * w->k + k0, end = row * w->k + k1;
    if (w->dtype == NB_DTYPE_F4_E2M1X2) {
        int bits = nb_weight_block_bits(w);
        prefetch_bytes(w->data, at / 2, end / 2);
        prefetch_bytes(w->scales, at >> bits, end >> bits);
        return;
    }
    int64_t row_bytes = nb_weight_row_bytes(w);
    prefetch_bytes((const char *)w->data + row * row_bytes, k0 * row_bytes / w->k,
                   k1 * row_bytes / w->k);
}

/* Asks for what decode_row will read after the block at k0, the next of k or the first of the
 * rows after these: such pieces of rows are too short for the processor to see the pattern by
 * itself. */
static void prefetch_row(const struct block *b, const nb_a8_part *part, int64_t i, int64_t k0)
{
    const nb_weight *w = &part->w;
    int is_last = k0 + NB_A8_DEPTH >= w->k;
    int64_t row = b->n0 + i + (is_last ? b->n : 0);
    if (row < w->n) nb_a8_prefetch(w, row, is_last ? 0 : k0 + NB_A8_DEPTH, NB_A8_DEPTH);
}

static void multiply(const struct block *b, const nb_a8_part *part, int64_t k0)
{
    const struct plan *p = b->p;
    int64_t n_panels = round_up(b->n, p->isa->rows) / p->isa->rows, n_done = 0;
    int64_t n_tiles = round_up(b->m, p->isa->lanes) / p->isa->lanes;
    int64_t tile_floats = p->isa->rows * p->isa->lanes;
    for (int64_t t = 0; t < n_tiles; t++) {
        int64_t m = b->m0 + t * p->isa->lanes;
        int is_full = lanes_at(p, m) == p->isa->lanes;
        nb_a8_span span = {.x = packed_at(p, part, m, k0),
                           .blocks = (int)nb_a8_blocks(depth_at(part, k0)),
                           .accumulate = part > p->parts || k0 > 0};
        int64_t x_bytes = p->isa->lanes * nb_a8_lane_bytes(p->isa, depth_at(part, k0));
        for (int64_t i = 0; i < n_panels; i++) {
            int64_t wanted = (t * n_panels + i + 1) * b->n / (n_tiles * n_panels);
            for (; n_done < wanted; n_done++) prefetch_row(b, part, n_done, k0);
            if (t + 1 < n_tiles)
                prefetch_bytes(span.x, x_bytes + i * x_bytes / n_panels,
                               x_bytes + (i + 1) * x_bytes / n_panels);
            span.w = b->panels + i * p->panel_bytes;
            span.w_scales = scales_of(b, i);
            span.w_shifts = shifts_of(b, i);
            (is_full ? p->isa->tile_full
                     : p->isa->tile_half)(b->sums + (t * n_panels + i) * tile_floats, &span);
        }
    }
}

/* Where the sums of each weight row begin in a tile's, [MAX_PANELS * MAX_ROWS]. */
static void locate_rows(const struct block *b, int64_t lanes, int32_t *at)
{
    int32_t rows = b->p->isa->rows, tile_floats = rows * b->p->isa->lanes;
    for (int32_t n = 0, panel = 0; n < b->n; panel++)
        for (int32_t row = 0; row < rows && n < b->n; row++)
            at[n++] = panel * tile_floats + row * (int32_t)lanes;
}

/* 16 outputs times 16 rows at a time. */
static void finish(const struct block *b)
{
    const struct plan *p = b->p;
    int64_t rows = p->isa->rows, n_panels = round_up(b->n, rows) / rows, lanes = 0;
    int32_t at[MAX_PANELS * MAX_ROWS];
    for (int64_t m = 0; m < b->m; m += 16) {
        int64_t tile_m = m / p->isa->lanes * p->isa->lanes;
        const float *tile = b->sums + tile_m * n_panels * rows + (m - tile_m);
        if (lanes != lanes_at(p, b->m0 + tile_m)) {
            lanes = lanes_at(p, b->m0 + tile_m);
            locate_rows(b, lanes, at);
        }
        for (int64_t n = 0; n < b->n; n += 16) {
            const float *sums[16];
            for (int64_t j = 0; j < 16; j++) sums[j] = tile + at[min_of(n + j, b->n - 1)];
            p->isa->finish(p->a, sums, p->m0 + b->m0 + m, min_of(16, b->m - m), b->n0 + n,
                           min_of(16, b->n - n));
        }
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
    for (int i = 0; i < p->n_parts; i++)
        for (int64_t k0 = 0; k0 < p->parts[i].w.k; k0 += NB_A8_DEPTH) {
            for (int64_t row = 0; row < b.n; row++) {
                if (row + DECODE_AHEAD < b.n)
                    nb_a8_prefetch(&p->parts[i].w, b.n0 + row + DECODE_AHEAD, k0, NB_A8_DEPTH);
                decode_row(&b, &p->parts[i], row, k0);
            }
            multiply(&b, &p->parts[i], k0);
        }
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

int nb_a8_parts(nb_stream *s, const nb_linear_args *a, nb_a8_part parts[NB_A8_PARTS])
{
    const nb_low_rank *low = &a->w->low_rank;
    parts[0] = (nb_a8_part){.w = *a->w, .x = a->x};
    if (!low->rank) return 1;
    nb_weight down = {
        .data = low->down, .dtype = low->dtype, .n = low->rank, .k = a->w->k, .scale = 1};
    nb_weight up = {
        .data = low->up, .dtype = low->dtype, .n = a->w->n, .k = low->rank, .scale = 1};
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(a->x.shape[0], low->rank));
    nb_linear_args product = {.y = t, .x = a->x, .w = &down};
    if (t.data) nb_device_ops(s->device)->linear[NB_COMPUTE_BF16](s, &product);
    parts[1] = (nb_a8_part){.w = up, .x = t};
    return 2;
}

void nb_linear_a8(nb_stream *s, const nb_linear_args *a, const nb_a8_isa *isa)
{
    if (isa->few && a->x.shape[0] <= NB_FEW_ROWS) {
        nb_linear_a8_few(s, a, isa);
        return;
    }
    struct plan p = {.a = a, .isa = isa};
    nb_arena_mark mark = nb_arena_save(s->arena);
    int64_t m = a->x.shape[0], lanes = isa->lanes;
    p.n_parts = nb_a8_parts(s, a, p.parts);
    int64_t lane_bytes = 0;
    for (int i = 0; i < p.n_parts; i++) lane_bytes += nb_a8_lane_bytes(isa, p.parts[i].w.k);
    int64_t most = MAX_PACKED_BYTES / lane_bytes / MAX_M_BLOCK * MAX_M_BLOCK;
    int64_t step = min_of(m, most > MAX_M_BLOCK ? most : MAX_M_BLOCK);
    p.panel_bytes = round_up(isa->rows * (NB_A8_DEPTH * isa->element_bytes +
                                          4 * (NB_A8_DEPTH_GROUPS + NB_A8_DEPTH_BLOCKS)),
                             LINE);
    p.scratch_bytes = MAX_PANELS * (p.panel_bytes + isa->rows * MAX_M_BLOCK * 4);
    p.packed = nb_arena_alloc(s->arena, (size_t)(round_up(step, lanes) * lane_bytes));
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
