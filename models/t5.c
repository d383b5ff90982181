/*
 * T5 v1.1 encoder.
 *
 *     ids -> embed -> x
 *     n_layers times:
 *         n = rms(x);  x += O attn(Q n, K n, V n; bias by distance)
 *         n = rms(x);  x += Wo (act(Wi0 n) * Wi1 n)            (or Wo act(Wi n) when not gated)
 *     x -> rms -> states
 *
 * Traps: scores are not divided by sqrt(d_kv); the distance bias is stored in block 0 only and
 * added in every block; n_heads * d_kv need not be d_model; wi_0 is the activated branch; there
 * are no biases and there is no mask, padding is attended; the embedding is stored under one of
 * two names.
 */
#include "models/t5.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "models/bind.h"
#include "models/config.h"

struct block {
    nb_tensor attn_norm, ff_norm; /* [d_model] */
    nb_layer q, k, v;             /* [n_heads*d_kv, d_model] */
    nb_layer o;                   /* [d_model, n_heads*d_kv] */
    nb_layer wi, gate;            /* [d_ff, d_model]; gate is wi_1, absent if not gated */
    nb_layer wo;                  /* [d_model, d_ff] */
};

struct nb_t5 {
    nb_t5_config config;
    nb_arena *arena;
    nb_weight embedding;     /* [vocab, d_model] */
    nb_weight distance_bias; /* [n_buckets, n_heads] */
    nb_tensor final_norm;    /* [d_model] */
    struct block *blocks;
};

nb_status nb_t5_config_read(const char *path, const json_t *json, nb_t5_config *out)
{
    nb_t5_config c = {0};
    const char *ff;
    double eps;
    NB_TRY(nb_config_size(path, json, "vocab_size", 32128, 1 << 24, &c.vocab));
    NB_TRY(nb_config_size(path, json, "d_model", 512, 1 << 17, &c.d_model));
    NB_TRY(nb_config_size(path, json, "d_kv", 64, 1 << 12, &c.d_kv));
    NB_TRY(nb_config_size(path, json, "d_ff", 2048, 1 << 19, &c.d_ff));
    NB_TRY(nb_config_size(path, json, "num_heads", 8, 1 << 12, &c.n_heads));
    NB_TRY(nb_config_size(path, json, "num_layers", 6, 1 << 10, &c.n_layers));
    NB_TRY(nb_config_size(path, json, "relative_attention_num_buckets", 32, 1 << 16,
                          &c.n_buckets));
    NB_TRY(nb_config_size(path, json, "relative_attention_max_distance", 128, 1 << 24,
                          &c.max_distance));
    NB_TRY(nb_json_get_real(path, json, "layer_norm_epsilon", 1e-6, 0, 1, &eps));
    c.eps = (float)eps;
    if (c.n_buckets < 4 || c.n_buckets % 2)
        return nb_fail(NB_E_DATA,
                       "%s: relative_attention_num_buckets: wanted an even number from 4, "
                       "found %lld",
                       path, (long long)c.n_buckets);
    if (c.max_distance <= c.n_buckets / 4)
        return nb_fail(
            NB_E_DATA,
            "%s: relative_attention_max_distance: wanted more than %lld (a quarter of "
            "the buckets), found %lld",
            path, (long long)c.n_buckets / 4, (long long)c.max_distance);
    NB_TRY(nb_json_get_string(path, json, "feed_forward_proj", "relu", &ff));
    c.gated = !strncmp(ff, "gated-", 6);
    const char *act = c.gated ? ff + 6 : ff;
    if (!strcmp(ff, "gated-gelu")) act = "gelu_new"; /* what T5 v1.1 has always meant by it */
    NB_TRY(nb_config_act_named(path, "feed_forward_proj", act, &c.act));
    *out = c;
    return NB_OK;
}

