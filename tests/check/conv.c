#include "tests/check/op.h"

enum { BIAS = 1, AFFINE = 2, SILU = 4, UPSAMPLE = 8, RESIDUAL = 16 };

/* Channels in and out, height and width of x. */
static const struct {
    int64_t c, o, h, w;
    nb_dtype dtype;
    int kernel, stride, pad, options;
} shapes[] = {
    {1, 1, 1, 1, NB_DTYPE_F32, 3, 1, 1, 0},
    {4, 17, 5, 3, NB_DTYPE_BF16, 3, 1, 1, BIAS},
    {3, 12, 8, 8, NB_DTYPE_F16, 3, 1, 1, BIAS | AFFINE | SILU},
    {33, 13, 9, 31, NB_DTYPE_BF16, 3, 1, 1, AFFINE | SILU | RESIDUAL},
    {64, 25, 6, 32, NB_DTYPE_F32, 3, 1, 1, BIAS | AFFINE | RESIDUAL},
    {65, 3, 3, 49, NB_DTYPE_F8_E4M3, 3, 1, 1, BIAS | SILU},
    {5, 7, 40, 130, NB_DTYPE_F32, 3, 1, 1, BIAS},
    {7, 14, 5, 9, NB_DTYPE_BF16, 3, 1, 1, BIAS | UPSAMPLE},
    {66, 5, 20, 35, NB_DTYPE_F32, 3, 1, 1, BIAS | AFFINE | SILU | UPSAMPLE | RESIDUAL},
    {6, 9, 12, 10, NB_DTYPE_F32, 3, 2, 0, BIAS},
    {9, 5, 31, 67, NB_DTYPE_BF16, 3, 2, 1, AFFINE},
    {17, 30, 7, 11, NB_DTYPE_F32, 1, 1, 0, BIAS | RESIDUAL},
    {515, 8, 3, 40, NB_DTYPE_BF16, 1, 1, 0, AFFINE},
    {4, 4, 9, 9, NB_DTYPE_F32, 1, 2, 0, 0},
    /* timed: a FLUX.1 VAE at 512 pixels */
    {512, 512, 64, 64, NB_DTYPE_BF16, 3, 1, 1, BIAS | AFFINE | SILU | RESIDUAL},
    {512, 512, 128, 128, NB_DTYPE_BF16, 3, 1, 1, BIAS | AFFINE | SILU},
    {256, 256, 256, 256, NB_DTYPE_BF16, 3, 1, 1, BIAS | AFFINE | SILU},
    {128, 128, 512, 512, NB_DTYPE_BF16, 3, 1, 1, BIAS | AFFINE | SILU | RESIDUAL},
    {256, 256, 128, 128, NB_DTYPE_BF16, 3, 1, 1, BIAS | UPSAMPLE},
    {256, 128, 512, 512, NB_DTYPE_BF16, 1, 1, 0, BIAS},
};
enum { N_TIMED = 6 };

static nb_tensor vector_if(nb_check *c, int wanted, int64_t n)
{
    return wanted ? nb_check_in(c, 1, NB_SHAPE(n)) : (nb_tensor){.data = NULL};
}

/* All of u, or at stride 2 what lies at even places. */
static int64_t out_size(int64_t in, int upsample, int stride)
{
    return ((upsample ? 2 * in : in) + stride - 1) / stride;
}

static void run(nb_check *c, int i)
{
    int64_t channels = shapes[i].c, o = shapes[i].o, h = shapes[i].h, w = shapes[i].w;
    int options = shapes[i].options, kernel = shapes[i].kernel;
    int64_t k = channels * kernel * kernel;
    int64_t out_h = out_size(h, options & UPSAMPLE, shapes[i].stride);
    int64_t out_w = out_size(w, options & UPSAMPLE, shapes[i].stride);
    nb_tensor data = nb_check_in_typed(c, shapes[i].dtype, 2, NB_SHAPE(o, k), 0);
    nb_weight weight = {
        .data = data.data, .dtype = shapes[i].dtype, .n = o, .k = k, .scale = 1.0f};
    nb_conv2d_args a = {.w = &weight,
                        .silu = options & SILU,
                        .upsample = options & UPSAMPLE,
                        .kernel = kernel,
                        .stride = shapes[i].stride,
                        .pad = shapes[i].pad};
    a.bias = vector_if(c, options & BIAS, o);
    a.mul = vector_if(c, options & AFFINE, channels);
    a.add = vector_if(c, options & AFFINE, channels);
    a.x = nb_check_in_dense(c, 3, NB_SHAPE(channels, h, w));
    if (options & RESIDUAL)
        a.y = a.residual = nb_check_inout_dense(c, 3, NB_SHAPE(o, out_h, out_w));
    else
        a.y = nb_check_out_dense(c, 3, NB_SHAPE(o, out_h, out_w));
    nb_check_flops(c, 2.0 * (double)(k * o) * (double)(out_h * out_w));
    nb_conv2d(nb_check_stream(c), &a);
}

/* Where silu differs in the last bit, u may be rounded to the other BF16. */
const nb_check_op nb_check_conv2d = {.name = "conv2d",
                                     .run = run,
                                     .n_shapes = NB_CHECK_COUNT(shapes) - N_TIMED,
                                     .n_bench = N_TIMED,
                                     .nmse = {1e-11, 1e-7}};
