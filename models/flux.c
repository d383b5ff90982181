/*
 * FLUX.1 transformer, one step: latents -> velocity.
 *
 *     temb = time(t) + guidance(g) + pooled(p)      every modulation = Linear(silu(temb))
 *     x    = [ context_embedder(text) ; x_embedder(latents) ]      text rows first, always
 *
 *     n_double times, text and image rows with weights of their own:
 *         n  = LN(x) (1 + scale_a) + shift_a
 *         x += gate_a * out(attn(rope(rms(q n)), rope(rms(k n)), v n))      over all rows
 *         n  = LN(x) (1 + scale_m) + shift_m
 *         x += gate_m * down(gelu(up n))
 *
 *     n_single times, all rows with the same weights:
 *         n  = LN(x) (1 + scale) + shift
 *         x += gate * out([ attn(q n, k n, v n) ; gelu(mlp n) ])
 *
 *     velocity = proj_out(LN(image rows) (1 + scale) + shift)
 *
 * Traps: a modulation holds shift, scale, gate in this order, but the last one (norm_out) holds
 * scale, shift. LN has no weights and eps 1e-6. q and k are normalised per head before the
 * rotation, which turns adjacent pairs; text tokens sit at position (0, 0, 0). The sinusoid of
 * the noise level is cosines first; level and guidance are multiplied by 1000. The gate
 * multiplies the bias too. proj_out of a single block takes attention columns first, then the
 * MLP's. There is no mask. In the last single block only image rows matter after k and v.
 *
 * Modulations depend on (t, g, p) only: nb_flux_begin computes them for all steps in one
 * product each, so their weights, a quarter of the model, are not touched again.
 */
#include "models/flux.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "models/bind.h"
#include "models/config.h"

enum { TIME_CHANNELS = 256, MLP_RATIO = 4 };
static const float EPS = 1e-6f;
static const double ROPE_THETA = 10000.0;

/* Linear, SiLU, Linear: into temb's width. */
struct embedder {
    nb_layer linear1, linear2;
};

/* One stream (image or text) of a double block. */
struct stream_weights {
    nb_layer mod; /* [6d, d] */
    nb_layer q, k, v, out;
    nb_tensor norm_q, norm_k; /* [head_dim] */
    nb_layer up, down;        /* [4d, d], [d, 4d] */
};

struct double_block {
    struct stream_weights image, text;
};

struct single_block {
    nb_layer mod; /* [3d, d] */
    nb_layer q, k, v;
    nb_tensor norm_q, norm_k;
    nb_layer mlp, out; /* [4d, d], [d, 5d] */
};

struct nb_flux {
    nb_flux_config config;
    int64_t d; /* n_heads * head_dim */
    nb_arena *arena;
    nb_layer x_embedder, context_embedder;
    struct embedder time, guidance, pooled;
    struct double_block *doubles;
    struct single_block *singles;
    nb_layer mod_out; /* [2d, d] */
    nb_layer proj_out;
};

/* ---- configuration and binding ---- */

static nb_status read_axes(const char *path, const json_t *json, nb_flux_config *c)
{
    static const int64_t published[NB_FLUX_AXES] = {16, 56, 56};
    int64_t sum = 0;
    int n;
    NB_TRY(
        nb_json_get_ints(path, json, "axes_dims_rope", 2, 1 << 12, c->axes, NB_FLUX_AXES, &n));
    if (n < 0) memcpy(c->axes, published, sizeof c->axes);
    if (n >= 0 && n != NB_FLUX_AXES)
        return nb_fail(NB_E_DATA, "%s: axes_dims_rope: wanted %d entries, found %d", path,
                       NB_FLUX_AXES, n);
    for (int i = 0; i < NB_FLUX_AXES; i++) {
        if (c->axes[i] % 2)
            return nb_fail(NB_E_DATA, "%s: axes_dims_rope: wanted even numbers, found %lld",
                           path, (long long)c->axes[i]);
        sum += c->axes[i];
    }
    if (sum != c->head_dim)
        return nb_fail(NB_E_DATA,
                       "%s: axes_dims_rope: wanted a sum of %lld (attention_head_dim), found "
                       "%lld",
                       path, (long long)c->head_dim, (long long)sum);
    return NB_OK;
}

