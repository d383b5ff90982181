/*
 * AutoencoderKL's decoder.
 *
 *     z = latents / scaling + shift  (-> post_quant_conv)  -> conv_in
 *     mid:  resnet, attention over all positions (one head), resnet
 *     each level, coarsest first: resnets (one more than layers_per_block), then, but for the
 *           finest, nearest x2 and a 3x3 convolution
 *     -> group norm, silu, conv_out -> about [-1, 1]
 *
 *     resnet: y = conv2(silu(gn2(conv1(silu(gn1(x)))))) + x; where widths differ,
 *           conv_shortcut(x) in place of x
 *
 * Traps: group norm has eps 1e-6 everywhere, and is over the whole picture, so a tiled decode
 * is another picture; the affine comes before zero padding; divide by scaling, then add shift.
 *
 * Memory is what a decode of a large picture is short of. Norm, silu and upsampling are folded
 * into the convolution that reads them, so only its inputs and outputs are ever stored: three
 * slots, whose sizes a dry run of the same walk finds. At 1024x1024 the FLUX.1 decoder peaks at
 * 256 + 128 + 128 channels in F32, 2.1 GB.
 */
#include "models/vae.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/conv.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "models/bind.h"
#include "models/config.h"

static const float EPS = 1e-6f;

struct norm {
    nb_tensor weight, bias; /* [C] */
};

struct resnet {
    int64_t in, out; /* channels */
    struct norm norm1, norm2;
    nb_layer conv1, conv2;
    nb_layer shortcut; /* data NULL where in == out */
};

struct attention {
    struct norm norm;
    nb_layer q, k, v, out; /* [C, C] */
};

struct level {
    struct resnet *resnets; /* n_resnets + 1 */
    nb_layer upsample;      /* data NULL at the finest */
};

struct nb_vae {
    nb_vae_config config;
    nb_arena *arena;
    nb_tensor affine_mul, affine_add; /* [latent_channels]: 1/scaling and shift */
    nb_layer post_quant, conv_in, conv_out;
    struct resnet mid[2];
    struct attention attention;
    struct level levels[NB_VAE_MAX_LEVELS]; /* coarsest first */
    struct norm norm_out;
};

/* ---- configuration and binding ---- */

static nb_status check_groups(const char *path, const nb_vae_config *c)
{
    for (int i = 0; i < c->n_levels; i++)
        if (c->channels[i] % c->groups)
            return nb_fail(NB_E_DATA,
                           "%s: block_out_channels: wanted multiples of norm_num_groups (%d), "
                           "found %lld",
                           path, c->groups, (long long)c->channels[i]);
    return NB_OK;
}

nb_status nb_vae_config_read(const char *path, const json_t *json, nb_vae_config *out)
{
    nb_vae_config c = {0};
    int64_t groups;
    const char *act;
    NB_TRY(nb_json_get_ints(path, json, "block_out_channels", 1, 1 << 14, c.channels,
                            NB_VAE_MAX_LEVELS, &c.n_levels));
    if (c.n_levels < 1)
        return nb_fail(NB_E_DATA, "%s: block_out_channels: wanted 1 to %d numbers, found none",
                       path, NB_VAE_MAX_LEVELS);
    NB_TRY(nb_config_size(path, json, "layers_per_block", 1, 64, &c.n_resnets));
    NB_TRY(nb_config_size(path, json, "latent_channels", 4, 1 << 10, &c.latent_channels));
    NB_TRY(nb_config_size(path, json, "out_channels", 3, 3, &c.out_channels));
    NB_TRY(nb_config_size(path, json, "norm_num_groups", 32, 1 << 14, &groups));
    NB_TRY(nb_config_size(path, json, "sample_size", 32, 1 << 16, &c.sample_size));
    NB_TRY(nb_json_get_bool(path, json, "mid_block_add_attention", 1, &c.mid_attention));
    NB_TRY(nb_json_get_bool(path, json, "use_post_quant_conv", 1, &c.post_quant_conv));
    NB_TRY(nb_json_get_real(path, json, "scaling_factor", 0.18215, 1e-6, 1e6, &c.scaling));
    NB_TRY(nb_json_get_real(path, json, "shift_factor", 0, -1e6, 1e6, &c.shift));
    NB_TRY(nb_json_get_string(path, json, "act_fn", "silu", &act));
    if (strcmp(act, "silu") != 0)
        return nb_fail(NB_E_DATA, "%s: act_fn: wanted silu, found %s", path, act);
    c.groups = (int)groups;
    NB_TRY(check_groups(path, &c));
    *out = c;
    return NB_OK;
}

