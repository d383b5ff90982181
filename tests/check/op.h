/*
 * What a file about one operation says to the harness: how many shapes it has, and how to run
 * one. run() asks for tensors in an order that does not change, builds the arguments and calls
 * the operation on nb_check_stream(c). The harness calls it again for each variant, kind of
 * input, number of threads; dense, or with gaps between rows; and does all the comparing.
 */
#ifndef NB_TESTS_CHECK_OP_H
#define NB_TESTS_CHECK_OP_H

#include "kernels/ops.h"

typedef struct nb_check nb_check;

typedef struct nb_check_op {
    const char *name; /* of the slot in struct nb_ops */
    void (*run)(nb_check *c, int shape);
    int n_shapes;                  /* tested: 0 ... n_shapes-1 */
    int n_bench;                   /* timed: the n_bench after those */
    double nmse[NB_COMPUTE_COUNT]; /* tolerance, 0: that of a few F32 roundings */
    int n_nonfinite; /* shapes 0 ... also with NaN and infinities among the inputs */
} nb_check_op;

nb_stream *nb_check_stream(nb_check *c);

/* Tensors, guarded on both sides and ending where readable memory ends. Those of rank > 1 get
 * gaps between rows now and then; `dense` ones never. */
nb_tensor nb_check_in(nb_check *c, int rank, const int64_t *shape);
nb_tensor nb_check_in_dense(nb_check *c, int rank, const int64_t *shape);
nb_tensor nb_check_out(nb_check *c, int rank, const int64_t *shape);
nb_tensor nb_check_out_dense(nb_check *c, int rank, const int64_t *shape);
nb_tensor nb_check_inout(nb_check *c, int rank, const int64_t *shape);
nb_tensor nb_check_inout_dense(nb_check *c, int rank, const int64_t *shape);

/* Dense input of another type: F32, F16, BF16, F8_E4M3, F8_E5M2; F8_E8M0: small powers of two;
 * F4_E2M1X2: any codes, but zeros where the input is zeros; I32: uniform in [0, limit). */
nb_tensor nb_check_in_typed(nb_check *c, nb_dtype dtype, int rank, const int64_t *shape,
                            int64_t limit);

/* The rows (of q and out, of x and y) that this run computes: usually all, else the last ones,
 * which then must come out equal to the bit. Ops that do not promise that do not call it. */
nb_tensor nb_check_rows(nb_check *c, nb_tensor t);

/* Arithmetic of this shape; without it timings are given in bytes of the tensors. */
void nb_check_flops(nb_check *c, double flops);

#define NB_CHECK_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

#endif
