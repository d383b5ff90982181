/*
 * Looking on at operations: a stream's observer is told of every operation before and after it
 * runs, and can ask how much work it is. For calibration and profiles; a stream without one
 * pays a comparison for each operation.
 *
 * An operation that runs others inside itself is one operation to an observer. One that does
 * not run (the stream has faulted, there are no rows) is not told of.
 */
#ifndef NB_KERNELS_OBSERVE_H
#define NB_KERNELS_OBSERVE_H

#include "kernels/ops.h"

typedef enum nb_op {
    NB_OP_LINEAR,
    NB_OP_ATTN,
    NB_OP_CONV2D,
    NB_OP_LAYER_NORM,
    NB_OP_RMS_NORM,
    NB_OP_GROUP_NORM,
    NB_OP_ROPE,
    NB_OP_CHW_TO_ROWS,
    NB_OP_ROWS_TO_CHW,
    NB_OP_EMBED,
    NB_OP_AXPY,
    NB_OP_BLEND,
    NB_OP_SILU,
    NB_OP_ADD,
    NB_OP_COPY,
    NB_OP_COUNT
} nb_op;

/* A call of an operation. `args` is the struct that its function in the table is given:
 * nb_linear_args, nb_attn_args ... They are the caller's: valid until the observer returns. */
typedef struct nb_op_call {
    nb_op op;
    nb_compute compute; /* what its products are computed at; F32 where there are none */
    const void *args;
} nb_op_call;

/* Both functions run in the thread that called the operation. On a device that queues its work,
 * `after` means that it is queued. */
typedef struct nb_observer {
    void (*before)(void *arg, const nb_op_call *call); /* NULL: not told */
    void (*after)(void *arg, const nb_op_call *call);  /* NULL: not told */
    void *arg;
} nb_observer;

/* The least that an operation has to do. */
typedef struct nb_op_work {
    double flops; /* of its products: a product with its sum is two; 0 where there are none */
    double bytes; /* of memory: every operand read once, every result written once */
} nb_op_work;

nb_op_work nb_op_work_of(const nb_op_call *call);

#endif
