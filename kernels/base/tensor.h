/*
 * A tensor: a small value that views memory of one device. It owns nothing; who made the memory
 * (an arena, a buffer, a mapping) keeps it alive. Strides are in elements; every operation
 * wants the innermost stride to be 1 and says what else it wants, so a column range of a wider
 * matrix or one head of a fused q|k|v row is a tensor too.
 */
#ifndef NB_KERNELS_BASE_TENSOR_H
#define NB_KERNELS_BASE_TENSOR_H

#include <stdint.h>

#include "kernels/base/arena.h"
#include "kernels/base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NB_MAX_RANK = 4 };

struct nb_device;

typedef struct nb_tensor {
    void *data; /* first element, aligned to its type; NULL means "no tensor" */
    nb_dtype dtype;
    int rank;
    int64_t shape[NB_MAX_RANK];  /* outermost first */
    int64_t stride[NB_MAX_RANK]; /* elements; stride[rank-1] == 1 */
    const struct nb_device *device;
} nb_tensor;

/* A dense tensor over existing memory. */
nb_tensor nb_tensor_view(const struct nb_device *device, void *data, nb_dtype dtype, int rank,
                         const int64_t *shape);

/* Elements start ... start+count of dimension `dim`: no copy. */
nb_tensor nb_tensor_slice(nb_tensor t, int dim, int64_t start, int64_t count);

/* The same dense elements in another shape. */
nb_tensor nb_tensor_reshape(nb_tensor t, int rank, const int64_t *shape);

/* [R, H*D] (rows may be strided) seen as [R, H, D]. */
nb_tensor nb_tensor_split_heads(nb_tensor t, int64_t heads);

int64_t nb_tensor_count(nb_tensor t); /* number of elements */
int nb_tensor_is_dense(nb_tensor t);  /* contiguous, row-major */

static inline float *nb_tensor_f32(nb_tensor t)
{
    return (float *)t.data;
}

#ifdef __cplusplus
}
#endif
#endif
