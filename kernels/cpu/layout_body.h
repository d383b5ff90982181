/* The body of the layout changes, compiled once for each instruction set (vec_*.h): squares of
 * LANES channels x LANES pixels are turned in registers, whole lines are read and written. A
 * task takes TASK_PIXELS pixels with all their channels. */
#include <math.h>

#include "kernels/cpu/cpu_ops.h"

enum { TASK_PIXELS = 64 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void to_rows_square(const nb_layout_args *a, int64_t n_pixels, int64_t p, int64_t c)
{
    int64_t n_channels = a->x.shape[0], left = n_pixels - p;
    const float *mul = nb_tensor_f32(a->mul), *add = nb_tensor_f32(a->add);
    vec r[LANES];
    for (int64_t i = 0; i < LANES; i++) {
        r[i] = vec_zero();
        if (c + i >= n_channels) continue;
        r[i] = vec_load_n(nb_tensor_f32(a->x) + (c + i) * n_pixels + p, left);
        if (mul || add)
            r[i] = vec_fma(r[i], vec_all(mul ? mul[c + i] : 1), vec_all(add ? add[c + i] : 0));
    }
    vec_transpose(r);
    for (int64_t i = 0; i < least(LANES, left); i++)
        vec_store_n(nb_tensor_f32(a->y) + (p + i) * a->y.stride[0] + c, r[i], n_channels - c);
}

static void to_chw_square(const nb_layout_args *a, int64_t n_pixels, int64_t p, int64_t c)
{
    int64_t n_channels = a->y.shape[0], left = n_pixels - p;
    vec r[LANES];
    for (int64_t i = 0; i < LANES; i++)
        r[i] = i < left ? vec_load_n(nb_tensor_f32(a->x) + (p + i) * a->x.stride[0] + c,
                                     n_channels - c)
                        : vec_zero();
    vec_transpose(r);
    for (int64_t i = 0; i < least(LANES, n_channels - c); i++) {
        int64_t at = (c + i) * n_pixels + p;
        if (a->residual.data)
            r[i] = vec_add(r[i], vec_load_n(nb_tensor_f32(a->residual) + at, left));
        vec_store_n(nb_tensor_f32(a->y) + at, r[i], left);
    }
}

static inline __attribute__((always_inline)) void
all_squares(const nb_layout_args *a, const nb_tensor *picture, int64_t task,
            void (*square)(const nb_layout_args *, int64_t, int64_t, int64_t))
{
    int64_t n_pixels = picture->shape[1] * picture->shape[2];
    int64_t end = least(n_pixels, (task + 1) * TASK_PIXELS);
    for (int64_t p = task * TASK_PIXELS; p < end; p += LANES)
        for (int64_t c = 0; c < picture->shape[0]; c += LANES) square(a, n_pixels, p, c);
}

static void to_rows_task(void *arg, int64_t task, int thread)
{
    const nb_layout_args *a = arg;
    (void)thread;
    all_squares(a, &a->x, task, to_rows_square);
}

static void to_chw_task(void *arg, int64_t task, int thread)
{
    const nb_layout_args *a = arg;
    (void)thread;
    all_squares(a, &a->y, task, to_chw_square);
}

void VARIANT(chw_to_rows)(nb_stream *s, const nb_layout_args *a)
{
    nb_layout_args args = *a;
    nb_parallel(s, (a->y.shape[0] + TASK_PIXELS - 1) / TASK_PIXELS, to_rows_task, &args);
}

void VARIANT(rows_to_chw)(nb_stream *s, const nb_layout_args *a)
{
    nb_layout_args args = *a;
    nb_parallel(s, (a->x.shape[0] + TASK_PIXELS - 1) / TASK_PIXELS, to_chw_task, &args);
}
