#include <math.h>

#include "kernels/ref/ref.h"

/* One query row of one head: scores of all keys, softmax, weighted sum of the values. */
struct row {
    const nb_attn_args *a;
    int64_t h, g, i; /* head, head of k and v, query */
    float (*round)(float);
    double *p;   /* [Sk] */
    double *sum; /* [D] */
};

static const float *row_of(nb_tensor t, int64_t i, int64_t h)
{
    return nb_tensor_f32(t) + i * t.stride[0] + h * t.stride[1];
}

static double score(const struct row *r, int64_t j)
{
    const nb_attn_args *a = r->a;
    const float *q = row_of(a->q, r->i, r->h), *k = row_of(a->k, j, r->g);
    double dot = 0;
    for (int64_t d = 0; d < a->q.shape[2]; d++) dot += (double)r->round(q[d]) * r->round(k[d]);
    dot *= a->scale;
    if (a->rel_bias.data)
        dot += nb_tensor_f32(
            a->rel_bias)[r->h * a->rel_bias.stride[0] + j - r->i + a->q.shape[0] - 1];
    return dot;
}

static void attend(const struct row *r)
{
    const nb_attn_args *a = r->a;
    int64_t dims = a->q.shape[2], n_keys = a->k.shape[0];
    if (a->causal && n_keys > r->i + a->k.shape[0] - a->q.shape[0] + 1)
        n_keys = r->i + a->k.shape[0] - a->q.shape[0] + 1;
    double max = -INFINITY, total = 0;
    for (int64_t j = 0; j < n_keys; j++) {
        r->p[j] = score(r, j);
        if (!(r->p[j] <= max)) max = r->p[j];
    }
    for (int64_t d = 0; d < dims; d++) r->sum[d] = 0;
    for (int64_t j = 0; j < n_keys; j++) {
        const float *v = row_of(a->v, j, r->g);
        double p = exp(r->p[j] - max);
        total += p;
        p = r->round((float)p);
        for (int64_t d = 0; d < dims; d++) r->sum[d] += p * r->round(v[d]);
    }
    float *out = nb_tensor_f32(a->out) + r->i * a->out.stride[0] + r->h * a->out.stride[1];
    for (int64_t d = 0; d < dims; d++) out[d] = n_keys > 0 ? (float)(r->sum[d] / total) : 0;
}

static void run(nb_stream *s, const nb_attn_args *a, float (*round)(float))
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_tensor p = nb_stream_tensor(s, NB_DTYPE_F64, 1, NB_SHAPE(a->k.shape[0]));
    nb_tensor sum = nb_stream_tensor(s, NB_DTYPE_F64, 1, NB_SHAPE(a->q.shape[2]));
    int64_t group = a->q.shape[1] / a->k.shape[1];
    for (int64_t h = 0; p.data && sum.data && h < a->q.shape[1]; h++)
        for (int64_t i = 0; i < a->q.shape[0]; i++)
            attend(&(struct row){a, h, h / group, i, round, p.data, sum.data});
    nb_arena_rewind(s->arena, mark);
}

static float keep(float x)
{
    return x;
}

void nb_attn_f32_ref(nb_stream *s, const nb_attn_args *a)
{
    run(s, a, keep);
}

void nb_attn_bf16_ref(nb_stream *s, const nb_attn_args *a)
{
    run(s, a, nb_round_bf16);
}