int64_t nb_vae_config_factor(const nb_vae_config *config)
{
    return (int64_t)1 << (config->n_levels - 1);
}

static struct norm bind_norm(nb_binder *b, int64_t n, const char *at, const char *name)
{
    struct norm norm = {.weight = nb_bind_vector(b, n, "%s.%s.weight", at, name),
                        .bias = nb_bind_vector(b, n, "%s.%s.bias", at, name)};
    return norm;
}

static nb_layer bind_conv(nb_binder *b, int64_t out, int64_t in, int kernel, const char *name)
{
    return nb_bind_layer(b, out, in * kernel * kernel, 1, "%s", name);
}

static struct resnet bind_resnet(nb_binder *b, int64_t in, int64_t out, const char *at)
{
    struct resnet r = {.in = in,
                       .out = out,
                       .norm1 = bind_norm(b, in, at, "norm1"),
                       .norm2 = bind_norm(b, out, at, "norm2"),
                       .conv1 = nb_bind_layer(b, out, 9 * in, 1, "%s.conv1", at),
                       .conv2 = nb_bind_layer(b, out, 9 * out, 1, "%s.conv2", at)};
    if (in != out) r.shortcut = nb_bind_layer(b, out, in, 1, "%s.conv_shortcut", at);
    return r;
}

static void bind_level(nb_vae *m, nb_binder *b, int i, int64_t in)
{
    const nb_vae_config *c = &m->config;
    int64_t out = c->channels[c->n_levels - 1 - i];
    char at[64];
    struct level *level = &m->levels[i];
    size_t bytes = (size_t)(c->n_resnets + 1) * sizeof *level->resnets;
    level->resnets = nb_arena_alloc(m->arena, bytes);
    if (!level->resnets) {
        b->status = NB_E_SYSTEM;
        return;
    }
    for (int64_t j = 0; j <= c->n_resnets; j++) {
        snprintf(at, sizeof at, "decoder.up_blocks.%d.resnets.%lld", i, (long long)j);
        level->resnets[j] = bind_resnet(b, j ? out : in, out, at);
    }
    snprintf(at, sizeof at, "decoder.up_blocks.%d.upsamplers.0.conv", i);
    if (i < c->n_levels - 1) level->upsample = bind_conv(b, out, out, 3, at);
}

static void bind_attention(nb_vae *m, nb_binder *b, int64_t n)
{
    static const char at[] = "decoder.mid_block.attentions.0";
    m->attention = (struct attention){
        .norm = bind_norm(b, n, at, "group_norm"),
        .q = nb_bind_layer(b, n, n, 1, "%s.to_q", at),
        .k = nb_bind_layer(b, n, n, 1, "%s.to_k", at),
        .v = nb_bind_layer(b, n, n, 1, "%s.to_v", at),
        .out = nb_bind_layer(b, n, n, 1, "%s.to_out.0", at),
    };
}

/* The config's affine as the per-channel map of the first convolution. */
static void make_affine(nb_vae *m, nb_binder *b)
{
    int64_t n = m->config.latent_channels;
    float *values = nb_arena_alloc(m->arena, (size_t)(2 * n) * sizeof *values);
    if (!values) {
        b->status = NB_E_SYSTEM;
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] = (float)(1.0 / m->config.scaling);
        values[n + i] = (float)m->config.shift;
    }
    m->affine_mul = nb_tensor_view(b->device, values, NB_DTYPE_F32, 1, &n);
    m->affine_add = nb_tensor_view(b->device, values + n, NB_DTYPE_F32, 1, &n);
}

