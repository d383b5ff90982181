#include "models/cost.h"

double nb_cost_sum(nb_cost cost)
{
    return cost.linear + cost.attn + cost.conv;
}

/* m rows through a matrix [n, k]. */
static double product(int64_t m, int64_t n, int64_t k)
{
    return 2.0 * (double)m * (double)n * (double)k;
}

/* Scores and weighted sums of n_q queries over n_k keys, all heads together d wide. */
static double attention(int64_t n_q, int64_t n_k, int64_t d)
{
    return 2 * product(n_q, n_k, d);
}

/* ---- the transformer ---- */

/* Weights of a block per row: q, k, v and out are d x d, the MLP d x 4d twice; a single block
 * has the same, with out and down fused. */
static double block_row(int64_t d)
{
    return product(1, d, 12 * d);
}

nb_cost nb_flux_cost(const nb_flux_config *c, int64_t n_text, int64_t n_image)
{
    int64_t d = c->n_heads * c->head_dim, rows = n_text + n_image;
    double blocks = (double)(c->n_double + c->n_single);
    nb_cost cost = {
        .linear = blocks * (double)rows * block_row(d) + product(n_image, d, c->in_channels) +
                  product(n_image, c->out_channels, d),
        .attn = blocks * attention(rows, rows, d),
    };
    if (c->n_single) { /* the last one computes k and v alone for the text's rows */
        cost.linear -= (double)n_text * (block_row(d) - product(1, d, 2 * d));
        cost.attn -= attention(n_text, rows, d);
    }
    return cost;
}

nb_cost nb_flux_begin_cost(const nb_flux_config *c, int64_t n_text, int64_t n_steps)
{
    enum { TIME_CHANNELS = 256 };
    int64_t d = c->n_heads * c->head_dim;
    int64_t modulation = 12 * c->n_double + 3 * c->n_single + 2, scalars = c->guidance ? 2 : 1;
    double embedders = (double)scalars * (product(1, d, TIME_CHANNELS) + product(1, d, d)) +
                       product(1, d, c->pooled_dim) + product(1, d, d);
    return (nb_cost){.linear = product(n_steps, modulation * d, d) +
                               (double)n_steps * embedders + product(n_text, d, c->text_dim)};
}

/* ---- the text encoders ---- */

nb_cost nb_t5_cost(const nb_t5_config *c, int64_t n)
{
    int64_t inner = c->n_heads * c->d_kv, mlp = c->gated ? 3 : 2;
    double layers = (double)c->n_layers;
    return (nb_cost){
        .linear = layers *
                  (product(n, 4 * inner, c->d_model) + product(n, mlp * c->d_ff, c->d_model)),
        .attn = layers * attention(n, n, inner),
    };
}

nb_cost nb_clip_cost(const nb_clip_config *c, int64_t n)
{
    double layers = (double)c->n_layers;
    return (nb_cost){
        .linear = layers * (product(n, 4 * c->d_model, c->d_model) +
                            product(n, 2 * c->d_ff, c->d_model)),
        .attn = layers * attention(n, n + 1, c->d_model) / 2,
    };
}

/* ---- the autoencoder ---- */

static double convolution(int64_t pixels, int64_t out, int64_t in, int64_t kernel)
{
    return product(pixels, out, in * kernel * kernel);
}

static double resnet(int64_t pixels, int64_t in, int64_t out)
{
    double cost = convolution(pixels, out, in, 3) + convolution(pixels, out, out, 3);
    return in == out ? cost : cost + convolution(pixels, out, in, 1);
}

nb_cost nb_vae_cost(const nb_vae_config *c, int64_t h, int64_t w)
{
    int64_t pixels = h * w, in = c->channels[c->n_levels - 1];
    nb_cost cost = {.conv = convolution(pixels, in, c->latent_channels, 3) +
                            2 * resnet(pixels, in, in)};
    if (c->post_quant_conv)
        cost.conv += convolution(pixels, c->latent_channels, c->latent_channels, 1);
    if (c->mid_attention) {
        cost.linear = product(pixels, 4 * in, in);
        cost.attn = attention(pixels, pixels, in);
    }
    for (int i = 0; i < c->n_levels; i++) {
        int64_t out = c->channels[c->n_levels - 1 - i];
        for (int64_t j = 0; j <= c->n_resnets; j++, in = out)
            cost.conv += resnet(pixels, in, out);
        if (i == c->n_levels - 1) break;
        pixels *= 4;
        cost.conv += convolution(pixels, out, out, 3);
    }
    cost.conv += convolution(pixels, c->out_channels, in, 3);
    return cost;
}
