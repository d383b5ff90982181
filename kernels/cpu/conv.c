/*
 * The driver of nb_conv2d on CPUs. Pixels are the lanes of the register tile, the filter's taps
 * are offsets into a strip of the input:
 *
 *     pack all filters into panels, tap by tap inside a block of channels (once a call)
 *     for each patch of output pixels (a task, all output channels):
 *         for each block of channels:
 *             pack its strip: the patch and a rim, with affine map, silu, upsampling, zeros
 *             for each panel (L1; the next one is on its way from L3), for each tile of
 *                 pixels: one register tile
 *         write the sums, with bias and residual
 *
 * so nothing as large as a picture is ever copied. The order of a sum is: blocks of channels,
 * taps, channels; it depends on the number of channels and the kernel only.
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    BLOCK_UNITS_3X3 = 32, /* units of a block of channels: 288 steps of 64 bytes, 18 KB */
    MAX_TAPS = 9,
    SUM_BYTES = 512 << 10, /* sums of a patch: half of L2; 256 pixels at 512 channels */
    MIN_PATCH = 32,
    TASKS_PER_THREAD = 8,
    LINE_BYTES = 64,
};

struct plan {
    const nb_conv2d_args *a;
    const nb_gemm_isa *isa;
    int64_t c, h, w; /* of u, upsampled */
    int64_t source_h, source_w;
    int64_t out_h, out_w;
    int n_taps;
    int64_t taps[MAX_TAPS];                /* bytes into a strip */
    int64_t max_units, n_blocks, n_panels; /* max_units: of a block of channels */
    int64_t row_bytes;                     /* one row of a panel, all blocks */
    char *panels, *scratch;
    int64_t scratch_bytes, strip_bytes, line_bytes;
    int64_t patch_h, patch_w, n_patches_w, n_patches, task_patches;
    int64_t strip_w, plane; /* units from row to row and from channel to channel of a strip */
};

/* Runs of output pixels that lie side by side in the strip: a row of the patch each, or, where
 * rows are shorter than a tile, all of it with the gaps between rows. */
struct patch {
    const struct plan *p;
    int64_t i0, j0, h, w;
    int64_t n_runs, run_step; /* run_step: units of the strip */
    int64_t run_lanes;        /* whole tiles */
    int is_joined;
    char *strip, *line;
    float *sums; /* [panel][run][run_lanes / lanes][rows][lanes] */
};

/* Rows of x that the next strip will be packed from. */
struct ahead {
    const struct plan *p;
    int64_t c0, i0, j0, h, w;
    int64_t n_rows, n_done; /* of all channels */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t round_up(int64_t a, int64_t step)
{
    return (a + step - 1) / step * step;
}

static int64_t block_channels(const struct plan *p)
{
    return p->max_units * p->isa->unit_elements;
}

/* Units of the block of channels from c0 on. */
static int64_t block_units(const struct plan *p, int64_t c0)
{
    int64_t n = min_of(block_channels(p), p->c - c0), elements = p->isa->unit_elements;
    return (n + elements - 1) / elements;
}

/* Bytes of that block in a row of a panel. */
static int64_t block_bytes(const struct plan *p, int64_t c0)
{
    return p->n_taps * round_up(block_units(p, c0), NB_CHUNK_UNITS) * 4;
}

/* Panels lie side by side within a block of channels, in the order in which they are read. */
static char *panel_at(const struct plan *p, int64_t panel, int64_t c0)
{
    int64_t before = c0 / block_channels(p) * block_bytes(p, 0);
    return p->panels + (p->n_panels * before + panel * block_bytes(p, c0)) * p->isa->rows;
}

static const float *source_at(const struct plan *p, int64_t c, int64_t i, int64_t j)
{
    nb_tensor x = p->a->x;
    return nb_tensor_f32(x) + (c * p->source_h + i) * p->source_w + j;
}

static void pack_panel_task(void *arg, int64_t panel, int thread)
{
    const struct plan *p = arg;
    const nb_weight *w = p->a->w;
    int rows = p->isa->rows;
    float *row = (float *)(void *)(p->scratch + thread * p->scratch_bytes);
    for (int64_t r = 0; r < rows; r++) {
        int64_t o = panel * rows + r;
        if (o < w->n) p->isa->decode_f32(w, o, 0, w->k, row, NB_CHUNK_BYTES);
        for (int64_t c0 = 0; c0 < p->c; c0 += block_channels(p)) {
            char *to = panel_at(p, panel, c0) + r * NB_CHUNK_BYTES;
            int64_t n = min_of(block_channels(p), p->c - c0);
            if (o < w->n)
                p->isa->pack_filter(to, rows * NB_CHUNK_BYTES, row, c0, n, p->n_taps);
            else
                for (int64_t at = 0; at < block_bytes(p, c0); at += NB_CHUNK_BYTES)
                    memset(to + at * rows, 0, NB_CHUNK_BYTES);
        }
    }
}

static void fetch(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LINE_BYTES / 4) __builtin_prefetch(x + i, 0, 3);
}

