#include "models/shapes.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "models/nunchaku.h"

enum { NAME_BYTES = 128, CLIP_HEAD = 64 };

/* What is being read off: the first error stays, as in a binder. */
struct reader {
    const nb_checkpoint *checkpoint;
    const char *prefix;
    nb_status status;
};

static const nb_stored *find(const struct reader *r, const char *name)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s", r->prefix, name);
    return nb_checkpoint_find_matrix(r->checkpoint, full);
}

/* Size of dimension `dim` of a tensor that must be there; at least 1. */
static json_int_t size_of(struct reader *r, const char *name, int dim)
{
    const nb_stored *t = find(r, name);
    if (r->status) return 1;
    if (t && dim < t->rank && t->shape[dim] > 0) {
        int codes = t->dtype == NB_DTYPE_U8 && dim == 1 ? 2 : 1; /* models/packed.h */
        return t->shape[dim] * codes;
    }
    r->status = t ? nb_fail(NB_E_DATA, "%s: tensor %s: dimension %d is not there or empty",
                            t->file, t->name, dim)
                  : nb_fail(NB_E_DATA, "%s: tensor %s%s is missing",
                            nb_checkpoint_source(r->checkpoint), r->prefix, name);
    return 1;
}

/* How many of before0after, before1after ... there are. */
static int count(const struct reader *r, const char *before, const char *after)
{
    char name[NAME_BYTES];
    int n = 0;
    do snprintf(name, sizeof name, "%s%d%s", before, n, after);
    while (find(r, name) && ++n);
    return n;
}

static json_t *flux_config(struct reader *r)
{
    json_int_t width = size_of(r, "x_embedder.bias", 0);
    int n_double = count(r, "transformer_blocks.", ".norm1.linear.bias");
    int n_single = count(r, "single_transformer_blocks.", ".norm.linear.bias");
    json_int_t head = size_of(r,
                              n_double ? "transformer_blocks.0.attn.norm_q.weight"
                                       : "single_transformer_blocks.0.attn.norm_q.weight",
                              0);
    return json_pack(
        "{s:I, s:I, s:i, s:i, s:I, s:I, s:I, s:I, s:b}", "in_channels",
        size_of(r, "x_embedder.weight", 1), "out_channels", size_of(r, "proj_out.bias", 0),
        "num_layers", n_double, "num_single_layers", n_single, "num_attention_heads",
        width / head, "attention_head_dim", head, "joint_attention_dim",
        size_of(r, "context_embedder.weight", 1), "pooled_projection_dim",
        size_of(r, "time_text_embed.text_embedder.linear_1.weight", 1), "guidance_embeds",
        find(r, "time_text_embed.guidance_embedder.linear_1.bias") != NULL);
}

static json_t *t5_config(struct reader *r)
{
    static const char bias[] =
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    const char *embedding =
        find(r, "shared.weight") ? "shared.weight" : "encoder.embed_tokens.weight";
    int gated = find(r, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight") != NULL;
    const char *wi = gated ? "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
                           : "encoder.block.0.layer.1.DenseReluDense.wi.weight";
    json_int_t heads = size_of(r, bias, 1);
    json_int_t inner = size_of(r, "encoder.block.0.layer.0.SelfAttention.q.weight", 0);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:s}", "vocab_size",
                     size_of(r, embedding, 0), "d_model",
                     size_of(r, "encoder.final_layer_norm.weight", 0), "d_kv", inner / heads,
                     "d_ff", size_of(r, wi, 0), "num_heads", heads, "num_layers",
                     count(r, "encoder.block.", ".layer.0.layer_norm.weight"),
                     "relative_attention_num_buckets", size_of(r, bias, 0), "feed_forward_proj",
                     gated ? "gated-gelu" : "relu");
}

static json_t *clip_config(struct reader *r)
{
    if (!find(r, "embeddings.token_embedding.weight")) r->prefix = "text_model.";
    json_int_t width = size_of(r, "embeddings.token_embedding.weight", 1);
    return json_pack(
        "{s:I, s:I, s:I, s:i, s:I, s:I, s:i}", "vocab_size",
        size_of(r, "embeddings.token_embedding.weight", 0), "hidden_size", width,
        "intermediate_size", size_of(r, "encoder.layers.0.mlp.fc1.bias", 0),
        "num_hidden_layers", count(r, "encoder.layers.", ".layer_norm1.weight"),
        "num_attention_heads", width / CLIP_HEAD, "max_position_embeddings",
        size_of(r, "embeddings.position_embedding.weight", 0), "eos_token_id",
        2 /* the largest id, which the end token has in every vocabulary of CLIP */);
}

/* The decoder's levels, finest first: it makes them from the other end. */
static json_t *vae_channels(struct reader *r)
{
    int n = count(r, "decoder.up_blocks.", ".resnets.0.conv1.bias");
    json_t *channels = json_array();
    for (int i = n - 1; i >= 0; i--) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.0.conv1.bias", i);
        if (json_array_append_new(channels, json_integer(size_of(r, name, 0))) != 0) break;
    }
    return channels;
}

static json_t *vae_config(struct reader *r)
{
    return json_pack("{s:o, s:i, s:I, s:I, s:i, s:i, s:b, s:b, s:f, s:f}", "block_out_channels",
                     vae_channels(r), "layers_per_block",
                     count(r, "decoder.up_blocks.0.resnets.", ".conv1.bias") - 1,
                     "latent_channels", size_of(r, "decoder.conv_in.weight", 1), "out_channels",
                     size_of(r, "decoder.conv_out.bias", 0), "norm_num_groups", 32,
                     "sample_size", 1024, "mid_block_add_attention",
                     find(r, "decoder.mid_block.attentions.0.to_q.bias") != NULL,
                     "use_post_quant_conv", find(r, "post_quant_conv.weight") != NULL,
                     "scaling_factor", 0.3611, "shift_factor", 0.1159);
}

nb_status nb_config_from_shapes(const nb_checkpoint *c, nb_component_kind kind, json_t **out)
{
    struct reader r = {.checkpoint = c, .prefix = ""};
    json_t *config = NULL;
    if (kind == NB_KIND_FLUX) NB_TRY(nb_nunchaku_config(c, &config));
    if (config) {
        *out = config;
        return NB_OK;
    }
    switch (kind) {
    case NB_KIND_FLUX:
        config = flux_config(&r);
        break;
    case NB_KIND_CLIP:
        config = clip_config(&r);
        break;
    case NB_KIND_T5:
        config = t5_config(&r);
        break;
    case NB_KIND_VAE:
        config = vae_config(&r);
        break;
    default:
        assert(!"not a component with a config");
    }
    if (!r.status && !config)
        r.status = nb_fail(NB_E_SYSTEM, "%s: out of memory", nb_checkpoint_path(c));
    if (r.status)
        json_decref(config);
    else
        *out = config;
    return r.status;
}