static nb_status bind(nb_vae *m, const nb_checkpoint *checkpoint, const nb_device *device)
{
    const nb_vae_config *c = &m->config;
    nb_binder b = {
        .checkpoint = checkpoint, .device = device, .arena = m->arena, .no_extras = 1};
    int64_t latent = c->latent_channels, top = c->channels[c->n_levels - 1], in = top;
    make_affine(m, &b);
    if (c->post_quant_conv) m->post_quant = bind_conv(&b, latent, latent, 1, "post_quant_conv");
    m->conv_in = bind_conv(&b, top, latent, 3, "decoder.conv_in");
    m->mid[0] = bind_resnet(&b, top, top, "decoder.mid_block.resnets.0");
    m->mid[1] = bind_resnet(&b, top, top, "decoder.mid_block.resnets.1");
    if (c->mid_attention) bind_attention(m, &b, top);
    for (int i = 0; i < c->n_levels && !b.status; i++) {
        bind_level(m, &b, i, in);
        in = c->channels[c->n_levels - 1 - i];
    }
    m->norm_out = bind_norm(&b, c->channels[0], "decoder", "conv_norm_out");
    m->conv_out = bind_conv(&b, c->out_channels, c->channels[0], 3, "decoder.conv_out");
    return b.status;
}

nb_status nb_vae_open(const nb_checkpoint *checkpoint, const nb_vae_config *config,
                      const nb_device *device, nb_vae **out)
{
    nb_vae *m = calloc(1, sizeof *m);
    if (!m) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *m);
    m->config = *config;
    nb_status status = nb_arena_create(&m->arena);
    if (!status) status = bind(m, checkpoint, device);
    if (status) {
        nb_vae_close(m);
        return status;
    }
    *out = m;
    return NB_OK;
}

void nb_vae_close(nb_vae *m)
{
    if (!m) return;
    nb_arena_destroy(m->arena);
    free(m);
}

const nb_vae_config *nb_vae_get_config(const nb_vae *m)
{
    return &m->config;
}

/* ---- the decoder ---- */

enum { N_SLOTS = 3 };

/* A walk through the decoder. Without a stream it is a dry run that only finds how large each
 * slot must be. `at` is the slot of the picture in hand. */
struct walk {
    const nb_vae *m;
    nb_stream *s; /* NULL: dry */
    int64_t need[N_SLOTS];
    float *data[N_SLOTS];
    nb_tensor mul, add; /* room for one group norm, [widest] */
    nb_tensor x;        /* [C, H, W] in slot `at` */
    int at;
};

static nb_tensor take_slot(struct walk *w, int slot, int64_t c, int64_t h, int64_t width)
{
    int64_t count = c * h * width;
    if (count > w->need[slot]) w->need[slot] = count;
    return nb_tensor_view(w->x.device, w->data[slot], NB_DTYPE_F32, 3, NB_SHAPE(c, h, width));
}

static int other_slot(int a, int b)
{
    for (int i = 0; i < N_SLOTS; i++)
        if (i != a && i != b) return i;
    return -1;
}

static void conv(struct walk *w, const nb_layer *l, const nb_conv2d_args *how)
{
    nb_conv2d_args args = *how;
    args.w = &l->w;
    args.bias = l->bias;
    args.stride = 1;
    args.pad = args.kernel / 2;
    if (w->s) nb_conv2d(w->s, &args);
}

/* The affine map of a group norm of x, in the walk's two vectors. */
static void group_norm(struct walk *w, const struct norm *norm, nb_tensor x, nb_tensor *mul,
                       nb_tensor *add)
{
    *mul = nb_tensor_slice(w->mul, 0, 0, x.shape[0]);
    *add = nb_tensor_slice(w->add, 0, 0, x.shape[0]);
    if (w->s)
        nb_group_norm(w->s, &(nb_group_norm_args){.mul = *mul,
                                                  .add = *add,
                                                  .x = x,
                                                  .weight = norm->weight,
                                                  .bias = norm->bias,
                                                  .groups = w->m->config.groups,
                                                  .eps = EPS});
}

/* y = conv(silu(norm(x))) + residual */
static void norm_conv(struct walk *w, const struct norm *norm, const nb_layer *l, nb_tensor y,
                      nb_tensor x, nb_tensor residual)
{
    nb_conv2d_args args = {.y = y, .x = x, .residual = residual, .kernel = 3, .silu = 1};
    group_norm(w, norm, x, &args.mul, &args.add);
    conv(w, l, &args);
}

