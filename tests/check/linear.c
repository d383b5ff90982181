#include "tests/check/op.h"

/* options */
enum { BIAS = 1, MUL = 2, GATE = 4, RESIDUAL = 8, HIGH_FIRST = 16 };

static const struct {
    int64_t m, n, k;
    nb_dtype dtype;
    nb_scale_kind scale;
    int act, options;
} shapes[] = {
    {1, 1, 1, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, 0},
    {1, 17, 3, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS},
    {2, 5, 31, NB_DTYPE_F16, NB_SCALE_NONE, NB_ACT_RELU, BIAS | RESIDUAL},
    {16, 12, 16, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_SILU, BIAS | MUL},
    {17, 13, 33, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS | GATE | RESIDUAL},
    {31, 47, 129, NB_DTYPE_F8_E4M3, NB_SCALE_NONE, NB_ACT_GELU, BIAS},
    {33, 49, 127, NB_DTYPE_F8_E5M2, NB_SCALE_ROW, NB_ACT_QUICK_GELU, GATE},
    {47, 130, 257, NB_DTYPE_F8_E4M3, NB_SCALE_BLOCK128, NB_ACT_NONE, MUL | RESIDUAL},
    {64, 192, 511, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, 0},
    {65, 193, 513, NB_DTYPE_F32, NB_SCALE_ROW, NB_ACT_GELU_TANH, BIAS | MUL | GATE | RESIDUAL},
    {3, 300, 1025, NB_DTYPE_BF16, NB_SCALE_ROW, NB_ACT_NONE, BIAS},
    {530, 20, 66, NB_DTYPE_F16, NB_SCALE_BLOCK128, NB_ACT_NONE, BIAS},
    {1, 1, 16, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, 0},
    {17, 13, 48, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS},
    {33, 50, 1040, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS | HIGH_FIRST},
    {5, 31, 32, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_NONE, HIGH_FIRST},
    {65, 130, 544, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_GELU_TANH, GATE | RESIDUAL},
    /* timed: FLUX.1, its text encoder, one row, a small model */
    {1280, 9216, 3072, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS},
    {1280, 12288, 3072, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS},
    {1280, 3072, 15360, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS | GATE | RESIDUAL},
    {256, 4096, 4096, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, 0},
    {256, 10240, 4096, NB_DTYPE_F8_E4M3, NB_SCALE_NONE, NB_ACT_NONE, MUL},
    {1280, 12288, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_GELU_TANH, BIAS},
    {1, 18432, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS},
    {1, 18432, 3072, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS},
    {1, 18432, 3072, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, BIAS},
    {320, 256, 64, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS},
};
enum { N_TIMED = 10 };

static nb_tensor vector_if(nb_check *c, int wanted, int64_t n)
{
    return wanted ? nb_check_in(c, 1, NB_SHAPE(n)) : (nb_tensor){.data = NULL};
}

/* The scales of a kind for [n, k] elements. */
static nb_tensor scales_of(nb_check *c, nb_scale_kind kind, int64_t n, int64_t k)
{
    if (kind == NB_SCALE_NVFP4)
        return nb_check_in_typed(c, NB_DTYPE_F8_E4M3, 1, NB_SHAPE(n * k / 16), 0);
    if (kind == NB_SCALE_MXFP4)
        return nb_check_in_typed(c, NB_DTYPE_F8_E8M0, 1, NB_SHAPE(n * k / 32), 0);
    int64_t n_scales = kind == NB_SCALE_ROW ? n : (n + 127) / 128 * ((k + 127) / 128);
    return vector_if(c, kind != NB_SCALE_NONE, n_scales);
}

static void run(nb_check *c, int i)
{
    int64_t m = shapes[i].m, n = shapes[i].n, k = shapes[i].k;
    int options = shapes[i].options;
    nb_scale_kind kind = shapes[i].scale;
    int packed = shapes[i].dtype == NB_DTYPE_F4_E2M1X2 ? 2 : 1;
    float scale_values[NB_SCALE_CODES];
    nb_tensor data = nb_check_in_typed(c, shapes[i].dtype, 2, NB_SHAPE(n, k / packed), 0);
    nb_tensor scales = scales_of(c, kind, n, k);
    nb_weight w = {.data = data.data,
                   .dtype = shapes[i].dtype,
                   .n = n,
                   .k = k,
                   .scale_kind = kind,
                   .scales = scales.data,
                   .scale = shapes[i].dtype == NB_DTYPE_BF16 ? 1.0f : 0.37f,
                   .scale_values = scale_values,
                   .high_first = (options & HIGH_FIRST) != 0};
    nb_weight_scale_values(kind, w.scale, 0, scale_values);
    nb_linear_args a = {.w = &w, .act = (nb_act)shapes[i].act};
    a.bias = vector_if(c, options & BIAS, n);
    a.gate = vector_if(c, options & GATE, n);
    a.x = nb_check_rows(c, nb_check_in(c, 2, NB_SHAPE(m, k)));
    if (options & MUL) a.mul = nb_check_rows(c, nb_check_in(c, 2, NB_SHAPE(m, n)));
    if (options & RESIDUAL) /* in place, as models use it */
        a.y = a.residual = nb_check_rows(c, nb_check_inout(c, 2, NB_SHAPE(m, n)));
    else
        a.y = nb_check_rows(c, nb_check_out(c, 2, NB_SHAPE(m, n)));
    if (m > 1) nb_check_flops(c, 2.0 * (double)m * (double)n * (double)k);
    nb_linear(nb_check_stream(c), &a);
}

/* Sums of up to 1,025 products in F32, in sequence. */
const nb_check_op nb_check_linear = {.name = "linear",
                                     .run = run,
                                     .n_shapes = NB_CHECK_COUNT(shapes) - N_TIMED,
                                     .n_bench = N_TIMED,
                                     .nmse = {1e-11, 1e-11}};
