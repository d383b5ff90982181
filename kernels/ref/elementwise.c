#include <math.h>

#include "kernels/ref/ref.h"

/* Sums of a product are fused in every variant (one rounding), so that all agree to the bit. */

void nb_embed_ref(nb_stream *s, const nb_embed_args *a)
{
    int64_t k = a->y.shape[1];
    (void)s;
    for (int64_t i = 0; i < a->y.shape[0]; i++) {
        float *y = nb_tensor_f32(a->y) + i * a->y.stride[0];
        nb_weight_decode_ref(a->w, a->ids[i], 0, k, y);
        for (int64_t d = 0; a->add.data && d < k; d++)
            y[d] += nb_tensor_f32(a->add)[i * a->add.stride[0] + d];
    }
}

void nb_axpy_ref(nb_stream *s, const nb_elementwise_args *a)
{
    float *y = nb_tensor_f32(a->y);
    const float *x = nb_tensor_f32(a->x0);
    (void)s;
    for (int64_t i = 0; i < nb_tensor_count(a->y); i++) y[i] = fmaf(a->a, x[i], y[i]);
}

void nb_blend_ref(nb_stream *s, const nb_elementwise_args *a)
{
    float *y = nb_tensor_f32(a->y);
    const float *x0 = nb_tensor_f32(a->x0), *x1 = nb_tensor_f32(a->x1);
    (void)s;
    for (int64_t i = 0; i < nb_tensor_count(a->y); i++) y[i] = fmaf(a->a, x1[i] - x0[i], x0[i]);
}

void nb_silu_ref(nb_stream *s, const nb_elementwise_args *a)
{
    float *y = nb_tensor_f32(a->y);
    const float *x = nb_tensor_f32(a->x0);
    (void)s;
    for (int64_t i = 0; i < nb_tensor_count(a->y); i++) y[i] = (float)(x[i] / (1 + exp(-x[i])));
}

void nb_add_ref(nb_stream *s, const nb_elementwise_args *a)
{
    float *y = nb_tensor_f32(a->y);
    const float *x0 = nb_tensor_f32(a->x0), *x1 = nb_tensor_f32(a->x1);
    (void)s;
    for (int64_t i = 0; i < nb_tensor_count(a->y); i++) y[i] = x0[i] + x1[i];
}

void nb_copy_ref(nb_stream *s, const nb_elementwise_args *a)
{
    nb_tensor x = a->x0, y = a->y;
    int64_t bytes = (int64_t)nb_dtype_bytes(x.dtype);
    int64_t n_rows = x.rank == 2 ? x.shape[0] : 1, n = x.shape[x.rank - 1];
    (void)s;
    for (int64_t i = 0; i < n_rows && n; i++)
        memmove((char *)y.data + i * y.stride[0] * bytes,
                (const char *)x.data + i * x.stride[0] * bytes, (size_t)(n * bytes));
}
