/*
 * A list of tensors is made from a configuration, in the order of the architectures' own
 * binding code; then each is filled and written in turn, so memory holds one tensor.
 *
 * Every element is made from random bits by a mask: which bits of a word are random and which
 * are fixed decides the distribution. A float with a fixed exponent and random sign and
 * mantissa has the root mean square 1.53 * 2^exponent; codes of four bits are all random.
 */
#include "models/synthetic.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/quantize_job.h"

enum { MLP_RATIO = 4, TIME_CHANNELS = 256 };

/* Root mean squares of random bits: of a float's mantissa in [1, 2), of E2M1 codes, of the two
 * exponents and three bits of mantissa that FP8 weights get, of E4M3 scales in [1, 2). */
static const double MANTISSA_RMS = 1.5275, E2M1_RMS = 2.9262, E4M3_RMS = 1.1588,
                    SCALE_RMS = 1.4657;

/* Words of 8 bytes: (random & mask) | fixed. */
struct fill {
    uint64_t mask, fixed;
};

/* What a tensor is filled with depends on its type and on `k`; 0: ones, -1: zeros. */
struct item {
    nb_stored t;
    char name[NB_MODULE_BYTES + 32];
    int64_t k;
    nb_quant_format format;
    int part; /* of a quantised matrix, as nb_quant_parts counts them */
};

struct nb_synthetic {
    struct item *items;
    int64_t n, capacity;
    nb_quant_format format;
    nb_quantize_scope scope;
    nb_status status; /* the first failure, kept as a binder keeps it */
};

/* ---- values ---- */

/* SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The same element all over the word. */
static uint64_t spread(uint64_t element, size_t bytes)
{
    uint64_t word = 0;
    for (size_t at = 0; at < 8; at += bytes) word |= element << (8 * at);
    return word;
}

/* `rms` of values v times 2^e is nearest to 1/sqrt(k). */
static int exponent_for(double rms, int64_t k)
{
    return (int)lround(log2(1.0 / (rms * sqrt((double)k))));
}

static struct fill float_fill(nb_dtype dtype, int64_t k)
{
    int mantissa = dtype == NB_DTYPE_F32 ? 23 : 7;
    size_t bytes = nb_dtype_bytes(dtype);
    uint64_t random = (1u << mantissa) - 1u, sign = 1u << (8 * bytes - 1);
    uint64_t exponent = (uint64_t)(127 + (k > 0 ? exponent_for(MANTISSA_RMS, k) : 0));
    if (k < 0) return (struct fill){0, 0};
    if (k == 0) return (struct fill){0, spread(exponent << mantissa, bytes)};
    return (struct fill){spread(random | sign, bytes), spread(exponent << mantissa, bytes)};
}

static struct fill fill_of(nb_quant_format format, int part, nb_dtype dtype, int64_t k)
{
    if (dtype == NB_DTYPE_F32 || dtype == NB_DTYPE_BF16) return float_fill(dtype, k);
    if (part == 0 && dtype == NB_DTYPE_U8) return (struct fill){UINT64_MAX, 0};
    if (part == 0) return (struct fill){spread(0x8f, 1), spread(0x30, 1)};
    if (format == NB_QUANT_NVFP4) return (struct fill){spread(0x07, 1), spread(0x38, 1)};
    return (struct fill){0, spread((uint64_t)(127 + exponent_for(E2M1_RMS, k)), 1)};
}

/* The number beside a quantised matrix. */
static float scale_of(nb_quant_format format, int64_t k)
{
    double rms = format == NB_QUANT_FP8 ? E4M3_RMS : E2M1_RMS * SCALE_RMS;
    return (float)(1.0 / (rms * sqrt((double)k)));
}

static void fill_bytes(void *data, size_t bytes, struct fill fill, uint64_t *state)
{
    unsigned char *at = data;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint64_t word = (next_random(state) & fill.mask) | fill.fixed;
        memcpy(at, &word, 8);
    }
    uint64_t word = (next_random(state) & fill.mask) | fill.fixed;
    memcpy(at, &word, bytes);
}

/* Part `part` of a matrix, or a plain tensor: `bytes` of it. */
static void fill_part(void *data, size_t bytes, nb_quant_format format, int part,
                      nb_dtype dtype, int64_t k, uint64_t *state)
{
    float scale = scale_of(format, k > 0 ? k : 1);
    if (part > 0 && dtype == NB_DTYPE_F32)
        memcpy(data, &scale, sizeof scale);
    else
        fill_bytes(data, bytes, fill_of(format, part, dtype, k), state);
}

