/* The body of the element-wise operations, compiled once for each instruction set (vec_*.h). A
 * task takes TASK_FLOATS neighbours, or a few rows. */
#include <string.h>

#include "kernels/cpu/cpu_ops.h"

enum { TASK_FLOATS = 1 << 15 };

typedef vec map_fn(vec a, vec y, vec x0, vec x1);

/* y[i] = f(a, y[i], x0[i], x1[i]); an operation that has no x1 gives x0 again. */
static inline __attribute__((always_inline)) void map(const nb_elementwise_args *args,
                                                      int64_t task, map_fn *f)
{
    int64_t n = nb_tensor_count(args->y) - task * TASK_FLOATS;
    float *y = nb_tensor_f32(args->y) + task * TASK_FLOATS;
    const float *x0 = nb_tensor_f32(args->x0) + task * TASK_FLOATS;
    const float *x1 = args->x1.data ? nb_tensor_f32(args->x1) + task * TASK_FLOATS : x0;
    vec a = vec_all(args->a);
    if (n > TASK_FLOATS) n = TASK_FLOATS;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(y + i, f(a, vec_load(y + i), vec_load(x0 + i), vec_load(x1 + i)));
    if (i < n)
        vec_store_n(y + i,
                    f(a, vec_load_n(y + i, n - i), vec_load_n(x0 + i, n - i),
                      vec_load_n(x1 + i, n - i)),
                    n - i);
}

static void run_flat(nb_stream *s, const nb_elementwise_args *a, nb_task_fn *task)
{
    nb_elementwise_args args = *a;
    nb_parallel(s, (nb_tensor_count(a->y) + TASK_FLOATS - 1) / TASK_FLOATS, task, &args);
}

/* A flat operation: its task, and its variant. */
#define FLAT(op)                                                                               \
    static void op##_task(void *arg, int64_t task, int thread)                                 \
    {                                                                                          \
        (void)thread;                                                                          \
        map(arg, task, op##_map);                                                              \
    }                                                                                          \
                                                                                               \
    void VARIANT(op)(nb_stream * s, const nb_elementwise_args *a)                              \
    {                                                                                          \
        run_flat(s, a, op##_task);                                                             \
    }

static inline vec axpy_map(vec a, vec y, vec x0, vec x1)
{
    (void)x1;
    return vec_fma(a, x0, y);
}

static inline vec blend_map(vec a, vec y, vec x0, vec x1)
{
    (void)y;
    return vec_fma(a, vec_sub(x1, x0), x0);
}

static inline vec silu_map(vec a, vec y, vec x0, vec x1)
{
    (void)a, (void)y, (void)x1;
    return vec_div(x0, vec_add(vec_all(1), vec_exp(vec_sub(vec_zero(), x0))));
}

static inline vec add_map(vec a, vec y, vec x0, vec x1)
{
    (void)a, (void)y;
    return vec_add(x0, x1);
}

FLAT(axpy)
FLAT(blend)
FLAT(silu)
FLAT(add)

static int64_t rows_per_task(int64_t row_length)
{
    return 1 + TASK_FLOATS / (row_length + 1);
}

static void copy_task(void *arg, int64_t task, int thread)
{
    const nb_elementwise_args *a = arg;
    nb_tensor x = a->x0, y = a->y;
    int64_t bytes = (int64_t)nb_dtype_bytes(x.dtype), n = x.shape[x.rank - 1];
    int64_t all = x.rank == 2 ? x.shape[0] : 1, n_rows = rows_per_task(n);
    (void)thread;
    for (int64_t i = task * n_rows; n && i < all && i < (task + 1) * n_rows; i++)
        memmove((char *)y.data + i * y.stride[0] * bytes,
                (const char *)x.data + i * x.stride[0] * bytes, (size_t)(n * bytes));
}

void VARIANT(copy)(nb_stream *s, const nb_elementwise_args *a)
{
    nb_elementwise_args args = *a;
    int64_t n_rows = rows_per_task(a->y.shape[a->y.rank - 1]);
    int64_t all = a->y.rank == 2 ? a->y.shape[0] : 1;
    nb_parallel(s, (all + n_rows - 1) / n_rows, copy_task, &args);
}

/* A row of the table. BF16 is what the published files hold. */
static void decode_row(const nb_weight *w, int64_t row, float *y)
{
    const char *from = (const char *)w->data + row * nb_weight_row_bytes(w);
    if (w->dtype != NB_DTYPE_BF16 || w->scale_kind != NB_SCALE_NONE) {
        nb_weight_decode_ref(w, row, 0, w->k, y);
        return;
    }
    for (int64_t d = 0; d < w->k; d++) {
        uint16_t half;
        memcpy(&half, from + d * 2, sizeof half);
        y[d] = nb_f32_from_bf16(half) * w->scale;
    }
}

static void embed_task(void *arg, int64_t task, int thread)
{
    const nb_embed_args *a = arg;
    int64_t k = a->y.shape[1], n_rows = rows_per_task(k);
    (void)thread;
    for (int64_t i = task * n_rows; i < a->y.shape[0] && i < (task + 1) * n_rows; i++) {
        float *y = nb_tensor_f32(a->y) + i * a->y.stride[0];
        decode_row(a->w, a->ids[i], y);
        if (!a->add.data) continue;
        const float *add = nb_tensor_f32(a->add) + i * a->add.stride[0];
        for (int64_t d = 0; d < k; d += LANES)
            vec_store_n(y + d, vec_add(vec_load_n(y + d, k - d), vec_load_n(add + d, k - d)),
                        k - d);
    }
}

void VARIANT(embed)(nb_stream *s, const nb_embed_args *a)
{
    nb_embed_args args = *a;
    int64_t n_rows = rows_per_task(a->y.shape[1]);
    nb_parallel(s, (a->y.shape[0] + n_rows - 1) / n_rows, embed_task, &args);
}
