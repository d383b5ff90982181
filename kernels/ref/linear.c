#include "kernels/ref/ref.h"

#include <math.h>

struct job {
    const nb_linear_args *a;
    const float *t; /* [M, rank]: x downᵀ */
    float *rows;    /* [threads, K + rank]: a decoded row of W and one of up for each thread */
    int to_bf16;
};

double nb_act_ref(nb_act act, double t)
{
    switch (act) {
    case NB_ACT_GELU_TANH:
        return 0.5 * t * (1.0 + tanh(0.79788456080286535588 * (t + 0.044715 * t * t * t)));
    case NB_ACT_GELU:
        return 0.5 * t * erfc(-t * 0.70710678118654752440);
    case NB_ACT_QUICK_GELU:
        return t / (1.0 + exp(-1.702 * t));
    case NB_ACT_SILU:
        return t / (1.0 + exp(-t));
    case NB_ACT_RELU:
        return t > 0.0 ? t : 0.0;
    default:
        return t;
    }
}

static float at(nb_tensor t, int64_t m, int64_t n)
{
    return nb_tensor_f32(t)[m * t.stride[0] + n];
}

float nb_linear_finish_ref(const nb_linear_args *a, int64_t m, int64_t n, double t)
{
    if (a->bias.data) t += nb_tensor_f32(a->bias)[n];
    t = nb_act_ref(a->act, t);
    if (a->mul.data) t *= at(a->mul, m, n);
    if (a->gate.data) t *= nb_tensor_f32(a->gate)[n];
    if (a->residual.data) t += at(a->residual, m, n);
    return (float)t;
}

/* What multiplies row[i] of the weight: scaled x, then t. */
static float factor(const struct job *job, int64_t m, int64_t i)
{
    const nb_weight *w = job->a->w;
    if (i >= w->k) return job->t[m * w->low_rank.rank + i - w->k];
    float x = at(job->a->x, m, i);
    return w->column_scales ? x * w->column_scales[i] : x;
}

static void one_output(void *arg, int64_t n, int thread)
{
    const struct job *job = arg;
    const nb_linear_args *a = job->a;
    const nb_low_rank *low = &a->w->low_rank;
    int64_t k = a->w->k, count = k + low->rank;
    float *row = job->rows + thread * count;
    nb_weight_decode_ref(a->w, n, 0, k, row);
    for (int64_t i = 0; i < low->rank; i++)
        row[k + i] = nb_load_f32(low->dtype, low->up, n * low->rank + i);
    for (int64_t i = 0; job->to_bf16 && i < count; i++) row[i] = nb_round_bf16(row[i]);
    for (int64_t m = 0; m < a->x.shape[0]; m++) {
        double sum = 0.0;
        for (int64_t i = 0; i < count; i++) {
            float x = factor(job, m, i);
            sum += (double)(job->to_bf16 ? nb_round_bf16(x) : x) * row[i];
        }
        nb_tensor_f32(a->y)[m * a->y.stride[0] + n] = nb_linear_finish_ref(a, m, n, sum);
    }
}

static void run(nb_stream *s, const nb_linear_args *a, int to_bf16)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    const nb_low_rank *low = &a->w->low_rank;
    struct job job = {.a = a, .to_bf16 = to_bf16};
    if (low->rank) {
        nb_weight down = {
            .data = low->down, .dtype = low->dtype, .n = low->rank, .k = a->w->k, .scale = 1};
        nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(a->x.shape[0], low->rank));
        if (t.data) run(s, &(nb_linear_args){.y = t, .x = a->x, .w = &down}, to_bf16);
        job.t = t.data;
    }
    int64_t count = s->threads * (a->w->k + low->rank);
    job.rows = nb_arena_alloc(s->arena, (size_t)count * sizeof(float));
    if (job.rows)
        nb_parallel(s, a->w->n, one_output, &job);
    else
        nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    nb_arena_rewind(s->arena, mark);
}

void nb_linear_f32_ref(nb_stream *s, const nb_linear_args *a)
{
    run(s, a, 0);
}

void nb_linear_bf16_ref(nb_stream *s, const nb_linear_args *a)
{
    run(s, a, 1);
}