/* ---- lists ---- */

static nb_dtype plain_type(const nb_synthetic *m)
{
    return m->format == NB_QUANT_F32 ? NB_DTYPE_F32 : NB_DTYPE_BF16;
}

static struct item *add_item(nb_synthetic *m)
{
    if (m->status) return NULL;
    if (m->n == m->capacity) {
        int64_t capacity = m->capacity ? 2 * m->capacity : 256;
        struct item *items = realloc(m->items, (size_t)capacity * sizeof *items);
        if (!items) {
            m->status = nb_fail(NB_E_SYSTEM, "out of memory for a list of tensors");
            return NULL;
        }
        m->items = items;
        m->capacity = capacity;
    }
    m->items[m->n] = (struct item){.k = 0};
    return &m->items[m->n++];
}

static void add_tensor(nb_synthetic *m, nb_dtype dtype, int rank, const int64_t *shape,
                       int64_t k, const char *format, ...) NB_PRINTF(6, 7);

static void add_tensor(nb_synthetic *m, nb_dtype dtype, int rank, const int64_t *shape,
                       int64_t k, const char *format, ...)
{
    struct item *item = add_item(m);
    va_list args;
    if (!item) return;
    va_start(args, format);
    vsnprintf(item->name, sizeof item->name, format, args);
    va_end(args);
    item->k = k;
    item->format = m->format;
    item->t = (nb_stored){.dtype = dtype, .rank = rank};
    memcpy(item->t.shape, shape, (size_t)rank * sizeof *shape);
    item->t.bytes = (size_t)nb_stored_count(&item->t) * nb_dtype_bytes(dtype);
}

static void add_quantised(nb_synthetic *m, int64_t n, int64_t k, const char *module)
{
    const nb_quant_target target = {.format = m->format, .dialect = NB_FP4_MODELOPT};
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    int n_parts = nb_quant_parts(&target, n, k, parts);
    for (int i = 0; i < n_parts && !m->status; i++) {
        add_tensor(m, parts[i].dtype, parts[i].rank, parts[i].shape, k, "%s%s", module,
                   parts[i].suffix);
        if (!m->status) m->items[m->n - 1].part = i;
    }
}

/* NAME.weight [n, k], and NAME.bias [n]. */
static void add_layer(nb_synthetic *m, int64_t n, int64_t k, int has_bias, const char *format,
                      ...) NB_PRINTF(5, 6);

