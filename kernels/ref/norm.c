#include <math.h>

#include "kernels/ref/ref.h"

/* Element i of an optional vector. */
static double at(nb_tensor t, int64_t i, double absent)
{
    return t.data ? (double)nb_tensor_f32(t)[i] : absent;
}

static double mean_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

static double mean_square(const float *x, int64_t n, double centre)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (x[i] - centre) * (x[i] - centre);
    return sum / (double)n;
}

void nb_layer_norm_ref(nb_stream *s, const nb_norm_args *a)
{
    int64_t dims = a->x.shape[1];
    (void)s;
    for (int64_t m = 0; m < a->x.shape[0]; m++) {
        const float *x = nb_tensor_f32(a->x) + m * a->x.stride[0];
        float *y = nb_tensor_f32(a->y) + m * a->y.stride[0];
        double mean = mean_of(x, dims);
        double norm = 1 / sqrt(mean_square(x, dims, mean) + a->eps);
        for (int64_t d = 0; d < dims; d++) {
            double t = (x[d] - mean) * norm * at(a->weight, d, 1) + at(a->bias, d, 0);
            y[d] = (float)(t * (1 + at(a->scale, d, 0)) + at(a->shift, d, 0));
        }
    }
}

void nb_rms_norm_ref(nb_stream *s, const nb_norm_args *a)
{
    int64_t dims = a->x.shape[1];
    (void)s;
    for (int64_t m = 0; m < a->x.shape[0]; m++) {
        const float *x = nb_tensor_f32(a->x) + m * a->x.stride[0];
        float *y = nb_tensor_f32(a->y) + m * a->y.stride[0];
        double norm = 1 / sqrt(mean_square(x, dims, 0) + a->eps);
        for (int64_t d = 0; d < dims; d++) y[d] = (float)(x[d] * norm * at(a->weight, d, 1));
    }
}

void nb_group_norm_ref(nb_stream *s, const nb_group_norm_args *a)
{
    int64_t per_group = a->x.shape[0] / a->groups;
    int64_t n = per_group * a->x.shape[1] * a->x.shape[2];
    (void)s;
    for (int64_t g = 0; g < a->groups; g++) {
        const float *x = nb_tensor_f32(a->x) + g * n;
        double mean = mean_of(x, n);
        double norm = 1 / sqrt(mean_square(x, n, mean) + a->eps);
        for (int64_t c = g * per_group; c < (g + 1) * per_group; c++) {
            double mul = at(a->weight, c, 1) * norm;
            nb_tensor_f32(a->mul)[c] = (float)mul;
            nb_tensor_f32(a->add)[c] = (float)(at(a->bias, c, 0) - mean * mul);
        }
    }
}
