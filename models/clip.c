/*
 * CLIP text model, as far as Flux uses it: the pooled vector.
 *
 *     ids -> token embedding + position embedding -> x
 *     n_layers times:
 *         x += out_proj attn(LN1 x; causal, scale 1/sqrt(head))
 *         x += fc2 act(fc1 LN2 x)
 *     pooled = LN_final(x) at the end-of-text position
 *
 * Traps: with eos_token_id 2 in the config (a legacy mistake of the published files) the
 * position is that of the largest id, first occurrence; otherwise the first id equal to
 * eos_token_id, and position 0 when there is none. Padding repeats the end-of-text id, so it
 * must be the first. The mask is causal, so nothing after that position matters: only that many
 * rows are computed. No text projection. Files of newer writers lack the `text_model.` prefix.
 */
#include "models/clip.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "models/bind.h"
#include "models/config.h"

struct norm {
    nb_tensor weight, bias; /* [d_model] */
};

struct block {
    struct norm norm1, norm2;
    nb_layer q, k, v, out; /* [d_model, d_model] */
    nb_layer fc1, fc2;     /* [d_ff, d_model], [d_model, d_ff] */
};

struct nb_clip {
    nb_clip_config config;
    nb_arena *arena;
    nb_weight tokens, positions; /* [vocab, d_model], [max_positions, d_model] */
    int32_t *position_ids;       /* 0, 1, 2 ... */
    struct norm final_norm;
    struct block *blocks;
};

nb_status nb_clip_config_read(const char *path, const json_t *json, nb_clip_config *out)
{
    nb_clip_config c = {0};
    double eps;
    NB_TRY(nb_config_size(path, json, "vocab_size", 49408, 1 << 24, &c.vocab));
    NB_TRY(nb_config_size(path, json, "hidden_size", 512, 1 << 17, &c.d_model));
    NB_TRY(nb_config_size(path, json, "intermediate_size", 2048, 1 << 19, &c.d_ff));
    NB_TRY(nb_config_size(path, json, "num_hidden_layers", 12, 1 << 10, &c.n_layers));
    NB_TRY(nb_config_size(path, json, "num_attention_heads", 8, 1 << 12, &c.n_heads));
    NB_TRY(
        nb_config_size(path, json, "max_position_embeddings", 77, 1 << 20, &c.max_positions));
    NB_TRY(nb_json_get_real(path, json, "layer_norm_eps", 1e-5, 0, 1, &eps));
    NB_TRY(nb_json_get_int(path, json, "eos_token_id", 49407, 0, INT32_MAX, &c.eos_id));
    NB_TRY(nb_config_act(path, json, "hidden_act", "quick_gelu", &c.act));
    c.eps = (float)eps;
    if (c.d_model % c.n_heads)
        return nb_fail(
            NB_E_DATA,
            "%s: hidden_size: wanted a multiple of num_attention_heads (%lld), found "
            "%lld",
            path, (long long)c.n_heads, (long long)c.d_model);
    *out = c;
    return NB_OK;
}

static struct norm bind_norm(nb_binder *b, int64_t n, const char *prefix, const char *name)
{
    struct norm norm = {
        .weight = nb_bind_vector(b, n, "%s%s.weight", prefix, name),
        .bias = nb_bind_vector(b, n, "%s%s.bias", prefix, name),
    };
    return norm;
}

static void bind_block(nb_binder *b, const nb_clip_config *c, const char *prefix,
                       struct block *out)
{
    int64_t d = c->d_model;
    out->norm1 = bind_norm(b, d, prefix, "layer_norm1");
    out->norm2 = bind_norm(b, d, prefix, "layer_norm2");
    out->q = nb_bind_layer(b, d, d, 1, "%sself_attn.q_proj", prefix);
    out->k = nb_bind_layer(b, d, d, 1, "%sself_attn.k_proj", prefix);
    out->v = nb_bind_layer(b, d, d, 1, "%sself_attn.v_proj", prefix);
    out->out = nb_bind_layer(b, d, d, 1, "%sself_attn.out_proj", prefix);
    out->fc1 = nb_bind_layer(b, c->d_ff, d, 1, "%smlp.fc1", prefix);
    out->fc2 = nb_bind_layer(b, d, c->d_ff, 1, "%smlp.fc2", prefix);
}

static nb_status bind(nb_clip *m, const nb_checkpoint *checkpoint, const nb_device *device)
{
    const nb_clip_config *c = &m->config;
    nb_binder b = {.checkpoint = checkpoint, .device = device, .arena = m->arena};
    const char *root =
        nb_bind_has(&b, "embeddings.token_embedding.weight") ? "" : "text_model.";
    m->blocks = nb_arena_alloc(m->arena, (size_t)c->n_layers * sizeof *m->blocks);
    m->position_ids =
        nb_arena_alloc(m->arena, (size_t)c->max_positions * sizeof *m->position_ids);
    if (!m->blocks || !m->position_ids) return NB_E_SYSTEM;
    for (int64_t i = 0; i < c->max_positions; i++) m->position_ids[i] = (int32_t)i;
    m->tokens =
        nb_bind_weight(&b, c->vocab, c->d_model, "%sembeddings.token_embedding.weight", root);
    m->positions = nb_bind_weight(&b, c->max_positions, c->d_model,
                                  "%sembeddings.position_embedding.weight", root);
    m->final_norm = bind_norm(&b, c->d_model, root, "final_layer_norm");
    for (int64_t i = 0; i < c->n_layers && !b.status; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%sencoder.layers.%lld.", root, (long long)i);
        bind_block(&b, c, prefix, &m->blocks[i]);
    }
    return b.status;
}