nb_status nb_flux_config_read(const char *path, const json_t *json, nb_flux_config *out)
{
    nb_flux_config c = {0};
    int64_t patch;
    NB_TRY(nb_config_size(path, json, "in_channels", 64, 1 << 16, &c.in_channels));
    NB_TRY(nb_config_size(path, json, "out_channels", c.in_channels, 1 << 16, &c.out_channels));
    NB_TRY(nb_json_get_int(path, json, "num_layers", 19, 1, 1 << 12, &c.n_double));
    NB_TRY(nb_json_get_int(path, json, "num_single_layers", 38, 0, 1 << 12, &c.n_single));
    NB_TRY(nb_config_size(path, json, "num_attention_heads", 24, 1 << 10, &c.n_heads));
    NB_TRY(nb_config_size(path, json, "attention_head_dim", 128, 1 << 12, &c.head_dim));
    NB_TRY(nb_config_size(path, json, "joint_attention_dim", 4096, 1 << 17, &c.text_dim));
    NB_TRY(nb_config_size(path, json, "pooled_projection_dim", 768, 1 << 17, &c.pooled_dim));
    NB_TRY(nb_json_get_bool(path, json, "guidance_embeds", 0, &c.guidance));
    NB_TRY(nb_json_get_int(path, json, "patch_size", 1, 1, 1, &patch));
    NB_TRY(read_axes(path, json, &c));
    *out = c;
    return NB_OK;
}

static struct embedder bind_embedder(nb_binder *b, int64_t d, int64_t in, const char *name)
{
    struct embedder e = {
        .linear1 = nb_bind_layer(b, d, in, 1, "time_text_embed.%s.linear_1", name),
        .linear2 = nb_bind_layer(b, d, d, 1, "time_text_embed.%s.linear_2", name),
    };
    return e;
}

/* The two streams of a double block differ in every name. */
static const struct stream_names {
    const char *mod, *q, *k, *v, *out, *norm_q, *norm_k, *ff;
} IMAGE = {"norm1.linear",  "attn.to_q",   "attn.to_k",   "attn.to_v",
           "attn.to_out.0", "attn.norm_q", "attn.norm_k", "ff"},
  TEXT = {"norm1_context.linear", "attn.add_q_proj",   "attn.add_k_proj",   "attn.add_v_proj",
          "attn.to_add_out",      "attn.norm_added_q", "attn.norm_added_k", "ff_context"};

static struct stream_weights bind_stream(nb_binder *b, const nb_flux *m, int64_t block,
                                         const struct stream_names *names)
{
    int64_t d = m->d, head = m->config.head_dim, mlp = MLP_RATIO * d;
    char at[64];
    snprintf(at, sizeof at, "transformer_blocks.%lld", (long long)block);
    struct stream_weights w = {
        .mod = nb_bind_layer(b, 6 * d, d, 1, "%s.%s", at, names->mod),
        .q = nb_bind_layer(b, d, d, 1, "%s.%s", at, names->q),
        .k = nb_bind_layer(b, d, d, 1, "%s.%s", at, names->k),
        .v = nb_bind_layer(b, d, d, 1, "%s.%s", at, names->v),
        .out = nb_bind_layer(b, d, d, 1, "%s.%s", at, names->out),
        .norm_q = nb_bind_vector(b, head, "%s.%s.weight", at, names->norm_q),
        .norm_k = nb_bind_vector(b, head, "%s.%s.weight", at, names->norm_k),
        .up = nb_bind_layer(b, mlp, d, 1, "%s.%s.net.0.proj", at, names->ff),
        .down = nb_bind_layer(b, d, mlp, 1, "%s.%s.net.2", at, names->ff),
    };
    return w;
}