static void add_layer(nb_synthetic *m, int64_t n, int64_t k, int has_bias, const char *format,
                      ...)
{
    static const nb_quantize_args nothing_kept;
    char module[NB_MODULE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(module, sizeof module, format, args);
    va_end(args);
    if (m->scope != NB_SCOPE_FILE && nb_quantize_chooses(&nothing_kept, m->scope, module) &&
        k % nb_quant_multiple(m->format) == 0)
        add_quantised(m, n, k, module);
    else
        add_tensor(m, plain_type(m), 2, NB_SHAPE(n, k), k, "%s.weight", module);
    if (has_bias) add_tensor(m, plain_type(m), 1, &n, -1, "%s.bias", module);
}

static void add_norm(nb_synthetic *m, int64_t n, int has_bias, const char *at, const char *name)
{
    add_tensor(m, plain_type(m), 1, &n, 0, "%s%s.weight", at, name);
    if (has_bias) add_tensor(m, plain_type(m), 1, &n, -1, "%s%s.bias", at, name);
}

static void add_conv(nb_synthetic *m, int64_t n, int64_t c, int64_t kernel, const char *at,
                     const char *name)
{
    add_tensor(m, plain_type(m), 4, NB_SHAPE(n, c, kernel, kernel), c * kernel * kernel,
               "%s%s.weight", at, name);
    add_tensor(m, plain_type(m), 1, &n, -1, "%s%s.bias", at, name);
}

static nb_status create(nb_quant_format format, nb_quantize_scope scope, nb_synthetic **out)
{
    nb_synthetic *m = calloc(1, sizeof *m);
    if (!m) return nb_fail(NB_E_SYSTEM, "out of memory for a list of tensors");
    m->format = format;
    m->scope = scope;
    *out = m;
    return NB_OK;
}

static nb_status finish(nb_synthetic *m, nb_synthetic **out)
{
    nb_status status = m->status;
    if (status)
        nb_synthetic_destroy(m);
    else
        *out = m;
    return status;
}

void nb_synthetic_destroy(nb_synthetic *m)
{
    if (!m) return;
    free(m->items);
    free(m);
}

/* ---- FLUX.1 ---- */

static void add_embedder(nb_synthetic *m, int64_t d, int64_t in, const char *name)
{
    add_layer(m, d, in, 1, "time_text_embed.%s.linear_1", name);
    add_layer(m, d, d, 1, "time_text_embed.%s.linear_2", name);
}

static void add_stream(nb_synthetic *m, int64_t d, int64_t head, int64_t block, int is_text)
{
    static const char *const names[2][8] = {
        {"norm1", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k", "ff"},
        {"norm1_context", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
         "norm_added_q", "norm_added_k", "ff_context"}};
    const char *const *name = names[is_text];
    char at[64];
    snprintf(at, sizeof at, "transformer_blocks.%lld.", (long long)block);
    add_layer(m, 6 * d, d, 1, "%s%s.linear", at, name[0]);
    for (int i = 1; i <= 4; i++) add_layer(m, d, d, 1, "%sattn.%s", at, name[i]);
    for (int i = 5; i <= 6; i++)
        add_tensor(m, plain_type(m), 1, &head, 0, "%sattn.%s.weight", at, name[i]);
    add_layer(m, MLP_RATIO * d, d, 1, "%s%s.net.0.proj", at, name[7]);
    add_layer(m, d, MLP_RATIO * d, 1, "%s%s.net.2", at, name[7]);
}

static void add_single(nb_synthetic *m, int64_t d, int64_t head, int64_t block)
{
    char at[64];
    snprintf(at, sizeof at, "single_transformer_blocks.%lld.", (long long)block);
    add_layer(m, 3 * d, d, 1, "%snorm.linear", at);
    add_layer(m, d, d, 1, "%sattn.to_q", at);
    add_layer(m, d, d, 1, "%sattn.to_k", at);
    add_layer(m, d, d, 1, "%sattn.to_v", at);
    add_norm(m, head, 0, at, "attn.norm_q");
    add_norm(m, head, 0, at, "attn.norm_k");
    add_layer(m, MLP_RATIO * d, d, 1, "%sproj_mlp", at);
    add_layer(m, d, (1 + MLP_RATIO) * d, 1, "%sproj_out", at);
}

nb_status nb_synthetic_flux(const nb_flux_config *c, nb_quant_format format, nb_synthetic **out)
{
    nb_synthetic *m = NULL;
    int64_t d = c->n_heads * c->head_dim;
    NB_TRY(create(format, NB_SCOPE_FLUX, &m));
    add_layer(m, d, c->in_channels, 1, "x_embedder");
    add_layer(m, d, c->text_dim, 1, "context_embedder");
    add_embedder(m, d, TIME_CHANNELS, "timestep_embedder");
    if (c->guidance) add_embedder(m, d, TIME_CHANNELS, "guidance_embedder");
    add_embedder(m, d, c->pooled_dim, "text_embedder");
    for (int64_t i = 0; i < c->n_double; i++) {
        add_stream(m, d, c->head_dim, i, 0);
        add_stream(m, d, c->head_dim, i, 1);
    }
    for (int64_t i = 0; i < c->n_single; i++) add_single(m, d, c->head_dim, i);
    add_layer(m, 2 * d, d, 1, "norm_out.linear");
    add_layer(m, c->out_channels, d, 1, "proj_out");
    return finish(m, out);
}

/* ---- text encoders ---- */

nb_status nb_synthetic_t5(const nb_t5_config *c, nb_quant_format format, nb_synthetic **out)
{
    nb_synthetic *m = NULL;
    int64_t d = c->d_model, inner = c->n_heads * c->d_kv;
    char at[64];
    NB_TRY(create(format, NB_SCOPE_ENCODER, &m));
    add_tensor(m, plain_type(m), 2, NB_SHAPE(c->vocab, d), 1, "shared.weight");
    add_tensor(m, plain_type(m), 2, NB_SHAPE(c->n_buckets, c->n_heads), 1,
               "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    add_norm(m, d, 0, "encoder.", "final_layer_norm");
    for (int64_t i = 0; i < c->n_layers; i++) {
        snprintf(at, sizeof at, "encoder.block.%lld.layer.", (long long)i);
        add_norm(m, d, 0, at, "0.layer_norm");
        add_layer(m, inner, d, 0, "%s0.SelfAttention.q", at);
        add_layer(m, inner, d, 0, "%s0.SelfAttention.k", at);
        add_layer(m, inner, d, 0, "%s0.SelfAttention.v", at);
        add_layer(m, d, inner, 0, "%s0.SelfAttention.o", at);
        add_norm(m, d, 0, at, "1.layer_norm");
        add_layer(m, c->d_ff, d, 0, "%s1.DenseReluDense.%s", at, c->gated ? "wi_0" : "wi");
        if (c->gated) add_layer(m, c->d_ff, d, 0, "%s1.DenseReluDense.wi_1", at);
        add_layer(m, d, c->d_ff, 0, "%s1.DenseReluDense.wo", at);
    }
    return finish(m, out);
}

nb_status nb_synthetic_clip(const nb_clip_config *c, nb_quant_format format, nb_synthetic **out)
{
    static const char *const parts[] = {"q", "k", "v", "out"};
    nb_synthetic *m = NULL;
    int64_t d = c->d_model;
    char at[64];
    NB_TRY(create(format, NB_SCOPE_FILE, &m));
    add_tensor(m, plain_type(m), 2, NB_SHAPE(c->vocab, d), 1,
               "text_model.embeddings.token_embedding.weight");
    add_tensor(m, plain_type(m), 2, NB_SHAPE(c->max_positions, d), 1,
               "text_model.embeddings.position_embedding.weight");
    add_norm(m, d, 1, "text_model.", "final_layer_norm");
    for (int64_t i = 0; i < c->n_layers; i++) {
        snprintf(at, sizeof at, "text_model.encoder.layers.%lld.", (long long)i);
        add_norm(m, d, 1, at, "layer_norm1");
        add_norm(m, d, 1, at, "layer_norm2");
        for (int j = 0; j < 4; j++) add_layer(m, d, d, 1, "%sself_attn.%s_proj", at, parts[j]);
        add_layer(m, c->d_ff, d, 1, "%smlp.fc1", at);
        add_layer(m, d, c->d_ff, 1, "%smlp.fc2", at);
    }
    return finish(m, out);
}

/* ---- the autoencoder's decoder ---- */

static void add_resnet(nb_synthetic *m, int64_t in, int64_t out, const char *at)
{
    add_norm(m, in, 1, at, "norm1");
    add_conv(m, out, in, 3, at, "conv1");
    add_norm(m, out, 1, at, "norm2");
    add_conv(m, out, out, 3, at, "conv2");
    if (in != out) add_conv(m, out, in, 1, at, "conv_shortcut");
}

static void add_middle(nb_synthetic *m, int64_t n, int has_attention)
{
    static const char at[] = "decoder.mid_block.attentions.0.";
    static const char *const parts[] = {"to_q", "to_k", "to_v", "to_out.0"};
    add_resnet(m, n, n, "decoder.mid_block.resnets.0.");
    add_resnet(m, n, n, "decoder.mid_block.resnets.1.");
    if (!has_attention) return;
    add_norm(m, n, 1, at, "group_norm");
    for (int i = 0; i < 4; i++) add_layer(m, n, n, 1, "%s%s", at, parts[i]);
}

nb_status nb_synthetic_vae(const nb_vae_config *c, nb_quant_format format, nb_synthetic **out)
{
    nb_synthetic *m = NULL;
    int64_t latent = c->latent_channels, in = c->channels[c->n_levels - 1];
    char at[64];
    NB_TRY(create(format, NB_SCOPE_FILE, &m));
    if (c->post_quant_conv) add_conv(m, latent, latent, 1, "", "post_quant_conv");
    add_conv(m, in, latent, 3, "decoder.", "conv_in");
    add_middle(m, in, c->mid_attention);
    for (int i = 0; i < c->n_levels; i++) {
        int64_t width = c->channels[c->n_levels - 1 - i];
        for (int64_t j = 0; j <= c->n_resnets; j++, in = width) {
            snprintf(at, sizeof at, "decoder.up_blocks.%d.resnets.%lld.", i, (long long)j);
            add_resnet(m, in, width, at);
        }
        snprintf(at, sizeof at, "decoder.up_blocks.%d.upsamplers.0.", i);
        if (i < c->n_levels - 1) add_conv(m, width, width, 3, at, "conv");
    }
    add_norm(m, in, 1, "decoder.", "conv_norm_out");
    add_conv(m, c->out_channels, in, 3, "decoder.", "conv_out");
    return finish(m, out);
}

/* ---- writing ---- */

size_t nb_synthetic_bytes(const nb_synthetic *m)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < m->n; i++) bytes += m->items[i].t.bytes;
    return bytes;
}

static nb_status put_items(const nb_synthetic *m, nb_safetensors_writer *w, void *data,
                           const nb_synthetic_watch *watch)
{
    uint64_t state = 1;
    for (int64_t i = 0; i < m->n; i++) {
        const struct item *item = &m->items[i];
        if (watch->stop && atomic_load_explicit(watch->stop, memory_order_relaxed))
            return nb_fail(NB_E_STOPPED, "stopped before the end");
        fill_part(data, item->t.bytes, item->format, item->part, item->t.dtype, item->k,
                  &state);
        NB_TRY(nb_safetensors_writer_put(w, i, data));
        if (watch->progress) watch->progress(watch->arg, item->t.bytes);
    }
    return NB_OK;
}

/* `tensors`: room for the list as the writer wants it; `data`: for the largest tensor. */
static nb_status write_with(const nb_synthetic *m, const char *path, nb_stored *tensors,
                            void *data, const nb_synthetic_watch *watch)
{
    nb_safetensors_writer *w;
    for (int64_t i = 0; i < m->n; i++) {
        tensors[i] = m->items[i].t;
        tensors[i].name = m->items[i].name;
    }
    NB_TRY(nb_safetensors_writer_open(path, tensors, m->n, NULL, &w));
    nb_status status = put_items(m, w, data, watch);
    if (!status) return nb_safetensors_writer_commit(w);
    nb_safetensors_writer_abort(w);
    return status;
}

nb_status nb_synthetic_write(const nb_synthetic *m, const char *path,
                             const nb_synthetic_watch *watch)
{
    static const nb_synthetic_watch nobody;
    size_t largest = 8;
    for (int64_t i = 0; i < m->n; i++)
        if (m->items[i].t.bytes > largest) largest = m->items[i].t.bytes;
    nb_stored *tensors = malloc((size_t)m->n * sizeof *tensors);
    void *data = malloc(largest);
    nb_status status = tensors && data
                           ? write_with(m, path, tensors, data, watch ? watch : &nobody)
                           : nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    free(tensors);
    free(data);
    return status;
}

/* ---- in memory ---- */

nb_status nb_synthetic_matrix(nb_arena *arena, const nb_device *device, nb_quant_format format,
                              int64_t n, int64_t k, nb_weight *out)
{
    const nb_quant_target target = {.format = format, .dialect = NB_FP4_MODELOPT};
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    void *data[NB_QUANT_MAX_PARTS] = {0};
    int n_parts = nb_quant_parts(&target, n, k, parts), is_mxfp4 = format == NB_QUANT_MXFP4;
    uint64_t state = 1;
    for (int i = 0; i < n_parts; i++) {
        size_t bytes = (size_t)nb_quant_part_bytes(&parts[i]);
        data[i] = nb_arena_alloc(arena, bytes);
        if (!data[i]) return NB_E_SYSTEM;
        fill_part(data[i], bytes, format, i, parts[i].dtype, k, &state);
    }
    nb_weight w = {.data = data[0], .dtype = parts[0].dtype, .n = n, .k = k, .scale = 1};
    w.device = device;
    if (format == NB_QUANT_FP8) memcpy(&w.scale, data[1], sizeof w.scale);
    if (format == NB_QUANT_NVFP4 || is_mxfp4) {
        float *values = nb_arena_alloc(arena, NB_SCALE_CODES * sizeof *values), scale = 1;
        if (!values) return NB_E_SYSTEM;
        if (!is_mxfp4) memcpy(&scale, data[2], sizeof scale);
        w.dtype = NB_DTYPE_F4_E2M1X2;
        w.scale_kind = is_mxfp4 ? NB_SCALE_MXFP4 : NB_SCALE_NVFP4;
        w.scales = data[1];
        w.scale_values = values;
        nb_weight_scale_values(w.scale_kind, scale, 0, values);
    }
    *out = w;
    return NB_OK;
}
