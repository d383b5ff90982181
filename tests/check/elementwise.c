#include "tests/check/op.h"

static const int64_t sizes[] = {1, 15, 16, 17, 1000, 66001, 3932160 /* timed */};

static nb_tensor in(nb_check *c, int i)
{
    return nb_check_in_dense(c, 1, &sizes[i]);
}

static nb_tensor inout(nb_check *c, int i)
{
    return nb_check_inout_dense(c, 1, &sizes[i]);
}

static void run_axpy(nb_check *c, int i)
{
    nb_tensor y = inout(c, i);
    nb_axpy(nb_check_stream(c), y, -0.37f, in(c, i));
}

static void run_blend(nb_check *c, int i)
{
    nb_tensor y = inout(c, i);
    nb_blend(nb_check_stream(c), y, 3.5f, y, in(c, i));
}

static void run_silu(nb_check *c, int i)
{
    nb_tensor y = inout(c, i);
    nb_silu(nb_check_stream(c), y, y);
}

static void run_add(nb_check *c, int i)
{
    nb_tensor y = inout(c, i);
    nb_add(nb_check_stream(c), y, in(c, i), y);
}

static const int matrices[][3] = {
    {1, 1, 0}, {17, 5, 1}, {3, 33, 0}, {9, 130, 1}, {512, 4096, 1}};

static void run_copy(nb_check *c, int i)
{
    nb_tensor y = nb_check_out(c, 2, NB_SHAPE(matrices[i][0], matrices[i][1]));
    nb_copy(nb_check_stream(c), y, nb_check_in(c, 2, NB_SHAPE(matrices[i][0], matrices[i][1])));
}

static void run_embed(nb_check *c, int i)
{
    static const nb_dtype dtypes[] = {NB_DTYPE_F32, NB_DTYPE_F16, NB_DTYPE_BF16,
                                      NB_DTYPE_F8_E4M3, NB_DTYPE_BF16};
    int64_t m = matrices[i][0], k = matrices[i][1], n = 50;
    nb_tensor table = nb_check_in_typed(c, dtypes[i], 2, NB_SHAPE(n, k), 0);
    nb_weight w = {.data = table.data, .dtype = dtypes[i], .n = n, .k = k, .scale = 0.5f};
    nb_embed_args a = {.y = nb_check_out(c, 2, NB_SHAPE(m, k)), .w = &w};
    a.ids = nb_check_in_typed(c, NB_DTYPE_I32, 1, NB_SHAPE(m), n).data;
    if (matrices[i][2]) a.add = nb_check_in_dense(c, 2, NB_SHAPE(m, k));
    nb_embed(nb_check_stream(c), &a);
}

#define FLAT(op)                                                                               \
    const nb_check_op nb_check_##op = {.name = #op,                                            \
                                       .run = run_##op,                                        \
                                       .n_shapes = NB_CHECK_COUNT(sizes) - 1,                  \
                                       .n_bench = 1,                                           \
                                       .n_nonfinite = NB_CHECK_COUNT(sizes)}
FLAT(axpy);
FLAT(blend);
FLAT(silu);
FLAT(add);

#define ROWS(op)                                                                               \
    const nb_check_op nb_check_##op = {.name = #op,                                            \
                                       .run = run_##op,                                        \
                                       .n_shapes = NB_CHECK_COUNT(matrices) - 1,               \
                                       .n_bench = 1,                                           \
                                       .n_nonfinite = NB_CHECK_COUNT(matrices)}
ROWS(copy);
ROWS(embed);
