/*
 * The public face of every operation: check shapes, then go through the device's table. A
 * stream that has faulted runs nothing.
 */
#include "kernels/ops.h"

#include <assert.h>

#include "kernels/observe.h"

static void tell_before(const nb_stream *s, const nb_op_call *call)
{
    if (s->observer && s->observer->before) s->observer->before(s->observer->arg, call);
}

static void tell_after(const nb_stream *s, const nb_op_call *call)
{
    if (s->observer && s->observer->after) s->observer->after(s->observer->arg, call);
}

/* Operations that run on a faulted stream would touch tensors that were never allocated. */
#define RUN_AT(s, op, policy, slot, args)                                                      \
    do {                                                                                       \
        const nb_op_call call = {NB_OP_##op, (policy), (args)};                                \
        if ((s)->status != NB_OK) break;                                                       \
        tell_before((s), &call);                                                               \
        nb_device_ops((s)->device)->slot((s), (args));                                         \
        tell_after((s), &call);                                                                \
    } while (0)

#define RUN(s, op, slot, args) RUN_AT(s, op, NB_COMPUTE_F32, slot, args)

static int is_absent(nb_tensor t)
{
    return t.data == NULL;
}

static int is_f32(nb_tensor t, int rank)
{
    return t.dtype == NB_DTYPE_F32 && t.rank == rank && t.stride[rank - 1] == 1;
}

static int is_vector(nb_tensor t, int64_t n)
{
    return is_absent(t) || (is_f32(t, 1) && t.shape[0] == n);
}

static int is_matrix(nb_tensor t, int64_t m, int64_t n)
{
    return is_f32(t, 2) && t.shape[0] == m && t.shape[1] == n;
}

static int is_same_shape(nb_tensor a, nb_tensor b)
{
    if (a.rank != b.rank || a.dtype != b.dtype) return 0;
    for (int i = 0; i < a.rank; i++)
        if (a.shape[i] != b.shape[i]) return 0;
    return 1;
}

/* Only linears honour what stands beside a matrix. */
static int is_plain(const nb_weight *w)
{
    return !w->column_scales && !w->low_rank.rank;
}

nb_compute nb_linear_compute(nb_compute policy, const nb_weight *w)
{
    int is_quantised =
        w->dtype != NB_DTYPE_F32 && w->dtype != NB_DTYPE_F16 && w->dtype != NB_DTYPE_BF16;
    if (policy <= NB_COMPUTE_BF16) return policy;
    if (!is_quantised || w->exact_inputs) return NB_COMPUTE_BF16;
    return w->dtype == NB_DTYPE_F4_E2M1X2 ? policy : NB_COMPUTE_A8;
}

/* What attention and convolutions are computed at: few bits are for linears alone. */
static nb_compute plain_compute(const nb_stream *s)
{
    return s->compute < NB_COMPUTE_BF16 ? s->compute : NB_COMPUTE_BF16;
}

void nb_linear(nb_stream *s, const nb_linear_args *a)
{
    int64_t m = a->x.shape[0], n = a->w->n;
    assert(is_matrix(a->x, m, a->w->k) && is_matrix(a->y, m, n));
    assert(!a->w->low_rank.rank || (a->w->low_rank.down && a->w->low_rank.up));
    assert(is_vector(a->bias, n) && is_vector(a->gate, n) && a->act < NB_ACT_COUNT);
    assert(is_absent(a->mul) || is_matrix(a->mul, m, n));
    assert(is_absent(a->residual) || is_matrix(a->residual, m, n));
    nb_compute compute = nb_linear_compute(s->compute, a->w);
    if (m) RUN_AT(s, LINEAR, compute, linear[compute], a);
}

void nb_attn(nb_stream *s, const nb_attn_args *a)
{
    int64_t sq = a->q.shape[0], sk = a->k.shape[0];
    assert(is_f32(a->q, 3) && is_f32(a->k, 3) && is_f32(a->v, 3) && is_f32(a->out, 3));
    assert(is_same_shape(a->q, a->out) && is_same_shape(a->k, a->v));
    assert(a->q.shape[2] == a->k.shape[2] && a->q.shape[1] % a->k.shape[1] == 0);
    assert(is_absent(a->rel_bias) || is_matrix(a->rel_bias, a->q.shape[1], sq + sk - 1));
    if (sq && sk) RUN_AT(s, ATTN, plain_compute(s), attn[s->compute], a);
}

static void check_norm(const nb_norm_args *a)
{
    int64_t d = a->x.shape[1];
    assert(is_matrix(a->y, a->x.shape[0], d) && is_f32(a->x, 2));
    assert(is_vector(a->weight, d) && is_vector(a->bias, d));
    assert(is_vector(a->scale, d) && is_vector(a->shift, d));
    (void)d;
}

void nb_layer_norm(nb_stream *s, const nb_norm_args *a)
{
    check_norm(a);
    RUN(s, LAYER_NORM, layer_norm, a);
}

void nb_rms_norm(nb_stream *s, const nb_norm_args *a)
{
    check_norm(a);
    assert(is_absent(a->bias) && is_absent(a->scale) && is_absent(a->shift));
    RUN(s, RMS_NORM, rms_norm, a);
}

void nb_group_norm(nb_stream *s, const nb_group_norm_args *a)
{
    int64_t c = a->x.shape[0];
    assert(is_f32(a->x, 3) && nb_tensor_is_dense(a->x) && a->groups > 0 && c % a->groups == 0);
    assert(is_vector(a->mul, c) && is_vector(a->add, c));
    assert(is_vector(a->weight, c) && is_vector(a->bias, c));
    (void)c;
    RUN(s, GROUP_NORM, group_norm, a);
}

void nb_rope(nb_stream *s, const nb_rope_args *a)
{
    int64_t d = a->x.shape[2];
    assert(is_f32(a->x, 3) && d % 2 == 0 && is_vector(a->weight, d));
    assert(is_absent(a->cos) == is_absent(a->sin));
    assert(is_absent(a->cos) || (is_matrix(a->cos, a->x.shape[0], d / 2) &&
                                 is_matrix(a->sin, a->x.shape[0], d / 2)));
    (void)d;
    RUN(s, ROPE, rope, a);
}

void nb_conv2d(nb_stream *s, const nb_conv2d_args *a)
{
    int64_t c = a->x.shape[0];
    assert(is_f32(a->x, 3) && nb_tensor_is_dense(a->x));
    assert(is_f32(a->y, 3) && nb_tensor_is_dense(a->y) && a->y.shape[0] == a->w->n);
    assert(a->kernel == 1 || a->kernel == 3);
    assert(a->w->k == c * a->kernel * a->kernel && (a->stride == 1 || a->stride == 2));
    assert(is_plain(a->w));
    assert(is_vector(a->bias, a->w->n) && is_vector(a->mul, c) && is_vector(a->add, c));
    assert(is_absent(a->mul) == is_absent(a->add));
    assert(is_absent(a->residual) || is_same_shape(a->residual, a->y));
    (void)c;
    RUN_AT(s, CONV2D, plain_compute(s), conv2d[s->compute], a);
}

static void check_layout(nb_tensor picture, nb_tensor rows)
{
    assert(is_f32(picture, 3) && nb_tensor_is_dense(picture));
    assert(is_matrix(rows, picture.shape[1] * picture.shape[2], picture.shape[0]));
    (void)picture;
    (void)rows;
}

void nb_chw_to_rows(nb_stream *s, const nb_layout_args *a)
{
    check_layout(a->x, a->y);
    assert(is_vector(a->mul, a->x.shape[0]) && is_vector(a->add, a->x.shape[0]));
    RUN(s, CHW_TO_ROWS, chw_to_rows, a);
}

void nb_rows_to_chw(nb_stream *s, const nb_layout_args *a)
{
    check_layout(a->y, a->x);
    assert(is_absent(a->residual) || is_same_shape(a->residual, a->y));
    RUN(s, ROWS_TO_CHW, rows_to_chw, a);
}

void nb_embed(nb_stream *s, const nb_embed_args *a)
{
    assert(is_f32(a->y, 2) && a->y.shape[1] == a->w->k && is_plain(a->w));
    assert(is_absent(a->add) || is_same_shape(a->add, a->y));
    RUN(s, EMBED, embed, a);
}

static void check_dense(nb_tensor y, nb_tensor x)
{
    assert(y.dtype == NB_DTYPE_F32 && x.dtype == NB_DTYPE_F32);
    assert(nb_tensor_is_dense(y) && nb_tensor_is_dense(x));
    assert(nb_tensor_count(y) == nb_tensor_count(x));
    (void)y;
    (void)x;
}

void nb_axpy(nb_stream *s, nb_tensor y, float a, nb_tensor x)
{
    nb_elementwise_args args = {.y = y, .x0 = x, .a = a};
    check_dense(y, x);
    RUN(s, AXPY, axpy, &args);
}

void nb_blend(nb_stream *s, nb_tensor y, float a, nb_tensor x0, nb_tensor x1)
{
    nb_elementwise_args args = {.y = y, .x0 = x0, .x1 = x1, .a = a};
    check_dense(y, x0);
    check_dense(y, x1);
    RUN(s, BLEND, blend, &args);
}

void nb_silu(nb_stream *s, nb_tensor y, nb_tensor x)
{
    nb_elementwise_args args = {.y = y, .x0 = x};
    check_dense(y, x);
    RUN(s, SILU, silu, &args);
}

void nb_add(nb_stream *s, nb_tensor y, nb_tensor x0, nb_tensor x1)
{
    nb_elementwise_args args = {.y = y, .x0 = x0, .x1 = x1};
    check_dense(y, x0);
    check_dense(y, x1);
    RUN(s, ADD, add, &args);
}

void nb_copy(nb_stream *s, nb_tensor y, nb_tensor x)
{
    nb_elementwise_args args = {.y = y, .x0 = x};
    assert(is_same_shape(y, x) && y.rank <= 2);
    RUN(s, COPY, copy, &args);
}
