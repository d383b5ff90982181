#include "tests/check/op.h"

/* options */
enum {
    BIAS = 1,
    MUL = 2,
    GATE = 4,
    RESIDUAL = 8,
    HIGH_FIRST = 16,
    COLUMNS = 32,   /* column scales */
    DENSE_F32 = 64, /* a branch in F32, else in BF16 */
};

struct shape {
    int64_t m, n, k;
    nb_dtype dtype;
    nb_scale_kind scale;
    int act, options;
    int64_t rank; /* of a low-rank branch */
};

static const struct shape plain[] = {
    {1, 1, 1, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {1, 17, 3, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {2, 5, 31, NB_DTYPE_F16, NB_SCALE_NONE, NB_ACT_RELU, BIAS | RESIDUAL, 0},
    {16, 12, 16, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_SILU, BIAS | MUL, 0},
    {17, 13, 33, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS | GATE | RESIDUAL, 0},
    {31, 47, 129, NB_DTYPE_F8_E4M3, NB_SCALE_NONE, NB_ACT_GELU, BIAS, 0},
    {33, 49, 127, NB_DTYPE_F8_E5M2, NB_SCALE_ROW, NB_ACT_QUICK_GELU, GATE, 0},
    {47, 130, 257, NB_DTYPE_F8_E4M3, NB_SCALE_BLOCK128, NB_ACT_NONE, MUL | RESIDUAL, 0},
    {64, 192, 511, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {65, 193, 513, NB_DTYPE_F32, NB_SCALE_ROW, NB_ACT_GELU_TANH, BIAS | MUL | GATE | RESIDUAL,
     0},
    {3, 300, 1025, NB_DTYPE_BF16, NB_SCALE_ROW, NB_ACT_NONE, BIAS, 0},
    {530, 20, 66, NB_DTYPE_F16, NB_SCALE_BLOCK128, NB_ACT_NONE, BIAS, 0},
    {1, 1, 16, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, 0, 0},
    {17, 13, 48, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 0},
    {33, 50, 1040, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS | HIGH_FIRST, 0},
    {5, 31, 32, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_NONE, HIGH_FIRST, 0},
    {65, 130, 544, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_GELU_TANH, GATE | RESIDUAL, 0},
    /* several chains, and blocks of them */
    {13, 33, 3120, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 0},
    {11, 50, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, HIGH_FIRST, 0},
    {9, 19, 1600, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_NONE, BIAS, 0},
    {10, 20, 3207, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {36, 17, 4096, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {20, 24, 520, NB_DTYPE_F8_E4M3, NB_SCALE_BLOCK128, NB_ACT_NONE, BIAS, 0},
    /* few rows of x, whole and broken groups of rows of W, all ends of k */
    {1, 37, 3120, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 0},
    {2, 16, 1072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, HIGH_FIRST, 0},
    {3, 22, 2144, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_NONE, HIGH_FIRST, 0},
    {6, 19, 1088, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 0},
    {8, 9, 1024, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_NONE, BIAS, 0},
    {1, 1, 32, NB_DTYPE_Q8_0, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {17, 13, 288, NB_DTYPE_Q8_0, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {33, 50, 1056, NB_DTYPE_Q4_0, NB_SCALE_NONE, NB_ACT_NONE, BIAS | GATE | RESIDUAL, 0},
    {3, 31, 64, NB_DTYPE_Q4_1, NB_SCALE_NONE, NB_ACT_SILU, MUL, 0},
    {65, 49, 544, NB_DTYPE_Q5_0, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {9, 25, 96, NB_DTYPE_Q5_1, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {2, 33, 256, NB_DTYPE_Q2_K, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {34, 17, 768, NB_DTYPE_Q3_K, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {47, 130, 1024, NB_DTYPE_Q4_K, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS, 0},
    {1, 70, 512, NB_DTYPE_Q5_K, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {66, 37, 256, NB_DTYPE_Q6_K, NB_SCALE_NONE, NB_ACT_NONE, GATE | RESIDUAL, 0},
    {35, 29, 352, NB_DTYPE_IQ4_NL, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {4, 45, 768, NB_DTYPE_IQ4_XS, NB_SCALE_NONE, NB_ACT_SILU, MUL, 0},
    {18, 66, 1056, NB_DTYPE_MXFP4, NB_SCALE_NONE, NB_ACT_NONE, BIAS | RESIDUAL, 0},
    {7, 34, 832, NB_DTYPE_NVFP4, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    /* timed: FLUX.1, its text encoder, one row, a small model */
    {1280, 9216, 3072, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {1280, 12288, 3072, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS, 0},
    {1280, 3072, 15360, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS | GATE | RESIDUAL, 0},
    {256, 4096, 4096, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, 0, 0},
    {256, 10240, 4096, NB_DTYPE_F8_E4M3, NB_SCALE_NONE, NB_ACT_NONE, MUL, 0},
    {1280, 12288, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_GELU_TANH, BIAS, 0},
    {1, 18432, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 0},
    {1280, 12288, 3072, NB_DTYPE_Q4_K, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS, 0},
    {1, 18432, 3072, NB_DTYPE_Q8_0, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {1, 18432, 3072, NB_DTYPE_Q4_K, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {1, 18432, 3072, NB_DTYPE_Q6_K, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {1, 18432, 3072, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {1, 18432, 3072, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, BIAS, 0},
    {320, 256, 64, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_GELU_TANH, BIAS, 0},
};
enum { N_TIMED = 14 };

/* BF16 rounds x downᵀ once more, where a sum in another order may tip it: tolerances differ. */
static const struct shape branch[] = {
    {1, 1, 1, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, 0, 1},
    {1, 70, 48, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS | COLUMNS, 16},
    {3, 33, 544, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 33},
    {5, 40, 1056, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_SILU, COLUMNS, 0},
    {8, 17, 31, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, DENSE_F32 | COLUMNS, 1},
    {9, 13, 17, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, BIAS | GATE | RESIDUAL, 32},
    {17, 25, 513, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_GELU_TANH, DENSE_F32 | BIAS, 33},
    {33, 50, 1040, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, COLUMNS | RESIDUAL, 1},
    {50, 49, 127, NB_DTYPE_F8_E4M3, NB_SCALE_BLOCK128, NB_ACT_NONE, COLUMNS | MUL, 32},
    {65, 130, 544, NB_DTYPE_F4_E2M1X2, NB_SCALE_MXFP4, NB_ACT_NONE, BIAS | GATE, 16},
    {530, 20, 66, NB_DTYPE_BF16, NB_SCALE_NONE, NB_ACT_NONE, COLUMNS, 17},
    {40, 14, 64, NB_DTYPE_F32, NB_SCALE_NONE, NB_ACT_NONE, DENSE_F32, 600},
    /* timed */
    {1280, 12288, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_GELU_TANH, BIAS, 32},
    {1280, 12288, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_GELU_TANH, BIAS | COLUMNS,
     32},
    {1, 18432, 3072, NB_DTYPE_F4_E2M1X2, NB_SCALE_NVFP4, NB_ACT_NONE, BIAS, 32},
};
enum { N_TIMED_BRANCH = 3 };

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

/* Column scales and a low-rank branch, of the sizes that trained ones have beside W. */
static void put_beside(nb_check *c, const struct shape *p, nb_weight *w)
{
    nb_low_rank *low = &w->low_rank;
    nb_dtype dtype = p->options & DENSE_F32 ? NB_DTYPE_F32 : NB_DTYPE_BF16;
    w->column_scales = vector_if(c, p->options & COLUMNS, p->k).data;
    if (!p->rank) return;
    low->rank = p->rank;
    low->dtype = dtype;
    low->down = nb_check_in_typed(c, dtype, 2, NB_SHAPE(p->rank, p->k), 0).data;
    low->up = nb_check_in_typed(c, dtype, 2, NB_SHAPE(p->n, p->rank), 0).data;
}

static void run_shape(nb_check *c, const struct shape *p)
{
    int64_t m = p->m, n = p->n, k = p->k;
    int64_t packed = p->dtype == NB_DTYPE_F4_E2M1X2 ? 2 : nb_dtype_elements(p->dtype);
    int has_scale = p->dtype != NB_DTYPE_BF16 && nb_dtype_elements(p->dtype) == 1;
    float scale_values[NB_SCALE_CODES];
    nb_tensor data = nb_check_in_typed(c, p->dtype, 2, NB_SHAPE(n, k / packed), 0);
    nb_tensor scales = scales_of(c, p->scale, n, k);
    nb_weight w = {.data = data.data,
                   .dtype = p->dtype,
                   .n = n,
                   .k = k,
                   .scale_kind = p->scale,
                   .scales = scales.data,
                   .scale = has_scale ? 0.37f : 1.0f,
                   .scale_values = scale_values,
                   .high_first = (p->options & HIGH_FIRST) != 0};
    nb_weight_scale_values(p->scale, w.scale, 0, scale_values);
    put_beside(c, p, &w);
    nb_linear_args a = {.w = &w, .act = (nb_act)p->act};
    a.bias = vector_if(c, p->options & BIAS, n);
    a.gate = vector_if(c, p->options & GATE, n);
    a.x = nb_check_rows(c, nb_check_in(c, 2, NB_SHAPE(m, k)));
    if (p->options & MUL) a.mul = nb_check_rows(c, nb_check_in(c, 2, NB_SHAPE(m, n)));
    if (p->options & RESIDUAL) /* in place, as models use it */
        a.y = a.residual = nb_check_rows(c, nb_check_inout(c, 2, NB_SHAPE(m, n)));
    else
        a.y = nb_check_rows(c, nb_check_out(c, 2, NB_SHAPE(m, n)));
    if (m > 1) nb_check_flops(c, 2.0 * (double)m * (double)n * (double)k);
    nb_linear(nb_check_stream(c), &a);
}

static void run_plain(nb_check *c, int i)
{
    run_shape(c, &plain[i]);
}

static void run_branch(nb_check *c, int i)
{
    run_shape(c, &branch[i]);
}

/* Sums of up to 4,096 products in F32, in sequence. */
const nb_check_op nb_check_linear = {.name = "linear",
                                     .run = run_plain,
                                     .n_shapes = NB_CHECK_COUNT(plain) - N_TIMED,
                                     .n_bench = N_TIMED,
                                     .nmse = {1e-11, 1e-11, 1e-11, 1e-11}};

const nb_check_op nb_check_linear_branch = {.name = "linear",
                                            .run = run_branch,
                                            .n_shapes = NB_CHECK_COUNT(branch) - N_TIMED_BRANCH,
                                            .n_bench = N_TIMED_BRANCH,
                                            .nmse = {1e-11, 1e-6, 1e-6, 1e-6}};