static struct single_block bind_single(nb_binder *b, const nb_flux *m, int64_t block)
{
    int64_t d = m->d, head = m->config.head_dim, mlp = MLP_RATIO * d;
    char at[64];
    snprintf(at, sizeof at, "single_transformer_blocks.%lld", (long long)block);
    struct single_block w = {
        .mod = nb_bind_layer(b, 3 * d, d, 1, "%s.norm.linear", at),
        .q = nb_bind_layer(b, d, d, 1, "%s.attn.to_q", at),
        .k = nb_bind_layer(b, d, d, 1, "%s.attn.to_k", at),
        .v = nb_bind_layer(b, d, d, 1, "%s.attn.to_v", at),
        .norm_q = nb_bind_vector(b, head, "%s.attn.norm_q.weight", at),
        .norm_k = nb_bind_vector(b, head, "%s.attn.norm_k.weight", at),
        .mlp = nb_bind_layer(b, mlp, d, 1, "%s.proj_mlp", at),
        .out = nb_bind_layer(b, d, d + mlp, 1, "%s.proj_out", at),
    };
    return w;
}

static nb_status bind(nb_flux *m, const nb_checkpoint *checkpoint, const nb_device *device)
{
    const nb_flux_config *c = &m->config;
    nb_binder b = {.checkpoint = checkpoint, .device = device, .arena = m->arena};
    int64_t d = m->d;
    m->doubles = nb_arena_alloc(m->arena, (size_t)c->n_double * sizeof *m->doubles);
    m->singles = nb_arena_alloc(m->arena, (size_t)c->n_single * sizeof *m->singles);
    if (!m->doubles || !m->singles) return NB_E_SYSTEM;
    m->x_embedder = nb_bind_layer(&b, d, c->in_channels, 1, "x_embedder");
    m->context_embedder = nb_bind_layer(&b, d, c->text_dim, 1, "context_embedder");
    m->time = bind_embedder(&b, d, TIME_CHANNELS, "timestep_embedder");
    if (c->guidance) m->guidance = bind_embedder(&b, d, TIME_CHANNELS, "guidance_embedder");
    m->pooled = bind_embedder(&b, d, c->pooled_dim, "text_embedder");
    for (int64_t i = 0; i < c->n_double && !b.status; i++)
        m->doubles[i] = (struct double_block){.image = bind_stream(&b, m, i, &IMAGE),
                                              .text = bind_stream(&b, m, i, &TEXT)};
    for (int64_t i = 0; i < c->n_single && !b.status; i++)
        m->singles[i] = bind_single(&b, m, i);
    m->mod_out = nb_bind_layer(&b, 2 * d, d, 1, "norm_out.linear");
    m->proj_out = nb_bind_layer(&b, c->out_channels, d, 1, "proj_out");
    return b.status;
}

nb_status nb_flux_open(const nb_checkpoint *checkpoint, const nb_flux_config *config,
                       const nb_device *device, nb_flux **out)
{
    nb_flux *m = calloc(1, sizeof *m);
    if (!m) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *m);
    m->config = *config;
    m->d = config->n_heads * config->head_dim;
    nb_status status = nb_arena_create(&m->arena);
    if (!status) status = bind(m, checkpoint, device);
    if (status) {
        nb_flux_close(m);
        return status;
    }
    *out = m;
    return NB_OK;
}

void nb_flux_close(nb_flux *m)
{
    if (!m) return;
    nb_arena_destroy(m->arena);
    free(m);
}

const nb_flux_config *nb_flux_get_config(const nb_flux *m)
{
    return &m->config;
}

/* ---- what is computed once for all steps ---- */

struct nb_flux_run {
    const nb_flux *m;
    int64_t n_text, n_image, n_steps;
    nb_tensor context;         /* [n_text, d] */
    nb_tensor cos, sin;        /* [S, head_dim/2], S = n_text + n_image */
    nb_tensor *double_mods[2]; /* of each double block, image and text: [n_steps, 6d] */
    nb_tensor *single_mods;    /* [n_steps, 3d] */
    nb_tensor mod_out;         /* [n_steps, 2d] */
    nb_tensor x, norm;         /* [S, d] */
    nb_tensor qkv;             /* [S, 3d] */
    nb_tensor wide;            /* [S, 5d]: attention's output, then the MLP's hidden columns */
};

