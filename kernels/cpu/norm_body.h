/*
 * The body of the normalisations, compiled once for each instruction set (vec_*.h). Sums are
 * double; a row is read from memory once and from the cache after that. Group norm takes its
 * statistics in chunks that stay in the cache, each by its own mean, and merges them in order
 * (Chan, Golub and LeVeque 1983), so that neither size nor threads cost accuracy.
 */
#include <math.h>

#include "kernels/cpu/cpu_ops.h"

enum { TASK_FLOATS = 1 << 14, CHUNK_FLOATS = 1 << 15 };

/* A mean in two floats: their sum has the digits that a large mean of nearby values needs. */
struct centre {
    vec high, low;
};

static inline struct centre make_centre(double mean)
{
    float high = (float)mean;
    return (struct centre){vec_all(high), vec_all((float)(mean - (double)high))};
}

static inline vec centred(vec x, struct centre c)
{
    return vec_sub(vec_sub(x, c.high), c.low);
}

static double sum_of(const float *x, int64_t n)
{
    wide sum = wide_zero();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sum = wide_add(sum, vec_load(x + i));
    if (i < n) sum = wide_add(sum, vec_load_n(x + i, n - i));
    return wide_sum(sum);
}

/* Sum of (x - mean)^2. */
static double squares_of(const float *x, int64_t n, double mean)
{
    struct centre c = make_centre(mean);
    wide sum = wide_zero();
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        vec u = centred(vec_load(x + i), c);
        sum = wide_add(sum, vec_mul(u, u));
    }
    double total = wide_sum(sum);
    for (int64_t i = whole; i < n; i++) total += (x[i] - mean) * (x[i] - mean);
    return total;
}

/* Rows of a norm that a task takes: a few thousand floats. */
static int64_t rows_per_task(const nb_norm_args *a)
{
    return 1 + TASK_FLOATS / (a->x.shape[1] + 1);
}

static void layer_norm_row(const nb_norm_args *a, const float *x, float *y)
{
    int64_t n = a->x.shape[1];
    const float *weight = nb_tensor_f32(a->weight), *bias = nb_tensor_f32(a->bias);
    const float *scale = nb_tensor_f32(a->scale), *shift = nb_tensor_f32(a->shift);
    double mean = sum_of(x, n) / (double)n;
    struct centre c = make_centre(mean);
    vec norm = vec_all((float)(1 / sqrt(squares_of(x, n, mean) / (double)n + a->eps)));
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t left = n - i;
        vec t = vec_mul(centred(vec_load_n(x + i, left), c), norm);
        if (weight) t = vec_mul(t, vec_load_n(weight + i, left));
        if (bias) t = vec_add(t, vec_load_n(bias + i, left));
        if (scale) t = vec_mul(t, vec_add(vec_all(1), vec_load_n(scale + i, left)));
        if (shift) t = vec_add(t, vec_load_n(shift + i, left));
        vec_store_n(y + i, t, left);
    }
}

static void rms_norm_row(const nb_norm_args *a, const float *x, float *y)
{
    int64_t n = a->x.shape[1];
    const float *weight = nb_tensor_f32(a->weight);
    vec norm = vec_all((float)(1 / sqrt(squares_of(x, n, 0) / (double)n + a->eps)));
    for (int64_t i = 0; i < n; i += LANES) {
        vec t = vec_mul(vec_load_n(x + i, n - i), norm);
        if (weight) t = vec_mul(t, vec_load_n(weight + i, n - i));
        vec_store_n(y + i, t, n - i);
    }
}

static void norm_rows(const nb_norm_args *a, int64_t task,
                      void (*row)(const nb_norm_args *, const float *, float *))
{
    int64_t n_rows = rows_per_task(a), first = task * n_rows, end = first + n_rows;
    if (end > a->x.shape[0]) end = a->x.shape[0];
    for (int64_t m = first; m < end; m++)
        row(a, nb_tensor_f32(a->x) + m * a->x.stride[0],
            nb_tensor_f32(a->y) + m * a->y.stride[0]);
}

static void layer_norm_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    norm_rows(arg, task, layer_norm_row);
}

static void rms_norm_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    norm_rows(arg, task, rms_norm_row);
}

void VARIANT(layer_norm)(nb_stream *s, const nb_norm_args *a)
{
    nb_norm_args args = *a;
    int64_t n_rows = rows_per_task(a);
    nb_parallel(s, (a->x.shape[0] + n_rows - 1) / n_rows, layer_norm_task, &args);
}

void VARIANT(rms_norm)(nb_stream *s, const nb_norm_args *a)
{
    nb_norm_args args = *a;
    int64_t n_rows = rows_per_task(a);
    nb_parallel(s, (a->x.shape[0] + n_rows - 1) / n_rows, rms_norm_task, &args);
}

struct moments {
    double n, mean, squares;
};

struct group_job {
    const nb_group_norm_args *a;
    int64_t group_floats, n_chunks; /* of a group */
    struct moments *moments;        /* [groups][n_chunks] */
};

static void moments_task(void *arg, int64_t task, int thread)
{
    const struct group_job *j = arg;
    int64_t group = task / j->n_chunks, first = task % j->n_chunks * CHUNK_FLOATS;
    int64_t n = j->group_floats - first < CHUNK_FLOATS ? j->group_floats - first : CHUNK_FLOATS;
    const float *x = nb_tensor_f32(j->a->x) + group * j->group_floats + first;
    struct moments m = {.n = (double)n, .mean = sum_of(x, n) / (double)n};
    m.squares = squares_of(x, n, m.mean);
    j->moments[task] = m;
    (void)thread;
}

static struct moments merge(struct moments a, struct moments b)
{
    double n = a.n + b.n, step = b.mean - a.mean;
    return (struct moments){n, a.mean + step * b.n / n,
                            a.squares + b.squares + step * step * a.n * b.n / n};
}

static void write_group(const struct group_job *j, int64_t group)
{
    const nb_group_norm_args *a = j->a;
    const float *weight = nb_tensor_f32(a->weight), *bias = nb_tensor_f32(a->bias);
    int64_t n_channels = a->x.shape[0] / a->groups;
    struct moments m = j->moments[group * j->n_chunks];
    for (int64_t i = 1; i < j->n_chunks; i++) m = merge(m, j->moments[group * j->n_chunks + i]);
    for (int64_t c = group * n_channels; c < (group + 1) * n_channels; c++) {
        double mul = (weight ? (double)weight[c] : 1) / sqrt(m.squares / m.n + a->eps);
        nb_tensor_f32(a->mul)[c] = (float)mul;
        nb_tensor_f32(a->add)[c] = (float)((bias ? (double)bias[c] : 0) - m.mean * mul);
    }
}

void VARIANT(group_norm)(nb_stream *s, const nb_group_norm_args *a)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    int64_t n = nb_tensor_count(a->x) / a->groups,
            n_chunks = (n + CHUNK_FLOATS - 1) / CHUNK_FLOATS;
    nb_tensor moments = nb_stream_tensor(s, NB_DTYPE_F64, 2, NB_SHAPE(a->groups * n_chunks, 3));
    struct group_job j = {a, n, n_chunks, moments.data};
    nb_parallel(s, a->groups * n_chunks, moments_task, &j);
    for (int64_t group = 0; s->status == NB_OK && group < a->groups; group++)
        write_group(&j, group);
    nb_arena_rewind(s->arena, mark);
}
