#include "tests/check/op.h"

/* options: bit 0 norm, bit 1 rotation */
static const struct {
    int rows, heads, dims, options;
} shapes[] = {
    {1, 1, 2, 3},  {17, 3, 8, 3},      {5, 2, 30, 2},  {7, 2, 34, 1},
    {9, 4, 64, 3}, {33, 3, 128, 3},    {6, 2, 128, 1}, {4, 2, 128, 2},
    {3, 1, 96, 3}, {1280, 24, 128, 3}, /* timed: Flux at 512 pixels */
};

static void run(nb_check *c, int i)
{
    int64_t n = shapes[i].rows, d = shapes[i].dims;
    nb_rope_args a = {.eps = 1e-6f};
    a.x = nb_check_inout(c, 3, NB_SHAPE(n, shapes[i].heads, d));
    if (shapes[i].options & 1) a.weight = nb_check_in(c, 1, NB_SHAPE(d));
    if (shapes[i].options & 2) a.cos = nb_check_in_dense(c, 2, NB_SHAPE(n, d / 2));
    if (shapes[i].options & 2) a.sin = nb_check_in_dense(c, 2, NB_SHAPE(n, d / 2));
    nb_rope(nb_check_stream(c), &a);
}

const nb_check_op nb_check_rope = {.name = "rope",
                                   .run = run,
                                   .n_shapes = NB_CHECK_COUNT(shapes) - 1,
                                   .n_bench = 1,
                                   .n_nonfinite = NB_CHECK_COUNT(shapes)};