/* E(s) = [cos(s f_i) ..., sin(s f_i) ...], f_i = 10000^(-i/128), as F32 arithmetic has it. */
static void sinusoid(float s, float *out)
{
    enum { HALF = TIME_CHANNELS / 2 };
    for (int i = 0; i < HALF; i++) {
        float exponent = (float)-log(10000.0) * (float)i / (float)HALF;
        float angle = s * (float)exp(exponent);
        out[i] = (float)cos(angle);
        out[HALF + i] = (float)sin(angle);
    }
}

/* y = linear2(silu(linear1(x))) (+ y when `add`); x [n, in], y [n, d] */
static void embed_scalar(nb_stream *s, const struct embedder *e, nb_tensor y, nb_tensor x,
                         int add)
{
    nb_tensor hidden = nb_stream_tensor(s, NB_DTYPE_F32, 2, y.shape);
    nb_layer_forward(s, &e->linear1, hidden, x, NB_ACT_SILU);
    nb_linear(s, &(nb_linear_args){.y = y,
                                   .x = hidden,
                                   .w = &e->linear2.w,
                                   .bias = e->linear2.bias,
                                   .residual = add ? y : (nb_tensor){0}});
}

/* silu(temb) of every step: [n_steps, d]. */
static nb_tensor embed_conditions(const nb_flux *m, nb_stream *s, const nb_flux_inputs *in)
{
    int64_t n = in->n_steps;
    nb_tensor temb = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, m->d));
    nb_tensor e = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, TIME_CHANNELS));
    nb_tensor pooled = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, m->config.pooled_dim));
    float *table = malloc((size_t)n * TIME_CHANNELS * sizeof *table);
    if (!table) nb_stream_fault(s, NB_E_SYSTEM, "out of memory for time embeddings");
    for (int64_t i = 0; i < n && table; i++)
        sinusoid(in->times[i] * 1000.0f, table + i * TIME_CHANNELS);
    nb_stream_upload(s, e, table);
    embed_scalar(s, &m->time, temb, e, 0);
    if (m->config.guidance) {
        for (int64_t i = 0; i < n && table; i++)
            sinusoid(in->guidance * 1000.0f, table + i * TIME_CHANNELS);
        nb_stream_upload(s, e, table);
        embed_scalar(s, &m->guidance, temb, e, 1);
    }
    free(table);
    for (int64_t i = 0; i < n; i++)
        nb_copy(s, nb_tensor_slice(pooled, 0, i, 1),
                nb_tensor_reshape(in->pooled, 2, NB_SHAPE(1, m->config.pooled_dim)));
    embed_scalar(s, &m->pooled, temb, pooled, 1);
    nb_silu(s, temb, temb);
    return temb;
}

/* Angles in double precision: text tokens at (0, 0, 0), image tokens at (0, row, column). */
static void fill_rope(const nb_flux_run *run, int64_t columns, float *cosines, float *sines)
{
    const nb_flux_config *c = &run->m->config;
    int64_t half = c->head_dim / 2;
    for (int64_t t = 0; t < run->n_text + run->n_image; t++) {
        int64_t p = t - run->n_text, at = t * half;
        int64_t position[NB_FLUX_AXES] = {0, p < 0 ? 0 : p / columns, p < 0 ? 0 : p % columns};
        for (int axis = 0; axis < NB_FLUX_AXES; axis++)
            for (int64_t i = 0; i < c->axes[axis] / 2; i++, at++) {
                double omega = pow(ROPE_THETA, -2.0 * (double)i / (double)c->axes[axis]);
                double angle = (double)position[axis] * omega;
                cosines[at] = (float)cos(angle);
                sines[at] = (float)sin(angle);
            }
    }
}