/* Columns j ... j+n of row i of u, n > 0, all inside, of the channels of a unit. Those of the
 * next unit come from L2 meanwhile, or from wherever the panels have pushed them. */
static void pack_inside(const struct patch *b, int64_t channel, int64_t i, int64_t j, int64_t n,
                        uint32_t *to)
{
    const nb_conv2d_args *a = b->p->a;
    int up = a->upsample ? 1 : 0;
    nb_conv_source source = {.affine = a->mul.data != NULL,
                             .silu = a->silu,
                             .upsample = up,
                             .odd = up ? (int)(j & 1) : 0};
    for (int e = 0; e < b->p->isa->unit_elements && channel + e < b->p->c; e++) {
        int64_t c = channel + e, next = c + b->p->isa->unit_elements;
        source.x[e] = source_at(b->p, c, i >> up, j >> up);
        if (next < b->p->c) fetch(source_at(b->p, next, i >> up, j >> up), (n + up) >> up);
        if (!source.affine) continue;
        source.mul[e] = nb_tensor_f32(a->mul)[c];
        source.add[e] = nb_tensor_f32(a->add)[c];
    }
    b->p->isa->pack_pixels(to, &source, n);
}

/* A row of the strip: u with zeros outside. */
static void pack_row(const struct patch *b, int64_t channel, int64_t i, uint32_t *to)
{
    const struct plan *p = b->p;
    int64_t stride = p->a->stride, j0 = b->j0 * stride - p->a->pad;
    int64_t n = (b->w - 1) * stride + p->a->kernel;
    int64_t begin = max_of(0, -j0), end = min_of(n, p->w - j0);
    uint32_t *row = stride == 1 ? to : (uint32_t *)(void *)b->line;
    if (i < 0 || i >= p->h || begin >= end) {
        memset(to, 0, (size_t)p->strip_w * 4);
        return;
    }
    memset(row, 0, (size_t)begin * 4);
    memset(row + end, 0, (size_t)(n - end) * 4);
    pack_inside(b, channel, i, j0 + begin, end - begin, row + begin);
    for (int64_t t = 0; stride == 2 && t < n; t++)
        to[t % 2 * (p->strip_w / 2) + t / 2] = row[t];
}

static void pack_strip(const struct patch *b, int64_t c0)
{
    const struct plan *p = b->p;
    int64_t i0 = b->i0 * p->a->stride - p->a->pad, n = (b->h - 1) * p->a->stride + p->a->kernel;
    int64_t n_units = block_units(p, c0);
    uint32_t *to = (uint32_t *)(void *)b->strip;
    for (int64_t u = 0; u < n_units; u++)
        for (int64_t i = 0; i < n; i++) {
            uint32_t *row = to + u * p->plane + i * p->strip_w;
            int is_twin = p->a->upsample && i > 0 && i0 + i > 0 && (i0 + i) % 2;
            if (is_twin && i0 + i < p->h)
                memcpy(row, row - p->strip_w, (size_t)p->strip_w * 4);
            else
                pack_row(b, c0 + u * p->isa->unit_elements, i0 + i, row);
        }
}