static void bind_block(nb_binder *b, const nb_t5_config *c, int64_t i, struct block *out)
{
    int64_t inner = c->n_heads * c->d_kv;
    char attn[64], ff[64];
    snprintf(attn, sizeof attn, "encoder.block.%lld.layer.0", (long long)i);
    snprintf(ff, sizeof ff, "encoder.block.%lld.layer.1", (long long)i);
    out->attn_norm = nb_bind_vector(b, c->d_model, "%s.layer_norm.weight", attn);
    out->q = nb_bind_layer(b, inner, c->d_model, 0, "%s.SelfAttention.q", attn);
    out->k = nb_bind_layer(b, inner, c->d_model, 0, "%s.SelfAttention.k", attn);
    out->v = nb_bind_layer(b, inner, c->d_model, 0, "%s.SelfAttention.v", attn);
    out->o = nb_bind_layer(b, c->d_model, inner, 0, "%s.SelfAttention.o", attn);
    out->ff_norm = nb_bind_vector(b, c->d_model, "%s.layer_norm.weight", ff);
    out->wi = nb_bind_layer(b, c->d_ff, c->d_model, 0, "%s.DenseReluDense.%s", ff,
                            c->gated ? "wi_0" : "wi");
    if (c->gated)
        out->gate = nb_bind_layer(b, c->d_ff, c->d_model, 0, "%s.DenseReluDense.wi_1", ff);
    out->wo = nb_bind_layer(b, c->d_model, c->d_ff, 0, "%s.DenseReluDense.wo", ff);
}

static nb_status bind(nb_t5 *m, const nb_checkpoint *checkpoint, const nb_device *device)
{
    const nb_t5_config *c = &m->config;
    nb_binder b = {.checkpoint = checkpoint, .device = device, .arena = m->arena};
    const char *embedding =
        nb_bind_has(&b, "shared.weight") ? "shared.weight" : "encoder.embed_tokens.weight";
    m->blocks = nb_arena_alloc(m->arena, (size_t)c->n_layers * sizeof *m->blocks);
    if (!m->blocks) return NB_E_SYSTEM;
    memset(m->blocks, 0, (size_t)c->n_layers * sizeof *m->blocks);
    m->embedding = nb_bind_weight(&b, c->vocab, c->d_model, "%s", embedding);
    m->distance_bias =
        nb_bind_weight(&b, c->n_buckets, c->n_heads,
                       "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    m->final_norm = nb_bind_vector(&b, c->d_model, "encoder.final_layer_norm.weight");
    for (int64_t i = 0; i < c->n_layers && !b.status; i++) bind_block(&b, c, i, &m->blocks[i]);
    return b.status;
}

nb_status nb_t5_open(const nb_checkpoint *checkpoint, const nb_t5_config *config,
                     const nb_device *device, nb_t5 **out)
{
    nb_t5 *m = calloc(1, sizeof *m);
    if (!m) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *m);
    m->config = *config;
    nb_status status = nb_arena_create(&m->arena);
    if (!status) status = bind(m, checkpoint, device);
    if (status) {
        nb_t5_close(m);
        return status;
    }
    *out = m;
    return NB_OK;
}

void nb_t5_close(nb_t5 *m)
{
    if (!m) return;
    nb_arena_destroy(m->arena);
    free(m);
}

const nb_t5_config *nb_t5_get_config(const nb_t5 *m)
{
    return &m->config;
}

/* The bucket of a distance key - query: half of the buckets for either sign; distances are
 * exact up to half of those, then logarithmic up to max_distance. In F32 as the reference does
 * it, so that a distance on a boundary falls on the same side. */
static int64_t bucket_of(const nb_t5_config *c, int64_t distance)
{
    int64_t half = c->n_buckets / 2, exact = half / 2, r = llabs(distance);
    int64_t bucket = r;
    if (r >= exact) {
        float ratio = (float)log((float)r / (float)exact) /
                      (float)log((double)c->max_distance / (double)exact);
        bucket = exact + (int64_t)(ratio * (float)(half - exact));
        if (bucket > half - 1) bucket = half - 1;
    }
    return bucket + (distance > 0 ? half : 0);
}