static void make_rope(nb_flux_run *run, nb_stream *s, int64_t columns)
{
    int64_t rows = run->n_text + run->n_image, half = run->m->config.head_dim / 2;
    run->cos = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, half));
    run->sin = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, half));
    float *table = malloc((size_t)(2 * rows * half) * sizeof *table);
    if (table) {
        fill_rope(run, columns, table, table + rows * half);
        nb_stream_upload(s, run->cos, table);
        nb_stream_upload(s, run->sin, table + rows * half);
    } else {
        nb_stream_fault(s, NB_E_SYSTEM, "out of memory for rope tables");
    }
    free(table);
}

/* One modulation of all steps: [n_steps, n]. The tensor outlives the scratch around it. */
static nb_tensor modulate_steps(nb_stream *s, const nb_layer *mod, nb_tensor temb)
{
    nb_tensor y = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(temb.shape[0], mod->w.n));
    nb_layer_forward(s, mod, y, temb, NB_ACT_NONE);
    return y;
}

static void make_modulations(nb_flux_run *run, nb_stream *s, const nb_flux_inputs *in)
{
    const nb_flux *m = run->m;
    nb_tensor temb = embed_conditions(m, s, in);
    for (int64_t i = 0; i < m->config.n_double; i++) {
        run->double_mods[0][i] = modulate_steps(s, &m->doubles[i].image.mod, temb);
        run->double_mods[1][i] = modulate_steps(s, &m->doubles[i].text.mod, temb);
    }
    for (int64_t i = 0; i < m->config.n_single; i++)
        run->single_mods[i] = modulate_steps(s, &m->singles[i].mod, temb);
    run->mod_out = modulate_steps(s, &m->mod_out, temb);
}

static nb_status create_run(const nb_flux *m, nb_flux_run **out)
{
    size_t n_double = (size_t)m->config.n_double, n_single = (size_t)m->config.n_single;
    nb_flux_run *run = calloc(1, sizeof *run);
    nb_tensor *mods = calloc(2 * n_double + n_single + 1, sizeof *mods);
    if (!run || !mods) {
        free(run);
        free(mods);
        return nb_fail(NB_E_SYSTEM, "out of memory for a transformer run");
    }
    run->m = m;
    run->double_mods[0] = mods;
    run->double_mods[1] = mods + n_double;
    run->single_mods = mods + 2 * n_double;
    *out = run;
    return NB_OK;
}

nb_status nb_flux_begin(const nb_flux *m, nb_stream *s, const nb_flux_inputs *in,
                        nb_flux_run **out)
{
    nb_flux_run *run = NULL;
    NB_TRY(create_run(m, &run));
    run->n_text = in->text.shape[0];
    run->n_image = in->rows * in->columns;
    run->n_steps = in->n_steps;
    int64_t rows = run->n_text + run->n_image, d = m->d;
    make_modulations(run, s, in);
    run->context = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(run->n_text, d));
    nb_layer_forward(s, &m->context_embedder, run->context, in->text, NB_ACT_NONE);
    make_rope(run, s, in->columns);
    run->x = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, d));
    run->norm = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, d));
    run->qkv = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, 3 * d));
    run->wide = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, (1 + MLP_RATIO) * d));
    nb_status status = nb_stream_sync(s);
    if (status)
        nb_flux_end(run);
    else
        *out = run;
    return status;
}

void nb_flux_end(nb_flux_run *run)
{
    if (!run) return;
    free(run->double_mods[0]);
    free(run);
}

/* ---- one step ---- */

/* A range of rows of the joint sequence with everything a block needs of it. */
struct rows {
    nb_tensor x, norm;  /* [R, d] */
    nb_tensor q, k, v;  /* [R, d], columns of qkv */
    nb_tensor attn;     /* [R, d], first columns of wide */
    nb_tensor hidden;   /* [R, 4d], the other columns of wide */
    nb_tensor both;     /* [R, 5d] */
    nb_tensor cos, sin; /* [R, head_dim/2] */
};