nb_status nb_clip_open(const nb_checkpoint *checkpoint, const nb_clip_config *config,
                       const nb_device *device, nb_clip **out)
{
    nb_clip *m = calloc(1, sizeof *m);
    if (!m) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *m);
    m->config = *config;
    nb_status status = nb_arena_create(&m->arena);
    if (!status) status = bind(m, checkpoint, device);
    if (status) {
        nb_clip_close(m);
        return status;
    }
    *out = m;
    return NB_OK;
}

void nb_clip_close(nb_clip *m)
{
    if (!m) return;
    nb_arena_destroy(m->arena);
    free(m);
}

const nb_clip_config *nb_clip_get_config(const nb_clip *m)
{
    return &m->config;
}

static int64_t pooled_position(const nb_clip_config *c, const int32_t *ids, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++) {
        if (c->eos_id != 2 && ids[i] == c->eos_id) return i;
        if (c->eos_id == 2 && ids[i] > ids[best]) best = i;
    }
    return best;
}

/* What one block works in. */
struct work {
    nb_tensor x, norm, q, k, v, attn; /* [n, d_model] */
    nb_tensor hidden;                 /* [n, d_ff] */
};

static void normalise(const nb_clip_config *c, nb_stream *s, const struct norm *norm,
                      nb_tensor y, nb_tensor x)
{
    nb_layer_norm(
        s, &(nb_norm_args){
               .y = y, .x = x, .weight = norm->weight, .bias = norm->bias, .eps = c->eps});
}

static void forward_block(const nb_clip_config *c, nb_stream *s, const struct block *b,
                          const struct work *w)
{
    normalise(c, s, &b->norm1, w->norm, w->x);
    nb_layer_forward(s, &b->q, w->q, w->norm, NB_ACT_NONE);
    nb_layer_forward(s, &b->k, w->k, w->norm, NB_ACT_NONE);
    nb_layer_forward(s, &b->v, w->v, w->norm, NB_ACT_NONE);
    nb_attn(s, &(nb_attn_args){.out = nb_tensor_split_heads(w->attn, c->n_heads),
                               .q = nb_tensor_split_heads(w->q, c->n_heads),
                               .k = nb_tensor_split_heads(w->k, c->n_heads),
                               .v = nb_tensor_split_heads(w->v, c->n_heads),
                               .scale = 1.0f / sqrtf((float)(c->d_model / c->n_heads)),
                               .causal = 1});
    nb_linear(
        s, &(nb_linear_args){
               .y = w->x, .x = w->attn, .w = &b->out.w, .bias = b->out.bias, .residual = w->x});
    normalise(c, s, &b->norm2, w->norm, w->x);
    nb_layer_forward(s, &b->fc1, w->hidden, w->norm, c->act);
    nb_linear(
        s,
        &(nb_linear_args){
            .y = w->x, .x = w->hidden, .w = &b->fc2.w, .bias = b->fc2.bias, .residual = w->x});
}

/* x = token and position embeddings of ids 0 ... n-1; `positions` [n, d_model] is scratch. */
static void embed(const nb_clip *m, nb_stream *s, nb_tensor x, nb_tensor positions,
                  const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->config.vocab)
            nb_stream_fault(s, NB_E_DATA,
                            "CLIP: wanted token ids below %lld (vocab_size), found %d",
                            (long long)m->config.vocab, ids[i]);
    nb_embed(s, &(nb_embed_args){.y = positions, .w = &m->positions, .ids = m->position_ids});
    nb_embed(s, &(nb_embed_args){.y = x, .w = &m->tokens, .ids = ids, .add = positions});
}

void nb_clip_encode(const nb_clip *m, nb_stream *s, nb_tensor pooled, const int32_t *ids,
                    int64_t n)
{
    const nb_clip_config *c = &m->config;
    int64_t at = pooled_position(c, ids, n), rows = at + 1;
    if (n > c->max_positions) {
        nb_stream_fault(s, NB_E_DATA, "CLIP: wanted at most %lld tokens, found %lld",
                        (long long)c->max_positions, (long long)n);
        return;
    }
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_tensor d_model[6];
    for (int i = 0; i < 6; i++)
        d_model[i] = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, c->d_model));
    struct work w = {
        .x = d_model[0],
        .norm = d_model[1],
        .q = d_model[2],
        .k = d_model[3],
        .v = d_model[4],
        .attn = d_model[5],
        .hidden = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(rows, c->d_ff)),
    };
    embed(m, s, w.x, w.norm, ids, rows);
    for (int64_t i = 0; i < c->n_layers; i++) forward_block(c, s, &m->blocks[i], &w);
    normalise(c, s, &m->final_norm, nb_tensor_reshape(pooled, 2, NB_SHAPE(1, c->d_model)),
              nb_tensor_slice(w.x, 0, at, 1));
    nb_arena_rewind(s->arena, mark);
}
