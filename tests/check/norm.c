#include "tests/check/op.h"

/* options: bit 0 weight, 1 bias, 2 scale and shift, 3 in place */
static const struct {
    int rows, dims, options;
} shapes[] = {
    {1, 1, 0},   {1, 17, 1},   {17, 16, 9},  {3, 31, 7},      {5, 33, 12},
    {2, 768, 3}, {7, 3072, 4}, {3, 4097, 1}, {1280, 3072, 4}, /* timed: Flux at 512 pixels */
};

static void normalise(nb_check *c, int i, void (*norm)(nb_stream *, const nb_norm_args *),
                      int options)
{
    int64_t m = shapes[i].rows, d = shapes[i].dims;
    nb_norm_args a = {.eps = 1e-6f};
    if (options & 1) a.weight = nb_check_in(c, 1, NB_SHAPE(d));
    if (options & 2) a.bias = nb_check_in(c, 1, NB_SHAPE(d));
    if (options & 4) a.scale = nb_check_in(c, 1, NB_SHAPE(d));
    if (options & 4) a.shift = nb_check_in(c, 1, NB_SHAPE(d));
    if (options & 8) {
        a.x = a.y = nb_check_rows(c, nb_check_inout(c, 2, NB_SHAPE(m, d)));
    } else {
        a.x = nb_check_rows(c, nb_check_in(c, 2, NB_SHAPE(m, d)));
        a.y = nb_check_rows(c, nb_check_out(c, 2, NB_SHAPE(m, d)));
    }
    norm(nb_check_stream(c), &a);
}

static void run_layer(nb_check *c, int i)
{
    normalise(c, i, nb_layer_norm, shapes[i].options);
}

static void run_rms(nb_check *c, int i)
{
    normalise(c, i, nb_rms_norm, shapes[i].options & 9);
}

static const int pictures[][4] = {
    {1, 1, 1, 1},  {4, 3, 5, 2},    {6, 17, 1, 3},       {32, 8, 9, 32},
    {64, 5, 7, 8}, {3, 97, 101, 1}, {512, 512, 256, 32}, /* timed: inside the VAE */
};

static void run_group(nb_check *c, int i)
{
    int64_t n = pictures[i][0];
    nb_group_norm_args a = {
        .x = nb_check_in_dense(c, 3, NB_SHAPE(n, pictures[i][1], pictures[i][2])),
        .weight = nb_check_in(c, 1, NB_SHAPE(n)),
        .bias = nb_check_in(c, 1, NB_SHAPE(n)),
        .mul = nb_check_out(c, 1, NB_SHAPE(n)),
        .add = nb_check_out(c, 1, NB_SHAPE(n)),
        .groups = pictures[i][3],
        .eps = 1e-6f,
    };
    nb_group_norm(nb_check_stream(c), &a);
}

const nb_check_op nb_check_layer_norm = {.name = "layer_norm",
                                         .run = run_layer,
                                         .n_shapes = NB_CHECK_COUNT(shapes) - 1,
                                         .n_bench = 1,
                                         .n_nonfinite = NB_CHECK_COUNT(shapes)};
const nb_check_op nb_check_rms_norm = {.name = "rms_norm",
                                       .run = run_rms,
                                       .n_shapes = NB_CHECK_COUNT(shapes) - 1,
                                       .n_bench = 1,
                                       .n_nonfinite = NB_CHECK_COUNT(shapes)};
const nb_check_op nb_check_group_norm = {.name = "group_norm",
                                         .run = run_group,
                                         .n_shapes = NB_CHECK_COUNT(pictures) - 1,
                                         .n_bench = 1,
                                         .n_nonfinite = NB_CHECK_COUNT(pictures)};