static struct rows rows_of(const nb_flux_run *run, int64_t start, int64_t count)
{
    int64_t d = run->m->d;
    nb_tensor qkv = nb_tensor_slice(run->qkv, 0, start, count);
    nb_tensor wide = nb_tensor_slice(run->wide, 0, start, count);
    struct rows r = {
        .x = nb_tensor_slice(run->x, 0, start, count),
        .norm = nb_tensor_slice(run->norm, 0, start, count),
        .q = nb_tensor_slice(qkv, 1, 0, d),
        .k = nb_tensor_slice(qkv, 1, d, d),
        .v = nb_tensor_slice(qkv, 1, 2 * d, d),
        .attn = nb_tensor_slice(wide, 1, 0, d),
        .hidden = nb_tensor_slice(wide, 1, d, MLP_RATIO * d),
        .both = wide,
        .cos = nb_tensor_slice(run->cos, 0, start, count),
        .sin = nb_tensor_slice(run->sin, 0, start, count),
    };
    return r;
}

/* Part `index` of the modulation of one step: [d]. */
static nb_tensor mod_part(nb_tensor mods, int step, int index, int64_t d)
{
    nb_tensor row = nb_tensor_slice(mods, 0, step, 1);
    return nb_tensor_reshape(nb_tensor_slice(row, 1, index * d, d), 1, NB_SHAPE(d));
}

/* norm = LN(x) (1 + scale) + shift */
static void modulate(nb_stream *s, nb_tensor norm, nb_tensor x, nb_tensor shift,
                     nb_tensor scale)
{
    nb_layer_norm(
        s, &(nb_norm_args){.y = norm, .x = x, .scale = scale, .shift = shift, .eps = EPS});
}

static void norm_and_rotate(nb_stream *s, const nb_flux *m, nb_tensor x, nb_tensor weight,
                            const struct rows *r)
{
    nb_rope(s, &(nb_rope_args){.x = nb_tensor_split_heads(x, m->config.n_heads),
                               .weight = weight,
                               .eps = EPS,
                               .cos = r->cos,
                               .sin = r->sin});
}

/* Attention of the rows in `r` over all rows. */
static void attend(nb_stream *s, const nb_flux *m, const struct rows *r, const struct rows *all)
{
    int64_t heads = m->config.n_heads;
    nb_attn(s, &(nb_attn_args){.out = nb_tensor_split_heads(r->attn, heads),
                               .q = nb_tensor_split_heads(r->q, heads),
                               .k = nb_tensor_split_heads(all->k, heads),
                               .v = nb_tensor_split_heads(all->v, heads),
                               .scale = 1.0f / sqrtf((float)m->config.head_dim)});
}

/* x += gate * (Linear(y)) */
static void add_gated(nb_stream *s, const nb_layer *l, nb_tensor x, nb_tensor y, nb_tensor gate)
{
    nb_linear(s, &(nb_linear_args){
                     .y = x, .x = y, .w = &l->w, .bias = l->bias, .gate = gate, .residual = x});
}

/* Modulation parts of a double block, in the files' order. */
enum { SHIFT_A, SCALE_A, GATE_A, SHIFT_M, SCALE_M, GATE_M };

static void stream_qkv(nb_stream *s, const nb_flux *m, const struct stream_weights *w,
                       nb_tensor mods, int step, const struct rows *r)
{
    modulate(s, r->norm, r->x, mod_part(mods, step, SHIFT_A, m->d),
             mod_part(mods, step, SCALE_A, m->d));
    nb_layer_forward(s, &w->q, r->q, r->norm, NB_ACT_NONE);
    nb_layer_forward(s, &w->k, r->k, r->norm, NB_ACT_NONE);
    nb_layer_forward(s, &w->v, r->v, r->norm, NB_ACT_NONE);
    norm_and_rotate(s, m, r->q, w->norm_q, r);
    norm_and_rotate(s, m, r->k, w->norm_k, r);
}

static void stream_out(nb_stream *s, const nb_flux *m, const struct stream_weights *w,
                       nb_tensor mods, int step, const struct rows *r)
{
    add_gated(s, &w->out, r->x, r->attn, mod_part(mods, step, GATE_A, m->d));
    modulate(s, r->norm, r->x, mod_part(mods, step, SHIFT_M, m->d),
             mod_part(mods, step, SCALE_M, m->d));
    nb_layer_forward(s, &w->up, r->hidden, r->norm, NB_ACT_GELU_TANH);
    add_gated(s, &w->down, r->x, r->hidden, mod_part(mods, step, GATE_M, m->d));
}

