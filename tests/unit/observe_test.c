/*
 * Who looks on at a stream is told of what runs and of nothing else; what an operation's work
 * is said to be is what it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/observe.h"

struct fixture {
    nb_device *device;
    nb_stream *s;
    float *data; /* of all tensors: nobody reads them in order */
};

enum { N_DATA = 4096, MOST = 8 };

static int set_up(void **state)
{
    static struct fixture f;
    *state = &f;
    f.data = calloc(N_DATA, sizeof(float));
    return !f.data || nb_device_open_cpu(0, &f.device) ||
           nb_stream_create(f.device, NB_COMPUTE_A8, 1, NULL, &f.s);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    nb_stream_destroy(f->s);
    nb_device_close(f->device);
    free(f->data);
    return 0;
}

static nb_tensor view(const struct fixture *f, int64_t at, int rank, const int64_t *shape)
{
    return nb_tensor_view(f->device, f->data + at, NB_DTYPE_F32, rank, shape);
}

struct seen {
    int n_before, n_after;
    nb_op_call before[MOST], after[MOST];
};

static void note_before(void *arg, const nb_op_call *call)
{
    struct seen *seen = arg;
    seen->before[seen->n_before++] = *call;
}

static void note_after(void *arg, const nb_op_call *call)
{
    struct seen *seen = arg;
    assert_int_equal(seen->n_before, seen->n_after + 1);
    seen->after[seen->n_after++] = *call;
}

static void test_told(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {0};
    const nb_observer observer = {note_before, note_after, &seen}, deaf = {0};
    const nb_weight w = {.data = f->data, .n = 4, .k = 8, .scale = 1};
    nb_linear_args linear = {
        .w = &w, .x = view(f, 0, 2, NB_SHAPE(2, 8)), .y = view(f, 1024, 2, NB_SHAPE(2, 4))};
    nb_attn_args attn = {.q = view(f, 0, 3, NB_SHAPE(2, 1, 8)),
                         .k = view(f, 0, 3, NB_SHAPE(3, 1, 8)),
                         .v = view(f, 0, 3, NB_SHAPE(3, 1, 8)),
                         .out = view(f, 1024, 3, NB_SHAPE(2, 1, 8))};
    f->s->observer = &observer;
    nb_linear(f->s, &linear);
    nb_attn(f->s, &attn);
    nb_silu(f->s, view(f, 1024, 1, NB_SHAPE(9)), view(f, 0, 1, NB_SHAPE(9)));
    linear.x.shape[0] = linear.y.shape[0] = 0; /* no rows: nothing runs */
    nb_linear(f->s, &linear);
    f->s->observer = &deaf;
    nb_attn(f->s, &attn);
    f->s->observer = NULL;
    nb_attn(f->s, &attn);
    assert_int_equal(seen.n_after, 3);
    assert_memory_equal(seen.before, seen.after, sizeof seen.before);
    assert_int_equal(seen.after[0].op, NB_OP_LINEAR);
    assert_int_equal(seen.after[0].compute, NB_COMPUTE_BF16); /* the weights are F32 */
    assert_ptr_equal(seen.after[0].args, &linear);
    assert_int_equal(seen.after[1].op, NB_OP_ATTN);
    assert_int_equal(seen.after[1].compute, NB_COMPUTE_BF16);
    assert_int_equal(seen.after[2].op, NB_OP_SILU);
    assert_int_equal(seen.after[2].compute, NB_COMPUTE_F32);
}

static void test_fault(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {0};
    const nb_observer observer = {note_before, note_after, &seen};
    f->s->observer = &observer;
    nb_stream_fault(f->s, NB_E_DATA, "a fault");
    nb_add(f->s, view(f, 0, 1, NB_SHAPE(4)), view(f, 8, 1, NB_SHAPE(4)),
           view(f, 16, 1, NB_SHAPE(4)));
    f->s->observer = NULL;
    f->s->status = NB_OK;
    assert_int_equal(seen.n_before, 0);
    assert_int_equal(seen.n_after, 0);
}

static void check_work(nb_op op, const void *args, double flops, double bytes)
{
    nb_op_work work = nb_op_work_of(&(nb_op_call){op, NB_COMPUTE_F32, args});
    assert_true(work.flops == flops);
    assert_true(work.bytes == bytes);
}