static void walk_resnet(struct walk *w, const struct resnet *r)
{
    int64_t h = w->x.shape[1], width = w->x.shape[2];
    int inner = other_slot(w->at, w->at);
    nb_tensor t = take_slot(w, inner, r->out, h, width), y = w->x;
    norm_conv(w, &r->norm1, &r->conv1, t, w->x, (nb_tensor){0});
    if (r->in != r->out) {
        int slot = other_slot(w->at, inner);
        y = take_slot(w, slot, r->out, h, width);
        conv(w, &r->shortcut, &(nb_conv2d_args){.y = y, .x = w->x, .kernel = 1});
        w->at = slot;
    }
    norm_conv(w, &r->norm2, &r->conv2, y, t, y);
    w->x = y;
}

static void attend(struct walk *w, const struct attention *a, nb_tensor rows)
{
    int64_t n = w->x.shape[1] * w->x.shape[2], c = w->x.shape[0];
    nb_tensor mul, add, part[4];
    for (int i = 0; i < 4; i++)
        part[i] = nb_tensor_reshape(nb_tensor_slice(rows, 0, i, 1), 2, NB_SHAPE(n, c));
    nb_tensor x = part[0], q = part[1], k = part[2], v = part[3];
    group_norm(w, &a->norm, w->x, &mul, &add);
    nb_chw_to_rows(w->s, &(nb_layout_args){.y = x, .x = w->x, .mul = mul, .add = add});
    nb_layer_forward(w->s, &a->q, q, x, NB_ACT_NONE);
    nb_layer_forward(w->s, &a->k, k, x, NB_ACT_NONE);
    nb_layer_forward(w->s, &a->v, v, x, NB_ACT_NONE);
    nb_attn(w->s, &(nb_attn_args){.out = nb_tensor_split_heads(x, 1),
                                  .q = nb_tensor_split_heads(q, 1),
                                  .k = nb_tensor_split_heads(k, 1),
                                  .v = nb_tensor_split_heads(v, 1),
                                  .scale = 1.0f / sqrtf((float)c)});
    nb_layer_forward(w->s, &a->out, q, x, NB_ACT_NONE);
    nb_rows_to_chw(w->s, &(nb_layout_args){.y = w->x, .x = q, .residual = w->x});
}

static void walk_attention(struct walk *w, const struct attention *a)
{
    int64_t n = w->x.shape[1] * w->x.shape[2], c = w->x.shape[0];
    nb_tensor rows = take_slot(w, other_slot(w->at, w->at), 4, n, c);
    if (w->s) attend(w, a, rows);
}

static void walk_upsample(struct walk *w, const nb_layer *l)
{
    int slot = other_slot(w->at, w->at);
    nb_tensor y = take_slot(w, slot, w->x.shape[0], 2 * w->x.shape[1], 2 * w->x.shape[2]);
    conv(w, l, &(nb_conv2d_args){.y = y, .x = w->x, .kernel = 3, .upsample = 1});
    w->x = y;
    w->at = slot;
}

static void walk_in(struct walk *w, nb_tensor latents)
{
    const nb_vae *m = w->m;
    int64_t h = latents.shape[1], width = latents.shape[2];
    nb_conv2d_args first = {.x = latents,
                            .mul = m->affine_mul,
                            .add = m->affine_add,
                            .kernel = m->config.post_quant_conv ? 1 : 3};
    if (m->config.post_quant_conv) {
        first.y = take_slot(w, 1, latents.shape[0], h, width);
        conv(w, &m->post_quant, &first);
        first = (nb_conv2d_args){.x = first.y, .kernel = 3};
    }
    w->at = 0;
    w->x = first.y = take_slot(w, 0, m->conv_in.w.n, h, width);
    conv(w, &m->conv_in, &first);
}

