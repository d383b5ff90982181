/*
 * The driver of nb_conv2d on CPUs. Pixels are the lanes of the register tile, the filter's taps
 * are offsets into a strip of the input:
 *
 *     pack all filters into panels, tap by tap inside a block of channels (once a call)
 *     for each patch of output pixels (a task, all output channels):
 *         for each block of channels:
 *             pack its strip: the patch and a rim, with affine map, silu, upsampling, zeros
 *             for each panel (L1), for each tile of pixels: one register tile
 *         write the sums, with bias and residual
 *
 * so nothing as large as a picture is ever copied. The order of a sum is: blocks of channels,
 * taps, channels; it depends on the number of channels and the kernel only.
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum {
    BLOCK_UNITS_3X3 = 16, /* units of a block of channels: 288 steps, 13 KB of panel */
    MAX_TAPS = 9,
    SUM_BYTES = 512 << 10, /* sums of a patch: half of L2 */
    MIN_PATCH = 32,
    TASKS_PER_THREAD = 4,
};

struct plan {
    const nb_conv2d_args *a;
    const nb_gemm_isa *isa;
    int64_t c, h, w; /* of u, upsampled */
    int64_t out_h, out_w;
    int n_taps;
    int64_t taps[MAX_TAPS]; /* bytes into a strip */
    int64_t block_units, n_blocks, n_panels;
    int64_t panel_bytes; /* one panel, all blocks */
    char *panels, *scratch;
    int64_t scratch_bytes, strip_bytes, line_bytes;
    int64_t patch_h, patch_w, n_patches_w;
    int64_t strip_w, plane; /* units from row to row and from channel to channel of a strip */
};

/* Runs of output pixels that lie side by side in the strip: a row of the patch each, or, where
 * rows are shorter than a tile, all of it with the gaps between rows. */
