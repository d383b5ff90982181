#include <math.h>

#include "kernels/ref/ref.h"

/* One head of one row: norm, then rotation of adjacent pairs by the row's angles. */
static void rotate(const nb_rope_args *a, float *x, int64_t row)
{
    int64_t dims = a->x.shape[2];
    const float *weight = nb_tensor_f32(a->weight);
    double square = 0, norm = 1;
    for (int64_t d = 0; d < dims; d++) square += (double)x[d] * x[d];
    if (weight) norm = 1 / sqrt(square / (double)dims + a->eps);
    for (int64_t m = 0; m < dims / 2; m++) {
        double u0 = weight ? x[2 * m] * norm * weight[2 * m] : x[2 * m];
        double u1 = weight ? x[2 * m + 1] * norm * weight[2 * m + 1] : x[2 * m + 1];
        double c = a->cos.data ? nb_tensor_f32(a->cos)[row * a->cos.stride[0] + m] : 1;
        double n = a->sin.data ? nb_tensor_f32(a->sin)[row * a->sin.stride[0] + m] : 0;
        x[2 * m] = (float)(u0 * c - u1 * n);
        x[2 * m + 1] = (float)(u1 * c + u0 * n);
    }
}

void nb_rope_ref(nb_stream *s, const nb_rope_args *a)
{
    (void)s;
    for (int64_t i = 0; i < a->x.shape[0]; i++)
        for (int64_t h = 0; h < a->x.shape[1]; h++)
            rotate(a, nb_tensor_f32(a->x) + i * a->x.stride[0] + h * a->x.stride[1], i);
}