static void walk_decoder(struct walk *w, nb_tensor image, nb_tensor latents)
{
    const nb_vae *m = w->m;
    walk_in(w, latents);
    walk_resnet(w, &m->mid[0]);
    if (m->config.mid_attention) walk_attention(w, &m->attention);
    walk_resnet(w, &m->mid[1]);
    for (int i = 0; i < m->config.n_levels; i++) {
        for (int64_t j = 0; j <= m->config.n_resnets; j++)
            walk_resnet(w, &m->levels[i].resnets[j]);
        if (m->levels[i].upsample.w.data) walk_upsample(w, &m->levels[i].upsample);
    }
    norm_conv(w, &m->norm_out, &m->conv_out, image, w->x, (nb_tensor){0});
}

static int64_t widest(const nb_vae_config *c)
{
    int64_t n = c->latent_channels;
    for (int i = 0; i < c->n_levels; i++)
        if (c->channels[i] > n) n = c->channels[i];
    return n;
}

/* Floats of each slot for latents of h x w. */
static struct walk plan(const nb_vae *m, int64_t h, int64_t width)
{
    struct walk w = {.m = m};
    int64_t n = widest(&m->config);
    nb_tensor latents = nb_tensor_view(NULL, NULL, NB_DTYPE_F32, 3,
                                       NB_SHAPE(m->config.latent_channels, h, width));
    w.mul = w.add = nb_tensor_view(NULL, NULL, NB_DTYPE_F32, 1, &n);
    walk_decoder(&w, (nb_tensor){0}, latents);
    return w;
}

void nb_vae_decode(const nb_vae *m, nb_stream *s, nb_tensor image, nb_tensor latents)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct walk w = plan(m, latents.shape[1], latents.shape[2]);
    int64_t n = widest(&m->config);
    w.mul = nb_stream_tensor(s, NB_DTYPE_F32, 1, &n);
    w.add = nb_stream_tensor(s, NB_DTYPE_F32, 1, &n);
    for (int i = 0; i < N_SLOTS; i++)
        w.data[i] = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, &w.need[i]));
    w.s = s;
    w.x = latents;
    if (s->status == NB_OK) walk_decoder(&w, image, latents);
    nb_arena_rewind(s->arena, mark);
}

/* ---- the tiled decoder ---- */

/* Tiles start every `step` latents, `tile` wide; `blend` pixels of neighbours are mixed and the
 * first `keep` pixels of each are kept. */
struct tiling {
    int64_t tile, step, blend, keep, factor;
};

static struct tiling tiling_of(const nb_vae_config *c)
{
    int64_t factor = nb_vae_config_factor(c), tile = c->sample_size / factor;
    if (tile < 4) tile = 4;
    int64_t blend = tile * factor / 4;
    struct tiling t = {tile, tile * 3 / 4, blend, tile * factor - blend, factor};
    return t;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A decoded tile in host memory. */
struct tile {
    float *data; /* [channels, h, w] */
    int64_t h, w;
};

static float *tile_at(const struct tile *t, int64_t c, int64_t y, int64_t x)
{
    return t->data + (c * t->h + y) * t->w + x;
}

/* Mixes the end of the tile before (above or to the left) into the start of this one. */
static void blend_tiles(const struct tile *before, struct tile *t, int64_t channels,
                        int64_t blend, int vertical)
{
    int64_t along_before = vertical ? before->h : before->w, along = vertical ? t->h : t->w;
    int64_t across = vertical ? least(before->w, t->w) : least(before->h, t->h);
    int64_t extent = least(least(along_before, along), blend);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < extent; i++) {
            float weight = (float)((double)i / (double)extent);
            for (int64_t j = 0; j < across; j++) {
                int64_t from = along_before - extent + i;
                float *to = vertical ? tile_at(t, c, i, j) : tile_at(t, c, j, i);
                float old =
                    vertical ? *tile_at(before, c, from, j) : *tile_at(before, c, j, from);
                *to = old * (1.0f - weight) + *to * weight;
            }
        }
}

