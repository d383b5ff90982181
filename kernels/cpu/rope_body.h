/* The body of nb_rope, compiled once for each instruction set (vec_*.h). A task takes a few
 * rows with all their heads; a head is read twice (sum of squares, rotation), the second time
 * from L1. */
#include <math.h>

#include "kernels/cpu/cpu_ops.h"

enum { TASK_FLOATS = 1 << 14 };

static float head_norm(const float *x, int64_t n, float eps)
{
    vec sum[2] = {vec_zero(), vec_zero()};
    for (int64_t i = 0; i < n; i += LANES) {
        vec u = vec_load_n(x + i, n - i);
        sum[i / LANES & 1] = vec_fma(u, u, sum[i / LANES & 1]);
    }
    return 1 / sqrtf(vec_sum(vec_add(sum[0], sum[1])) / (float)n + eps);
}

static void rotate_head(const nb_rope_args *a, float *x, const float *cos, const float *sin)
{
    int64_t n = a->x.shape[2];
    const float *weight = nb_tensor_f32(a->weight);
    vec norm = vec_all(weight ? head_norm(x, n, a->eps) : 1);
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t left = n - i;
        vec u = vec_load_n(x + i, left);
        if (weight) u = vec_mul(vec_mul(u, norm), vec_load_n(weight + i, left));
        if (cos) {
            vec other = vec_mul(vec_swap_pairs(u), vec_load_twice(sin + i / 2, left / 2));
            u = vec_fmaddsub(u, vec_load_twice(cos + i / 2, left / 2), other);
        }
        vec_store_n(x + i, u, left);
    }
}

static int64_t rows_per_task(const nb_rope_args *a)
{
    return 1 + TASK_FLOATS / (a->x.shape[1] * a->x.shape[2] + 1);
}

static void rope_task(void *arg, int64_t task, int thread)
{
    const nb_rope_args *a = arg;
    const float *cos = nb_tensor_f32(a->cos), *sin = nb_tensor_f32(a->sin);
    int64_t n_rows = rows_per_task(a), first = task * n_rows, end = first + n_rows;
    if (end > a->x.shape[0]) end = a->x.shape[0];
    for (int64_t row = first; row < end; row++)
        for (int64_t h = 0; h < a->x.shape[1]; h++)
            rotate_head(a, nb_tensor_f32(a->x) + row * a->x.stride[0] + h * a->x.stride[1],
                        cos ? cos + row * a->cos.stride[0] : NULL,
                        sin ? sin + row * a->sin.stride[0] : NULL);
    (void)thread;
}

void VARIANT(rope)(nb_stream *s, const nb_rope_args *a)
{
    nb_rope_args args = *a;
    int64_t n_rows = rows_per_task(a);
    nb_parallel(s, (a->x.shape[0] + n_rows - 1) / n_rows, rope_task, &args);
}