/* [n_heads, 2n-1]: the bias of distance d at column d + n - 1. */
static nb_tensor distance_bias(const nb_t5 *m, nb_stream *s, int64_t n)
{
    const nb_t5_config *c = &m->config;
    nb_tensor bias = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(c->n_heads, 2 * n - 1));
    float *table = malloc((size_t)(c->n_heads * (2 * n - 1)) * sizeof *table);
    float *row = malloc((size_t)c->n_heads * sizeof *row);
    if (!table || !row) nb_stream_fault(s, NB_E_SYSTEM, "out of memory for T5's distance bias");
    for (int64_t d = 1 - n; d < n && s->status == NB_OK; d++) {
        nb_weight_decode_ref(&m->distance_bias, bucket_of(c, d), 0, c->n_heads, row);
        for (int64_t h = 0; h < c->n_heads; h++) table[h * (2 * n - 1) + d + n - 1] = row[h];
    }
    nb_stream_upload(s, bias, table);
    free(row);
    free(table);
    return bias;
}

/* What one block works in; all [n, ...]. */
struct work {
    nb_tensor x, norm;       /* [n, d_model] */
    nb_tensor q, k, v, attn; /* [n, n_heads*d_kv] */
    nb_tensor hidden;        /* [n, d_ff] */
    nb_tensor bias;          /* [n_heads, 2n-1] */
};

static void attend(const nb_t5_config *c, nb_stream *s, const struct block *b,
                   const struct work *w)
{
    nb_rms_norm(
        s, &(nb_norm_args){.y = w->norm, .x = w->x, .weight = b->attn_norm, .eps = c->eps});
    nb_layer_forward(s, &b->q, w->q, w->norm, NB_ACT_NONE);
    nb_layer_forward(s, &b->k, w->k, w->norm, NB_ACT_NONE);
    nb_layer_forward(s, &b->v, w->v, w->norm, NB_ACT_NONE);
    nb_attn(s, &(nb_attn_args){.out = nb_tensor_split_heads(w->attn, c->n_heads),
                               .q = nb_tensor_split_heads(w->q, c->n_heads),
                               .k = nb_tensor_split_heads(w->k, c->n_heads),
                               .v = nb_tensor_split_heads(w->v, c->n_heads),
                               .scale = 1.0f,
                               .rel_bias = w->bias});
    nb_linear(s, &(nb_linear_args){.y = w->x, .x = w->attn, .w = &b->o.w, .residual = w->x});
}

static void feed_forward(const nb_t5_config *c, nb_stream *s, const struct block *b,
                         const struct work *w)
{
    nb_rms_norm(s,
                &(nb_norm_args){.y = w->norm, .x = w->x, .weight = b->ff_norm, .eps = c->eps});
    nb_layer_forward(s, &b->wi, w->hidden, w->norm, c->act);
    if (c->gated)
        nb_linear(s, &(nb_linear_args){
                         .y = w->hidden, .x = w->norm, .w = &b->gate.w, .mul = w->hidden});
    nb_linear(s, &(nb_linear_args){.y = w->x, .x = w->hidden, .w = &b->wo.w, .residual = w->x});
}

static int ids_are_known(const nb_t5_config *c, nb_stream *s, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab) {
            nb_stream_fault(s, NB_E_DATA,
                            "T5: wanted token ids below %lld (vocab_size), found %d",
                            (long long)c->vocab, ids[i]);
            return 0;
        }
    return 1;
}

void nb_t5_encode(const nb_t5 *m, nb_stream *s, nb_tensor states, const int32_t *ids, int64_t n)
{
    const nb_t5_config *c = &m->config;
    int64_t inner = c->n_heads * c->d_kv;
    if (!ids_are_known(c, s, ids, n)) return;
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct work w = {
        .x = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, c->d_model)),
        .norm = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, c->d_model)),
        .q = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, inner)),
        .k = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, inner)),
        .v = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, inner)),
        .attn = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, inner)),
        .hidden = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(n, c->d_ff)),
        .bias = distance_bias(m, s, n),
    };
    nb_embed(s, &(nb_embed_args){.y = w.x, .w = &m->embedding, .ids = ids});
    for (int64_t i = 0; i < c->n_layers; i++) {
        attend(c, s, &m->blocks[i], &w);
        feed_forward(c, s, &m->blocks[i], &w);
    }
    nb_rms_norm(s,
                &(nb_norm_args){.y = states, .x = w.x, .weight = m->final_norm, .eps = c->eps});
    nb_arena_rewind(s->arena, mark);
}
