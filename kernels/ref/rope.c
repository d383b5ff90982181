#include <math.h>

#include "kernels/ref/ref.h"

static void norm_head(const nb_rope_args *a, float *x)
{
    int64_t dims = a->x.shape[2];
    double square = 0;
    for (int64_t d = 0; d < dims; d++) square += (double)x[d] * x[d];
    double norm = 1 / sqrt(square / (double)dims + a->eps);
    for (int64_t d = 0; d < dims; d++)
        x[d] = (float)(x[d] * norm * nb_tensor_f32(a->weight)[d]);
}

static void rotate_head(const nb_rope_args *a, float *x, int64_t row)
{
    for (int64_t m = 0; m < a->x.shape[2] / 2; m++) {
        double u0 = x[2 * m], u1 = x[2 * m + 1];
        double c = nb_tensor_f32(a->cos)[row * a->cos.stride[0] + m];
        double n = nb_tensor_f32(a->sin)[row * a->sin.stride[0] + m];
        x[2 * m] = (float)(u0 * c - u1 * n);
        x[2 * m + 1] = (float)(u1 * c + u0 * n);
    }
}

void nb_rope_ref(nb_stream *s, const nb_rope_args *a)
{
    (void)s;
    for (int64_t i = 0; i < a->x.shape[0]; i++)
        for (int64_t h = 0; h < a->x.shape[1]; h++) {
            float *x = nb_tensor_f32(a->x) + i * a->x.stride[0] + h * a->x.stride[1];
            if (a->weight.data) norm_head(a, x);
            if (a->cos.data) rotate_head(a, x, i);
        }
}
