/*
 * Attention: out = softmax(scale * q kᵀ + bias) v, per head, streamed over the keys (the score
 * matrix is never stored: Milakov and Gimelshein 2018, Dao et al. 2022).
 *
 *     score[h][i][j] = scale * sum_d q[i][h][d] k[j][g][d] + rel_bias[h][j - i + Sq - 1]
 *     where g = h / (H / Hk) (grouped queries). When `causal`, j > i + (Sk - Sq) is left out
 * (but a v that is left out and not finite may still give NaN); a query without keys gives 0.
 *
 * Shapes: q F32 [Sq, H, D], k and v F32 [Sk, Hk, D], out F32 [Sq, H, D]; strides of the two
 * outer dimensions are free (heads of a fused q|k|v row), the inner one is 1. H is a multiple
 * of Hk. rel_bias F32 [H, Sq + Sk - 1], rows may be strided: a bias that depends on the
 * distance only (T5). out may not overlap q, k or v.
 *
 * Serves joint attention (Flux), causal (CLIP), biased (T5), one wide head (VAE, D = 512).
 *
 * Precision: NB_COMPUTE_F32: F32 throughout. NB_COMPUTE_BF16: q, k, v and the probabilities
 * (before they are divided by their sum) are rounded to BF16 before the products, sums and the
 * softmax are F32. The order of every sum is fixed by Sk and D alone: results do not depend on
 * Sq, H or the number of threads.
 */
#ifndef NB_KERNELS_ATTN_H
#define NB_KERNELS_ATTN_H

#include "kernels/base/stream.h"

typedef struct nb_attn_args {
    nb_tensor out, q, k, v;
    float scale;
    int causal;
    nb_tensor rel_bias; /* data NULL: none */
} nb_attn_args;

void nb_attn(nb_stream *s, const nb_attn_args *a);

typedef void nb_attn_fn(nb_stream *s, const nb_attn_args *a);

#endif
