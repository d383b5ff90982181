#include "tests/check/op.h"

/* given: mul and add, or the residual, are there; 2: the residual is y */
static const struct {
    int channels, height, width, given;
} shapes[] = {
    {1, 1, 1, 0},   {3, 1, 17, 1}, {17, 5, 3, 0},   {16, 4, 4, 1},
    {31, 3, 11, 1}, {33, 7, 9, 2}, {64, 16, 17, 2}, {512, 64, 64, 1}, /* timed: the VAE */
};

static void run_to_rows(nb_check *c, int i)
{
    int64_t n = shapes[i].channels, h = shapes[i].height, w = shapes[i].width;
    nb_layout_args a = {.x = nb_check_in_dense(c, 3, NB_SHAPE(n, h, w)),
                        .y = nb_check_out(c, 2, NB_SHAPE(h * w, n))};
    if (shapes[i].given) a.mul = nb_check_in(c, 1, NB_SHAPE(n));
    if (shapes[i].given) a.add = nb_check_in(c, 1, NB_SHAPE(n));
    nb_chw_to_rows(nb_check_stream(c), &a);
}

static void run_to_chw(nb_check *c, int i)
{
    int64_t n = shapes[i].channels, h = shapes[i].height, w = shapes[i].width;
    nb_layout_args a = {.x = nb_check_in(c, 2, NB_SHAPE(h * w, n))};
    if (shapes[i].given == 1) a.residual = nb_check_in_dense(c, 3, NB_SHAPE(n, h, w));
    if (shapes[i].given == 2) {
        a.y = a.residual = nb_check_inout_dense(c, 3, NB_SHAPE(n, h, w));
    } else {
        a.y = nb_check_out_dense(c, 3, NB_SHAPE(n, h, w));
    }
    nb_rows_to_chw(nb_check_stream(c), &a);
}

const nb_check_op nb_check_chw_to_rows = {.name = "chw_to_rows",
                                          .run = run_to_rows,
                                          .n_shapes = NB_CHECK_COUNT(shapes) - 1,
                                          .n_bench = 1,
                                          .n_nonfinite = NB_CHECK_COUNT(shapes)};
const nb_check_op nb_check_rows_to_chw = {.name = "rows_to_chw",
                                          .run = run_to_chw,
                                          .n_shapes = NB_CHECK_COUNT(shapes) - 1,
                                          .n_bench = 1,
                                          .n_nonfinite = NB_CHECK_COUNT(shapes)};
