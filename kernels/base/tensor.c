#include "kernels/base/tensor.h"

#include <assert.h>

static void set_dense_strides(nb_tensor *t)
{
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        t->stride[i] = stride;
        stride *= t->shape[i];
    }
}

nb_tensor nb_tensor_view(const struct nb_device *device, void *data, nb_dtype dtype, int rank,
                         const int64_t *shape)
{
    nb_tensor t = {.data = data, .dtype = dtype, .rank = rank, .device = device};
    assert(rank >= 1 && rank <= NB_MAX_RANK);
    for (int i = 0; i < rank; i++) {
        assert(shape[i] >= 0);
        t.shape[i] = shape[i];
    }
    set_dense_strides(&t);
    return t;
}

nb_tensor nb_tensor_slice(nb_tensor t, int dim, int64_t start, int64_t count)
{
    assert(dim >= 0 && dim < t.rank && start >= 0 && count >= 0);
    assert(start + count <= t.shape[dim]);
    if (t.data)
        t.data = (char *)t.data + start * t.stride[dim] * (int64_t)nb_dtype_bytes(t.dtype);
    t.shape[dim] = count;
    return t;
}

nb_tensor nb_tensor_reshape(nb_tensor t, int rank, const int64_t *shape)
{
    assert(nb_tensor_is_dense(t));
    nb_tensor r = nb_tensor_view(t.device, t.data, t.dtype, rank, shape);
    assert(nb_tensor_count(r) == nb_tensor_count(t));
    return r;
}

nb_tensor nb_tensor_split_heads(nb_tensor t, int64_t heads)
{
    assert(t.rank == 2 && heads > 0 && t.shape[1] % heads == 0 && t.stride[1] == 1);
    int64_t dim = t.shape[1] / heads, row = t.stride[0];
    t.rank = 3;
    t.shape[1] = heads;
    t.shape[2] = dim;
    t.stride[0] = row;
    t.stride[1] = dim;
    t.stride[2] = 1;
    return t;
}

int64_t nb_tensor_count(nb_tensor t)
{
    int64_t count = 1;
    for (int i = 0; i < t.rank; i++) count *= t.shape[i];
    return count;
}

int nb_tensor_is_dense(nb_tensor t)
{
    int64_t stride = 1;
    for (int i = t.rank - 1; i >= 0; i--) {
        if (t.shape[i] != 1 && t.stride[i] != stride) return 0;
        stride *= t.shape[i];
    }
    return 1;
}