/* `r` are the rows whose result is needed; k and v are computed for all. */
static void single_block(nb_stream *s, const nb_flux *m, const struct single_block *w,
                         nb_tensor mods, int step, const struct rows *r, const struct rows *all)
{
    enum { SHIFT, SCALE, GATE };
    modulate(s, all->norm, all->x, mod_part(mods, step, SHIFT, m->d),
             mod_part(mods, step, SCALE, m->d));
    nb_layer_forward(s, &w->q, r->q, r->norm, NB_ACT_NONE);
    nb_layer_forward(s, &w->k, all->k, all->norm, NB_ACT_NONE);
    nb_layer_forward(s, &w->v, all->v, all->norm, NB_ACT_NONE);
    norm_and_rotate(s, m, r->q, w->norm_q, r);
    norm_and_rotate(s, m, all->k, w->norm_k, all);
    nb_layer_forward(s, &w->mlp, r->hidden, r->norm, NB_ACT_GELU_TANH);
    attend(s, m, r, all);
    add_gated(s, &w->out, r->x, r->both, mod_part(mods, step, GATE, m->d));
}

/* While a block is computed, the next one's weights are on their way from the disk. Those of
 * the modulations are not needed again. */
static void prefetch_layers(const nb_layer *const *layers, int n)
{
    for (int i = 0; i < n; i++) nb_weight_prefetch(&layers[i]->w);
}

static void prefetch_stream(const struct stream_weights *w)
{
    const nb_layer *const layers[] = {&w->q, &w->k, &w->v, &w->out, &w->up, &w->down};
    prefetch_layers(layers, 6);
}

/* Block `i`, the single ones counted on behind the double ones; nothing behind the last. */
static void prefetch_block(const nb_flux *m, int64_t i)
{
    int64_t single = i - m->config.n_double;
    if (single < 0) {
        prefetch_stream(&m->doubles[i].image);
        prefetch_stream(&m->doubles[i].text);
    } else if (single < m->config.n_single) {
        const struct single_block *w = &m->singles[single];
        const nb_layer *const layers[] = {&w->q, &w->k, &w->v, &w->mlp, &w->out};
        prefetch_layers(layers, 5);
    }
}

void nb_flux_step(const nb_flux_run *run, nb_stream *s, int step, nb_tensor velocity,
                  nb_tensor latents)
{
    const nb_flux *m = run->m;
    struct rows all = rows_of(run, 0, run->n_text + run->n_image);
    struct rows text = rows_of(run, 0, run->n_text);
    struct rows image = rows_of(run, run->n_text, run->n_image);
    nb_copy(s, text.x, run->context);
    nb_layer_forward(s, &m->x_embedder, image.x, latents, NB_ACT_NONE);
    for (int64_t i = 0; i < m->config.n_double; i++) {
        const struct double_block *b = &m->doubles[i];
        prefetch_block(m, i + 1);
        stream_qkv(s, m, &b->image, run->double_mods[0][i], step, &image);
        stream_qkv(s, m, &b->text, run->double_mods[1][i], step, &text);
        attend(s, m, &all, &all);
        stream_out(s, m, &b->image, run->double_mods[0][i], step, &image);
        stream_out(s, m, &b->text, run->double_mods[1][i], step, &text);
    }
    for (int64_t i = 0; i < m->config.n_single; i++) {
        int is_last = i == m->config.n_single - 1;
        prefetch_block(m, m->config.n_double + i + 1);
        single_block(s, m, &m->singles[i], run->single_mods[i], step, is_last ? &image : &all,
                     &all);
    }
    modulate(s, image.norm, image.x, mod_part(run->mod_out, step, 1, m->d),
             mod_part(run->mod_out, step, 0, m->d));
    nb_layer_forward(s, &m->proj_out, velocity, image.norm, NB_ACT_NONE);
}