/* Decodes the latents from (i, j) on, at most one tile of them. */
static void decode_tile(const nb_vae *m, nb_stream *s, const struct tiling *t,
                        nb_tensor latents, int64_t i, int64_t j, struct tile *out)
{
    int64_t c = latents.shape[0], h = least(t->tile, latents.shape[1] - i);
    int64_t w = least(t->tile, latents.shape[2] - j);
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_tensor part = nb_stream_tensor(s, NB_DTYPE_F32, 3, NB_SHAPE(c, h, w));
    nb_tensor image = nb_stream_tensor(
        s, NB_DTYPE_F32, 3, NB_SHAPE(m->config.out_channels, h * t->factor, w * t->factor));
    for (int64_t k = 0; k < c && s->status == NB_OK; k++) {
        nb_tensor from = nb_tensor_slice(latents, 0, k, 1), to = nb_tensor_slice(part, 0, k, 1);
        from = nb_tensor_reshape(from, 2, NB_SHAPE(latents.shape[1], latents.shape[2]));
        from = nb_tensor_slice(nb_tensor_slice(from, 0, i, h), 1, j, w);
        nb_copy(s, nb_tensor_reshape(to, 2, NB_SHAPE(h, w)), from);
    }
    nb_vae_decode(m, s, image, part);
    out->h = h * t->factor;
    out->w = w * t->factor;
    out->data = malloc((size_t)nb_tensor_count(image) * sizeof(float));
    if (!out->data) nb_stream_fault(s, NB_E_SYSTEM, "out of memory for a tile of the picture");
    nb_stream_download(s, out->data, image);
    nb_arena_rewind(s->arena, mark);
}

/* The part of a tile that is kept, into the picture at its place. */
static void paste_tile(const struct tile *t, int64_t keep, float *image, int64_t channels,
                       int64_t height, int64_t width, int64_t top, int64_t left)
{
    int64_t h = least(least(keep, t->h), height - top),
            w = least(least(keep, t->w), width - left);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < h; y++)
            memcpy(image + (c * height + top + y) * width + left, tile_at(t, c, y, 0),
                   (size_t)w * sizeof *image);
}

/* One row of tiles; `above` is the row before (NULL data: none) and is replaced by this one. */
static void decode_tile_row(const nb_vae *m, nb_stream *s, const struct tiling *t,
                            nb_tensor latents, int64_t i, struct tile *above, float *picture)
{
    int64_t channels = m->config.out_channels, height = latents.shape[1] * t->factor;
    int64_t width = latents.shape[2] * t->factor, column = 0;
    struct tile *left = NULL;
    for (int64_t j = 0; j < latents.shape[2] && s->status == NB_OK; j += t->step, column++) {
        struct tile tile = {0};
        decode_tile(m, s, t, latents, i, j, &tile);
        if (s->status == NB_OK) {
            if (above[column].data) blend_tiles(&above[column], &tile, channels, t->blend, 1);
            if (left) blend_tiles(left, &tile, channels, t->blend, 0);
            paste_tile(&tile, t->keep, picture, channels, height, width, i / t->step * t->keep,
                       column * t->keep);
        }
        free(above[column].data);
        above[column] = tile;
        left = &above[column];
    }
}

void nb_vae_decode_tiled(const nb_vae *m, nb_stream *s, nb_tensor image, nb_tensor latents)
{
    struct tiling t = tiling_of(&m->config);
    int64_t columns = (latents.shape[2] + t.step - 1) / t.step;
    struct tile *above = calloc((size_t)columns, sizeof *above);
    float *picture = calloc((size_t)nb_tensor_count(image), sizeof *picture);
    if (!above || !picture) nb_stream_fault(s, NB_E_SYSTEM, "out of memory for the picture");
    for (int64_t i = 0; i < latents.shape[1] && s->status == NB_OK; i += t.step)
        decode_tile_row(m, s, &t, latents, i, above, picture);
    nb_stream_upload(s, image, picture);
    for (int64_t j = 0; above && j < columns; j++) free(above[j].data);
    free(above);
    free(picture);
}

size_t nb_vae_decode_bytes(const nb_vae *m, int64_t h, int64_t w, int tiled)
{
    struct tiling t = tiling_of(&m->config);
    struct walk dry = plan(m, tiled ? least(h, t.tile) : h, tiled ? least(w, t.tile) : w);
    int64_t floats = 0;
    for (int i = 0; i < N_SLOTS; i++) floats += dry.need[i];
    return (size_t)floats * sizeof(float);
}
