#include <math.h>

#include "tests/check/op.h"

static const struct {
    int n_queries, n_keys, heads, kv_heads, dims, causal, biased;
} shapes[] = {
    {1, 1, 1, 1, 1, 0, 0},
    {1, 17, 2, 1, 8, 0, 0},
    {17, 1, 1, 1, 16, 0, 0},
    {31, 65, 2, 2, 128, 0, 0},
    {63, 63, 2, 2, 64, 0, 1},
    {128, 256, 2, 1, 128, 0, 0},
    {47, 300, 1, 1, 512, 0, 0},
    {9, 300, 1, 1, 33, 0, 0},
    {97, 383, 1, 1, 40, 0, 1},
    {49, 64, 1, 1, 131, 0, 0},
    /* causal: the contract says nothing about a v that is not finite and masked */
    {17, 17, 4, 2, 64, 1, 0},
    {77, 77, 3, 3, 64, 1, 0},
    {33, 129, 1, 1, 128, 1, 0},
    {65, 127, 1, 1, 24, 1, 1},
    {20, 5, 1, 1, 8, 1, 0},
    /* timed: Flux at 512 and 1,024 pixels, T5, CLIP, the VAE at 512 pixels, a small model */
    {1280, 1280, 24, 24, 128, 0, 0},
    {4608, 4608, 24, 24, 128, 0, 0},
    {512, 512, 64, 64, 64, 0, 1},
    {77, 77, 12, 12, 64, 1, 0},
    {4096, 4096, 1, 1, 512, 0, 0},
    {80, 80, 8, 8, 32, 0, 0},
};

enum { N_BENCH = 6, N_FULL = 10 };

static void run(nb_check *c, int i)
{
    int64_t n = shapes[i].n_queries, m = shapes[i].n_keys, h = shapes[i].heads;
    int64_t g = shapes[i].kv_heads, d = shapes[i].dims;
    nb_attn_args a = {
        .q = nb_check_rows(c, nb_check_in(c, 3, NB_SHAPE(n, h, d))),
        .k = nb_check_in(c, 3, NB_SHAPE(m, g, d)),
        .v = nb_check_in(c, 3, NB_SHAPE(m, g, d)),
        .out = nb_check_rows(c, nb_check_out(c, 3, NB_SHAPE(n, h, d))),
        .scale = 1 / sqrtf((float)d),
        .causal = shapes[i].causal,
    };
    if (shapes[i].biased) a.rel_bias = nb_check_in(c, 2, NB_SHAPE(h, n + m - 1));
    if (shapes[i].biased) a.rel_bias.shape[1] = a.q.shape[0] + m - 1;
    nb_check_flops(c, (shapes[i].causal ? 2.0 : 4.0) * (double)(n * m * h * d));
    nb_attn(nb_check_stream(c), &a);
}

const nb_check_op nb_check_attn = {
    .name = "attn",
    .run = run,
    .n_shapes = NB_CHECK_COUNT(shapes) - N_BENCH,
    .n_bench = N_BENCH,
    .nmse = {1e-10, 3e-5},
    .n_nonfinite = N_FULL,
};