/* Asks for rows of the next strip's source until `wanted` of them have been asked for: the
 * rows are too short and too far apart for the processor to see a pattern. */
static void fetch_rows(struct ahead *f, int64_t wanted)
{
    const struct plan *p = f->p;
    for (; f->n_done < min_of(wanted, f->n_rows); f->n_done++) {
        const char *row = (const char *)source_at(p, f->c0 + f->n_done / f->h,
                                                  f->i0 + f->n_done % f->h, f->j0);
        for (int64_t at = 0; at < f->w * 4; at += LINE_BYTES)
            __builtin_prefetch(row + at, 0, 2);
        __builtin_prefetch(row + f->w * 4 - 1, 0, 2);
    }
}

/* What is to be packed after block c0 of the patch. */
static struct ahead look_ahead(const struct patch *b, const struct patch *next, int64_t c0)
{
    const struct plan *p = b->p;
    int up = p->a->upsample ? 1 : 0;
    int64_t stride = p->a->stride, reach = p->a->kernel - p->a->pad;
    c0 += block_channels(p);
    if (c0 >= p->c) {
        c0 = 0;
        b = next;
    }
    struct ahead f = {.p = p, .c0 = c0};
    if (!b) return f;
    f.i0 = max_of(b->i0 * stride - p->a->pad, 0) >> up;
    f.j0 = max_of(b->j0 * stride - p->a->pad, 0) >> up;
    f.h = ((min_of((b->i0 + b->h - 1) * stride + reach, p->h) - 1) >> up) + 1 - f.i0;
    f.w = ((min_of((b->j0 + b->w - 1) * stride + reach, p->w) - 1) >> up) + 1 - f.j0;
    if (f.h > 0 && f.w > 0) f.n_rows = f.h * min_of(block_channels(p), p->c - c0);
    return f;
}

/* Calls piece_fn for each stretch of output pixels in lanes j ... j+n of a run. */
static void visit_pieces(const struct patch *b, int64_t panel, int64_t run, int64_t j,
                         int64_t n, const float *sums, nb_finish_pixels_fn *piece_fn)
{
    const struct plan *p = b->p;
    const nb_conv2d_args *a = p->a;
    int64_t o = panel * p->isa->rows, plane = p->out_h * p->out_w;
    nb_conv_piece piece = {
        .plane = plane, .lanes = n, .rows = min_of(p->isa->rows, a->w->n - o)};
    if (a->bias.data) piece.bias = nb_tensor_f32(a->bias) + o;
    for (int64_t t = 0, step; t < n; t += step) {
        int64_t row = b->is_joined ? (j + t) / p->strip_w : run;
        int64_t column = j + t - (b->is_joined ? row * p->strip_w : 0);
        int64_t at = o * plane + (b->i0 + row) * p->out_w + b->j0 + column;
        step = b->is_joined ? p->strip_w - column : n;
        piece.n = min_of(n - t, b->w - column);
        if (row >= b->h || piece.n <= 0) continue;
        piece.y = nb_tensor_f32(a->y) + at;
        if (a->residual.data) piece.residual = nb_tensor_f32(a->residual) + at;
        piece.sums = sums + t;
        piece_fn(&piece);
    }
}

/* Asks for what finish_pixels is going to write and to read. */
static void fetch_piece(const nb_conv_piece *piece)
{
    for (int64_t r = 0; r < piece->rows; r++)
        for (int64_t i = 0; i < piece->n; i += LINE_BYTES / 4) {
            int64_t at = r * piece->plane + i;
            __builtin_prefetch(piece->y + at, 1, 2);
            if (piece->residual && piece->residual != piece->y)
                __builtin_prefetch(piece->residual + at, 0, 2);
        }
}