struct patch {
    const struct plan *p;
    int64_t i0, j0, h, w;
    int64_t n_runs, run_length, run_step; /* run_step: units of the strip */
    int64_t run_lanes;                    /* run_length rounded up to whole tiles */
    char *strip, *line;
    float *sums; /* [panel][rows x run_lanes] per run */
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

static int64_t units_of(const struct plan *p, int64_t channels)
{
    return (channels + p->isa->unit_elements - 1) / p->isa->unit_elements;
}

static int64_t block_channels(const struct plan *p)
{
    return p->block_units * p->isa->unit_elements;
}

/* Bytes of a block's part of a panel. */
static int64_t block_bytes(const struct plan *p, int64_t channels)
{
    return p->n_taps * round_up(units_of(p, channels), NB_CHUNK_UNITS) / NB_CHUNK_UNITS *
           p->isa->rows * NB_CHUNK_BYTES;
}

static void pack_panel_task(void *arg, int64_t panel, int thread)
{
    const struct plan *p = arg;
    const nb_weight *w = p->a->w;
    int rows = p->isa->rows;
    char *to = p->panels + panel * p->panel_bytes;
    float *row = (float *)(void *)(p->scratch + thread * p->scratch_bytes);
    if ((panel + 1) * rows > w->n) memset(to, 0, (size_t)p->panel_bytes);
    for (int64_t r = 0; r < min_of(rows, w->n - panel * rows); r++) {
        char *at = to + r * NB_CHUNK_BYTES;
        p->isa->decode_f32(w, panel * rows + r, 0, w->k, row, NB_CHUNK_BYTES);
        for (int64_t c = 0; c < p->c; c += block_channels(p)) {
            int64_t n = min_of(block_channels(p), p->c - c);
            p->isa->pack_filter(at, rows * NB_CHUNK_BYTES, row, c, n, p->n_taps);
            at += block_bytes(p, n);
        }
    }
}

/* Columns j ... j+n of row i of u, n > 0, all inside, of the channels of a unit. */
static void pack_inside(const struct patch *b, int64_t channel, int64_t i, int64_t j, int64_t n,
                        uint32_t *to)
{
    const nb_conv2d_args *a = b->p->a;
    int up = a->upsample ? 1 : 0;
    int64_t width = a->x.shape[2], j0 = j >> up, n_source = ((j + n - 1) >> up) - j0 + 1;
    uint32_t *line = (uint32_t *)(void *)b->line;
    nb_conv_source source = {.affine = a->mul.data != NULL, .silu = a->silu};
    for (int e = 0; e < b->p->isa->unit_elements && channel + e < b->p->c; e++) {
        int64_t c = channel + e;
        source.x[e] = nb_tensor_f32(a->x) + (c * a->x.shape[1] + (i >> up)) * width + j0;
        if (!source.affine) continue;
        source.mul[e] = nb_tensor_f32(a->mul)[c];
        source.add[e] = nb_tensor_f32(a->add)[c];
    }
    b->p->isa->pack_pixels(up ? line : to, &source, n_source);
    for (int64_t t = 0; up && t < n; t++) to[t] = line[((j + t) >> 1) - j0];
}

/* A row of the strip: u with zeros outside. */
static void pack_row(const struct patch *b, int64_t channel, int64_t i, uint32_t *to)
{
    const struct plan *p = b->p;
    int64_t stride = p->a->stride, j0 = b->j0 * stride - p->a->pad;
    int64_t n = (b->w - 1) * stride + p->a->kernel;
    int64_t begin = max_of(0, -j0), end = min_of(n, p->w - j0);
    uint32_t *row = stride == 1 ? to : (uint32_t *)(void *)(b->line + p->line_bytes);
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

static void pack_strip(const struct patch *b, int64_t c0, int64_t n_units)
{
    const struct plan *p = b->p;
    int64_t i0 = b->i0 * p->a->stride - p->a->pad, n = (b->h - 1) * p->a->stride + p->a->kernel;
    uint32_t *to = (uint32_t *)(void *)b->strip;
    for (int64_t u = 0; u < n_units; u++)
        for (int64_t i = 0; i < n; i++)
            pack_row(b, c0 + u * p->isa->unit_elements, i0 + i,
                     to + u * p->plane + i * p->strip_w);
}

static float *sums_at(const struct patch *b, int64_t panel, int64_t run)
{
    return b->sums + (panel * b->n_runs + run) * b->run_lanes * b->p->isa->rows;
}

static void multiply(const struct patch *b, int64_t c0, int64_t n_units)
{
    const struct plan *p = b->p;
    const nb_gemm_isa *isa = p->isa;
    int lanes = isa->lanes, half = lanes / 2;
    nb_gemm_span span = {.x_stride = p->plane * 4,
                         .taps = p->taps,
                         .n_taps = p->n_taps,
                         .units = (int)n_units,
                         .accumulate = c0 > 0};
    int64_t before = c0 / block_channels(p) * block_bytes(p, block_channels(p));
    for (int64_t panel = 0; panel < p->n_panels; panel++) {
        span.w = p->panels + panel * p->panel_bytes + before;
        for (int64_t run = 0; run < b->n_runs; run++)
            for (int64_t j = 0; j < b->run_lanes; j += lanes) {
                int is_full = b->run_lanes - j > half;
                span.x = b->strip + (run * b->run_step + j) * 4;
                (is_full ? isa->tile_full
                         : isa->tile_half)(sums_at(b, panel, run) + j * isa->rows, &span);
            }
    }
}

/* Sums of output channel o from pixel `at` of a run on: the tile, and its lanes. */
static const float *sum_at(const struct patch *b, int64_t o, int64_t run, int64_t at,
                           int64_t *n_lanes)
{
    int rows = b->p->isa->rows, lanes = b->p->isa->lanes;
    int64_t tile = at / lanes * lanes;
    int64_t width = b->run_lanes - tile > lanes / 2 ? lanes : lanes / 2;
    *n_lanes = tile + width - at;
    return sums_at(b, o / rows, run) + tile * rows + o % rows * width + (at - tile);
}

static void write_row(const struct patch *b, int64_t o, int64_t i)
{
    const nb_conv2d_args *a = b->p->a;
    int64_t offset = (o * b->p->out_h + b->i0 + i) * b->p->out_w + b->j0;
    float *y = nb_tensor_f32(a->y) + offset;
    const float *residual = a->residual.data ? nb_tensor_f32(a->residual) + offset : NULL;
    float bias = a->bias.data ? nb_tensor_f32(a->bias)[o] : 0.0f;
    int64_t run = b->n_runs == 1 ? 0 : i, first = b->n_runs == 1 ? i * b->p->strip_w : 0;
    for (int64_t j = 0, n; j < b->w; j += n) {
        const float *sum = sum_at(b, o, run, first + j, &n);
        n = min_of(n, b->w - j);
        for (int64_t t = 0; !residual && t < n; t++) y[j + t] = sum[t] + bias;
        for (int64_t t = 0; residual && t < n; t++) y[j + t] = sum[t] + bias + residual[j + t];
    }
}

static void patch_task(void *arg, int64_t task, int thread)
{
    const struct plan *p = arg;
    char *scratch = p->scratch + thread * p->scratch_bytes;
    int64_t lanes = p->isa->lanes;
    struct patch b = {.p = p,
                      .i0 = task / p->n_patches_w * p->patch_h,
                      .j0 = task % p->n_patches_w * p->patch_w,
                      .line = scratch,
                      .strip = scratch + 2 * p->line_bytes,
                      .sums = (float *)(void *)(scratch + 2 * p->line_bytes + p->strip_bytes)};
    b.h = min_of(p->patch_h, p->out_h - b.i0);
    b.w = min_of(p->patch_w, p->out_w - b.j0);
    int joined = b.h == 1 || (p->patch_w < lanes && p->a->stride == 1);
    b.n_runs = joined ? 1 : b.h;
    b.run_length = joined ? (b.h - 1) * p->strip_w + b.w : b.w;
    b.run_step = p->a->stride * p->strip_w;
    b.run_lanes = round_up(b.run_length, lanes / 2);
    for (int64_t c = 0; c < p->c; c += block_channels(p)) {
        int64_t n_units = units_of(p, min_of(block_channels(p), p->c - c));
        pack_strip(&b, c, n_units);
        multiply(&b, c, n_units);
    }
    for (int64_t o = 0; o < p->a->w->n; o++)
        for (int64_t i = 0; i < b.h; i++) write_row(&b, o, i);
}

/* Patches as square as whole tiles allow, so that the rim is small, and enough of them. */
static int64_t choose_patches(struct plan *p, int threads)
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
    return p->n_patches_w * ((p->out_h + p->patch_h - 1) / p->patch_h);
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
    p->h = a->x.shape[1] * up;
    p->w = a->x.shape[2] * up;
    p->out_h = a->y.shape[1];
    p->out_w = a->y.shape[2];
    if (a->kernel == 1 && a->stride == 1 && a->pad == 0 && up == 1 && p->h == p->out_h &&
        p->w == p->out_w) { /* rows do not matter */
        p->out_w = p->w = p->h * p->w;
        p->out_h = p->h = 1;
    }
    p->block_units = a->kernel == 1 ? NB_BLOCK_UNITS : BLOCK_UNITS_3X3;
    p->n_panels = round_up(a->w->n, p->isa->rows) / p->isa->rows;
    p->n_blocks = (p->c + block_channels(p) - 1) / block_channels(p);
    p->panel_bytes = (p->n_blocks - 1) * block_bytes(p, block_channels(p)) +
                     block_bytes(p, p->c - (p->n_blocks - 1) * block_channels(p));
}

static void allot_scratch(struct plan *p)
{
    int64_t lanes = p->isa->lanes, rows = p->isa->rows;
    int64_t units = min_of(p->block_units, units_of(p, p->c));
    int64_t run_lanes = p->patch_h * round_up(max_of(p->patch_w, p->strip_w), lanes);
    int64_t filter_bytes = round_up(p->a->w->k, NB_CHUNK_UNITS) * 4;
    p->line_bytes = round_up(p->strip_w * 4, NB_CHUNK_BYTES);
    p->strip_bytes = (units * p->plane + 2 * lanes) * 4;
    p->scratch_bytes = max_of(
        2 * p->line_bytes + p->strip_bytes + p->n_panels * rows * run_lanes * 4, filter_bytes);
}

void nb_conv2d_gemm(nb_stream *s, const nb_conv2d_args *a, const nb_gemm_isa *isa)
{
    struct plan p = {.a = a, .isa = isa};
    nb_arena_mark mark = nb_arena_save(s->arena);
    init_plan(&p);
    int64_t n_patches = choose_patches(&p, s->threads);
    layout_strip(&p);
    allot_scratch(&p);
    p.panels = nb_arena_alloc(s->arena, (size_t)(p.n_panels * p.panel_bytes));
    p.scratch = nb_arena_alloc(s->arena, (size_t)(p.scratch_bytes * s->threads));
    if (!p.panels || !p.scratch) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    nb_parallel(s, p.n_panels, pack_panel_task, &p);
    nb_parallel(s, n_patches, patch_task, &p);
    nb_arena_rewind(s->arena, mark);
}