static void test_linear_work(void **state)
{
    struct fixture *f = *state;
    float values[NB_SCALE_CODES];
    nb_weight w = {.data = f->data, .n = 4, .k = 32, .scale = 1};
    nb_linear_args a = {
        .w = &w, .x = view(f, 0, 2, NB_SHAPE(2, 32)), .y = view(f, 1024, 2, NB_SHAPE(2, 4))};
    check_work(NB_OP_LINEAR, &a, 2 * 2 * 4 * 32, 4 * (4 * 32 + 2 * 32 + 2 * 4));
    w.scale_kind = NB_SCALE_ROW;
    a.residual = a.y;
    check_work(NB_OP_LINEAR, &a, 2 * 2 * 4 * 32, 4 * (4 * 32 + 4 + 2 * 32 + 2 * 2 * 4));
    w.scale_kind = NB_SCALE_BLOCK128; /* one block */
    check_work(NB_OP_LINEAR, &a, 2 * 2 * 4 * 32, 4 * (4 * 32 + 1 + 2 * 32 + 2 * 2 * 4));
    w.dtype = NB_DTYPE_F4_E2M1X2;
    w.scale_kind = NB_SCALE_NVFP4;
    w.scale_values = values;
    a.residual.data = NULL;
    w.low_rank.rank = 3;
    check_work(NB_OP_LINEAR, &a, 2 * 2 * (4 * 32 + 3 * (4 + 32)),
               4 * 16 + 4 * 2 + 4 * (2 * 32 + 2 * 4));
}

static void test_attn_work(void **state)
{
    struct fixture *f = *state;
    for (int64_t n_q = 1; n_q <= 5; n_q++)
        for (int64_t n_k = 1; n_k <= 5; n_k++)
            for (int causal = 0; causal < 2; causal++) {
                nb_attn_args a = {.q = view(f, 0, 3, NB_SHAPE(n_q, 4, 8)),
                                  .k = view(f, 0, 3, NB_SHAPE(n_k, 2, 8)),
                                  .v = view(f, 0, 3, NB_SHAPE(n_k, 2, 8)),
                                  .out = view(f, 1024, 3, NB_SHAPE(n_q, 4, 8)),
                                  .causal = causal};
                int64_t pairs = 0;
                for (int64_t i = 0; i < n_q; i++)
                    for (int64_t j = 0; j < n_k; j++) pairs += !causal || j <= i + n_k - n_q;
                check_work(NB_OP_ATTN, &a, (double)(4 * pairs * 4 * 8),
                           (double)(4 * (2 * n_q * 4 * 8 + 2 * n_k * 2 * 8)));
            }
}

static void test_other_work(void **state)
{
    struct fixture *f = *state;
    const nb_weight w = {.data = f->data, .n = 5, .k = 27, .scale = 1};
    const nb_conv2d_args conv = {.w = &w,
                                 .x = view(f, 0, 3, NB_SHAPE(3, 4, 4)),
                                 .y = view(f, 1024, 3, NB_SHAPE(5, 4, 4)),
                                 .kernel = 3};
    const nb_embed_args embed = {.w = &w, .y = view(f, 1024, 2, NB_SHAPE(2, 27))};
    const nb_elementwise_args two = {.y = view(f, 0, 1, NB_SHAPE(7)),
                                     .x0 = view(f, 8, 1, NB_SHAPE(7))};
    const nb_rope_args rope = {.x = view(f, 0, 3, NB_SHAPE(2, 3, 4))};
    const nb_group_norm_args norm = {.x = conv.x};
    check_work(NB_OP_CONV2D, &conv, 2 * 5 * 16 * 27, 4 * (5 * 27 + 3 * 16 + 5 * 16));
    check_work(NB_OP_EMBED, &embed, 0, 4 * (2 * 27 + 2 * 27));
    check_work(NB_OP_SILU, &two, 0, 4 * 2 * 7);
    check_work(NB_OP_AXPY, &two, 0, 4 * 3 * 7);
    check_work(NB_OP_ROPE, &rope, 0, 4 * 2 * 24);
    check_work(NB_OP_GROUP_NORM, &norm, 0, 4 * 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told),        cmocka_unit_test(test_fault),
        cmocka_unit_test(test_linear_work), cmocka_unit_test(test_attn_work),
        cmocka_unit_test(test_other_work),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