/* All panels times all pixels of a block of channels; with the last block, y is written. */
static void multiply(const struct patch *b, int64_t c0, struct ahead *ahead)
{
    const struct plan *p = b->p;
    const nb_gemm_isa *isa = p->isa;
    int64_t lanes = isa->lanes, half = lanes / 2, n_units = block_units(p, c0), n_done = 0;
    int64_t panel_tiles = b->n_runs * (round_up(b->run_lanes, lanes) / lanes);
    int64_t n_tiles = p->n_panels * panel_tiles;
    int64_t panel_bytes = block_bytes(p, c0) * isa->rows,
            fetch_bytes = panel_bytes / panel_tiles;
    int is_last = c0 + block_channels(p) >= p->c;
    nb_gemm_span span = {.x_stride = p->plane * 4,
                         .taps = p->taps,
                         .n_taps = p->n_taps,
                         .units = (int)n_units,
                         .accumulate = c0 > 0,
                         .ahead_step = (int)(fetch_bytes / (p->n_taps * n_units) + 1)};
    for (int64_t panel = 0; panel < p->n_panels; panel++) {
        span.w = panel_at(p, panel, c0);
        span.ahead = (const char *)span.w + panel_bytes; /* each tile asks for its share */
        for (int64_t run = 0; run < b->n_runs; run++)
            for (int64_t j = 0, n; j < b->run_lanes; j += n) {
                float *sums =
                    b->sums + ((panel * b->n_runs + run) * b->run_lanes + j) * isa->rows;
                n = b->run_lanes - j > half ? lanes : half;
                span.x = b->strip + (run * b->run_step + j) * 4;
                fetch_rows(ahead, ++n_done * ahead->n_rows / n_tiles);
                if (is_last) visit_pieces(b, panel, run, j, n, sums, fetch_piece);
                (n == lanes ? isa->tile_full : isa->tile_half)(sums, &span);
                span.ahead = (const char *)span.ahead + fetch_bytes;
                if (is_last) visit_pieces(b, panel, run, j, n, sums, isa->finish_pixels);
            }
    }
}

static struct patch patch_at(const struct plan *p, int64_t index, char *scratch)
{
    int64_t lanes = p->isa->lanes;
    struct patch b = {.p = p,
                      .i0 = index / p->n_patches_w * p->patch_h,
                      .j0 = index % p->n_patches_w * p->patch_w,
                      .line = scratch,
                      .strip = scratch + p->line_bytes,
                      .sums = (float *)(void *)(scratch + p->line_bytes + p->strip_bytes)};
    b.h = min_of(p->patch_h, p->out_h - b.i0);
    b.w = min_of(p->patch_w, p->out_w - b.j0);
    b.is_joined = b.h == 1 || (p->patch_w < lanes && p->a->stride == 1);
    b.n_runs = b.is_joined ? 1 : b.h;
    b.run_step = p->a->stride * p->strip_w;
    b.run_lanes = round_up(b.is_joined ? (b.h - 1) * p->strip_w + b.w : b.w, lanes / 2);
    return b;
}

static void patches_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    char *scratch = p->scratch + thread * p->scratch_bytes;
    int64_t end = min_of((task + 1) * p->task_patches, p->n_patches);
    for (int64_t i = task * p->task_patches; i < end; i++) {
        struct patch b = patch_at(p, i, scratch), next = patch_at(p, i + 1, scratch);
        for (int64_t c0 = 0; c0 < p->c; c0 += block_channels(p)) {
            struct ahead ahead = look_ahead(&b, i + 1 < end ? &next : NULL, c0);
            pack_strip(&b, c0);
            multiply(&b, c0, &ahead);
        }
    }
}

/* Patches as square as whole tiles allow, so that the rim is small, and enough of them. */
static void choose_patches(struct plan *p, int threads)
{
    int64_t pixels = SUM_BYTES / 4 / (p->n_panels * p->isa->rows), n_rows;
    int64_t share = p->out_h * p->out_w / ((int64_t)TASKS_PER_THREAD * threads);
    pixels = max_of(min_of(pixels, share), MIN_PATCH);
    int64_t wanted = pixels >= 1024 || p->out_w <= 64 ? 64 : 32;
    if (p->out_h == 1) wanted = round_up(pixels, p->isa->lanes);
    int64_t n = (p->out_w + wanted - 1) / wanted;
    p->patch_w = n == 1 ? p->out_w : round_up((p->out_w + n - 1) / n, p->isa->lanes / 2);
    p->n_patches_w = (p->out_w + p->patch_w - 1) / p->patch_w;
    n_rows = min_of(max_of(pixels / p->patch_w, 1), p->out_h);
    n = (p->out_h + n_rows - 1) / n_rows;
    p->patch_h = (p->out_h + n - 1) / n;
    p->n_patches = p->n_patches_w * ((p->out_h + p->patch_h - 1) / p->patch_h);
    p->task_patches = max_of(p->n_patches / ((int64_t)TASKS_PER_THREAD * threads), 1);
}

