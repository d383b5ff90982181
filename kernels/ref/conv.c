#include "kernels/ref/ref.h"

struct job {
    const nb_conv2d_args *a;
    float *filters; /* [threads, K]: a decoded filter for each thread */
    int to_bf16;
};

/* u[c][i][j] of kernels/conv.h: 0 outside. */
static double input_at(const struct job *job, int64_t c, int64_t i, int64_t j)
{
    const nb_conv2d_args *a = job->a;
    int up = a->upsample ? 2 : 1;
    int64_t h = a->x.shape[1], w = a->x.shape[2];
    if (i < 0 || j < 0 || i >= h * up || j >= w * up) return 0.0;
    double u = nb_tensor_f32(a->x)[(c * h + i / up) * w + j / up];
    if (a->mul.data) u = u * nb_tensor_f32(a->mul)[c] + nb_tensor_f32(a->add)[c];
    if (a->silu) u = nb_act_ref(NB_ACT_SILU, u);
    return job->to_bf16 ? nb_round_bf16((float)u) : u;
}

static double one_pixel(const struct job *job, const float *filter, int64_t i, int64_t j)
{
    const nb_conv2d_args *a = job->a;
    double sum = 0.0;
    for (int64_t c = 0; c < a->x.shape[0]; c++)
        for (int dy = 0; dy < a->kernel; dy++)
            for (int dx = 0; dx < a->kernel; dx++)
                sum += *filter++ * input_at(job, c, i * a->stride - a->pad + dy,
                                            j * a->stride - a->pad + dx);
    return sum;
}

static void one_channel(void *arg, int64_t o, int thread)
{
    const struct job *job = arg;
    const nb_conv2d_args *a = job->a;
    int64_t k = a->w->k, width = a->y.shape[2], plane = a->y.shape[1] * width;
    float *filter = job->filters + thread * k;
    nb_weight_decode_ref(a->w, o, 0, k, filter);
    for (int64_t i = 0; job->to_bf16 && i < k; i++) filter[i] = nb_round_bf16(filter[i]);
    for (int64_t p = 0; p < plane; p++) {
        double y = one_pixel(job, filter, p / width, p % width);
        if (a->bias.data) y += nb_tensor_f32(a->bias)[o];
        if (a->residual.data) y += nb_tensor_f32(a->residual)[o * plane + p];
        nb_tensor_f32(a->y)[o * plane + p] = (float)y;
    }
}

static void run(nb_stream *s, const nb_conv2d_args *a, int to_bf16)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    size_t bytes = (size_t)s->threads * (size_t)a->w->k * sizeof(float);
    struct job job = {.a = a, .filters = nb_arena_alloc(s->arena, bytes), .to_bf16 = to_bf16};
    if (job.filters)
        nb_parallel(s, a->w->n, one_channel, &job);
    else
        nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    nb_arena_rewind(s->arena, mark);
}

void nb_conv2d_f32_ref(nb_stream *s, const nb_conv2d_args *a)
{
    run(s, a, 0);
}

void nb_conv2d_bf16_ref(nb_stream *s, const nb_conv2d_args *a)
{
    run(s, a, 1);
}
