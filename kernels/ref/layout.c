#include <math.h>

#include "kernels/ref/ref.h"

void nb_chw_to_rows_ref(nb_stream *s, const nb_layout_args *a)
{
    int64_t n_channels = a->x.shape[0], n_pixels = a->x.shape[1] * a->x.shape[2];
    (void)s;
    for (int64_t p = 0; p < n_pixels; p++)
        for (int64_t c = 0; c < n_channels; c++) {
            float mul = a->mul.data ? nb_tensor_f32(a->mul)[c] : 1;
            float add = a->add.data ? nb_tensor_f32(a->add)[c] : 0;
            float x = nb_tensor_f32(a->x)[c * n_pixels + p];
            nb_tensor_f32(a->y)[p * a->y.stride[0] + c] = fmaf(x, mul, add);
        }
}

void nb_rows_to_chw_ref(nb_stream *s, const nb_layout_args *a)
{
    int64_t n_channels = a->y.shape[0], n_pixels = a->y.shape[1] * a->y.shape[2];
    (void)s;
    for (int64_t c = 0; c < n_channels; c++)
        for (int64_t p = 0; p < n_pixels; p++) {
            float x = nb_tensor_f32(a->x)[p * a->x.stride[0] + c];
            float r = a->residual.data ? nb_tensor_f32(a->residual)[c * n_pixels + p] : 0;
            nb_tensor_f32(a->y)[c * n_pixels + p] = a->residual.data ? x + r : x;
        }
}