static void layout_strip(struct plan *p)
{
    int kernel = p->a->kernel, stride = p->a->stride;
    int64_t cols = (p->patch_w - 1) * stride + kernel;
    int64_t strip_h = (p->patch_h - 1) * stride + kernel;
    p->strip_w = stride == 1 ? cols : (cols + 1) / 2 * 2; /* even columns, then odd ones */
    p->plane = round_up(strip_h * p->strip_w, 32) + 16;   /* an odd number of cache lines */
    for (int t = 0; t < p->n_taps; t++) {
        int dy = t / kernel, dx = t % kernel;
        int64_t column = stride == 1 ? dx : dx % 2 * (p->strip_w / 2) + dx / 2;
        p->taps[t] = (dy * p->strip_w + column) * 4;
    }
}

static void init_plan(struct plan *p)
{
    const nb_conv2d_args *a = p->a;
    int up = a->upsample ? 2 : 1;
    p->n_taps = a->kernel * a->kernel;
    p->c = a->x.shape[0];
    p->source_h = a->x.shape[1];
    p->source_w = a->x.shape[2];
    p->out_h = a->y.shape[1];
    p->out_w = a->y.shape[2];
    if (a->kernel == 1 && a->stride == 1 && a->pad == 0 && up == 1 && p->source_h == p->out_h &&
        p->source_w == p->out_w) { /* rows do not matter */
        p->out_w = p->source_w = p->source_h * p->source_w;
        p->out_h = p->source_h = 1;
    }
    p->h = p->source_h * up;
    p->w = p->source_w * up;
    p->max_units = a->kernel == 1 ? NB_BLOCK_UNITS : BLOCK_UNITS_3X3;
    p->n_panels = round_up(a->w->n, p->isa->rows) / p->isa->rows;
    p->n_blocks = (p->c + block_channels(p) - 1) / block_channels(p);
    p->row_bytes = (p->n_blocks - 1) * block_bytes(p, 0) +
                   block_bytes(p, (p->n_blocks - 1) * block_channels(p));
}

static void allot_scratch(struct plan *p)
{
    int64_t lanes = p->isa->lanes, rows = p->isa->rows;
    int64_t run_lanes = p->patch_h * round_up(max_of(p->patch_w, p->strip_w), lanes);
    int64_t filter_bytes = round_up(p->a->w->k, NB_CHUNK_UNITS) * 4;
    p->line_bytes = round_up(p->strip_w * 4, NB_CHUNK_BYTES);
    p->strip_bytes = (block_units(p, 0) * p->plane + 2 * lanes) * 4;
    p->scratch_bytes = max_of(
        p->line_bytes + p->strip_bytes + p->n_panels * rows * run_lanes * 4, filter_bytes);
}

void nb_conv2d_gemm(nb_stream *s, const nb_conv2d_args *a, const nb_gemm_isa *isa)
{
    struct plan p = {.a = a, .isa = isa};
    nb_arena_mark mark = nb_arena_save(s->arena);
    init_plan(&p);
    choose_patches(&p, s->threads);
    layout_strip(&p);
    allot_scratch(&p);
    p.panels = nb_arena_alloc(s->arena, (size_t)(p.n_panels * isa->rows * p.row_bytes));
    p.scratch = nb_arena_alloc(s->arena, (size_t)(p.scratch_bytes * s->threads));
    if (!p.panels || !p.scratch) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    nb_parallel(s, p.n_panels, pack_panel_task, &p);
    nb_parallel(s, round_up(p.n_patches, p.task_patches) / p.task_patches, patches_task, &p);
    nb_arena_rewind(s->arena, mark);
}
