#include "kernels/observe.h"

static double count(nb_tensor t)
{
    return t.data ? (double)nb_tensor_count(t) : 0;
}

/* Of F32 tensors; those that are absent have none. */
static double bytes_of(nb_tensor t)
{
    return count(t) * (double)nb_dtype_bytes(NB_DTYPE_F32);
}

static nb_op_work linear_work(const nb_linear_args *a)
{
    const nb_weight *w = a->w;
    double m = (double)a->x.shape[0], n = (double)w->n, k = (double)w->k;
    double rank = (double)w->low_rank.rank;
    return (nb_op_work){
        .flops = 2 * m * (n * k + rank * (n + k)),
        .bytes = (double)nb_weight_bytes(w) + bytes_of(a->x) + bytes_of(a->y) +
                 bytes_of(a->mul) + bytes_of(a->residual),
    };
}

static nb_op_work attn_work(const nb_attn_args *a)
{
    int64_t n_q = a->q.shape[0], n_k = a->k.shape[0];
    double pairs = (double)n_q * (double)n_k;
    for (int64_t i = 0; i < n_q && a->causal; i++) { /* query i sees keys up to i + n_k - n_q */
        int64_t left_out = n_q - 1 - i < n_k ? n_q - 1 - i : n_k;
        pairs -= (double)left_out;
    }
    return (nb_op_work){
        .flops = 4 * pairs * (double)(a->q.shape[1] * a->q.shape[2]),
        .bytes = bytes_of(a->q) + bytes_of(a->k) + bytes_of(a->v) + bytes_of(a->out) +
                 bytes_of(a->rel_bias),
    };
}

static nb_op_work conv2d_work(const nb_conv2d_args *a)
{
    return (nb_op_work){
        .flops = 2 * count(a->y) * (double)a->w->k,
        .bytes = (double)nb_weight_bytes(a->w) + bytes_of(a->x) + bytes_of(a->y) +
                 bytes_of(a->residual),
    };
}

static double embed_bytes(const nb_embed_args *a)
{
    double row = (double)nb_weight_bytes(a->w) / (double)a->w->n;
    return (double)a->y.shape[0] * row + bytes_of(a->y) + bytes_of(a->add);
}

nb_op_work nb_op_work_of(const nb_op_call *call)
{
    const nb_norm_args *norm = call->args;
    const nb_group_norm_args *group_norm = call->args;
    const nb_rope_args *rope = call->args;
    const nb_layout_args *layout = call->args;
    const nb_elementwise_args *elements = call->args;
    switch (call->op) {
    case NB_OP_LINEAR:
        return linear_work(call->args);
    case NB_OP_ATTN:
        return attn_work(call->args);
    case NB_OP_CONV2D:
        return conv2d_work(call->args);
    case NB_OP_LAYER_NORM:
    case NB_OP_RMS_NORM:
        return (nb_op_work){.bytes = bytes_of(norm->x) + bytes_of(norm->y)};
    case NB_OP_GROUP_NORM:
        return (nb_op_work){.bytes = bytes_of(group_norm->x)};
    case NB_OP_ROPE: /* in place */
        return (nb_op_work){.bytes = 2 * bytes_of(rope->x)};
    case NB_OP_CHW_TO_ROWS:
    case NB_OP_ROWS_TO_CHW:
        return (nb_op_work){.bytes = bytes_of(layout->x) + bytes_of(layout->y) +
                                     bytes_of(layout->residual)};
    case NB_OP_EMBED:
        return (nb_op_work){.bytes = embed_bytes(call->args)};
    case NB_OP_AXPY: /* y is read, too */
        return (nb_op_work){.bytes = 2 * bytes_of(elements->y) + bytes_of(elements->x0)};
    default:
        return (nb_op_work){.bytes = bytes_of(elements->y) + bytes_of(elements->x0) +
                                     bytes_of(elements->x1)};
    }
}
