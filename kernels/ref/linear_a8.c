#include "kernels/a8.h"

#include "kernels/fp4.h"
#include "kernels/ref/ref.h"

/* Rows of integers with the scales of their groups: of x, or of W for each thread. */
struct rounded {
    int8_t *q;     /* [rows, k] */
    float *scales; /* [rows, groups] */
    int64_t k, groups;
};

/* W and what it multiplies, or `up` and x downᵀ. */
struct part {
    nb_weight w;
    nb_tensor x;
    struct rounded rounded_x, rounded_w;
};

struct job {
    const nb_linear_args *a;
    struct part parts[2];
    int n_parts;
    float *rows; /* [threads, longest]: a row before it is rounded */
    int64_t longest;
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct rounded allocate(nb_stream *s, int64_t rows, int64_t k, int64_t group)
{
    struct rounded r = {.k = k, .groups = (k + group - 1) / group};
    r.q = nb_arena_alloc(s->arena, (size_t)(rows * k));
    r.scales = nb_arena_alloc(s->arena, (size_t)(rows * r.groups) * sizeof(float));
    if (!r.q || !r.scales) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    return r;
}

static void round_row(const struct rounded *r, int64_t row, const float *x, int64_t group)
{
    for (int64_t k0 = 0; k0 < r->k; k0 += group) {
        int64_t end = min_of(k0 + group, r->k);
        uint32_t largest = 0;
        for (int64_t k = k0; k < end; k++) {
            uint32_t bits = nb_f32_bits(fabsf(x[k])); /* NaN is the largest of all */
            if (bits > largest) largest = bits;
        }
        nb_a8_scale scale = nb_a8_scale_of(nb_f32_from_bits(largest));
        for (int64_t k = k0; k < end; k++)
            r->q[row * r->k + k] = scale.up > 0 ? (int8_t)lrintf(x[k] * scale.up) : 0;
        r->scales[row * r->groups + k0 / group] = scale.down;
    }
}

static unsigned code_at(const nb_weight *w, int64_t row, int64_t k)
{
    int high = (k % 2 == 1) != w->high_first;
    return ((const uint8_t *)w->data)[(row * w->k + k) / 2] >> (high ? 4 : 0) & 15;
}

static void round_fp4(const struct rounded *r, int64_t to, const nb_weight *w, int64_t row)
{
    int bits = nb_weight_block_bits(w);
    const uint8_t *scales = (const uint8_t *)w->scales + (row * w->k >> bits);
    for (int64_t k0 = 0; k0 < w->k; k0 += NB_A8_WEIGHT_GROUP) {
        int64_t end = min_of(k0 + NB_A8_WEIGHT_GROUP, w->k);
        uint8_t largest = 0;
        for (int64_t k = k0; k < end; k += 1 << bits) {
            uint8_t magnitude = nb_a8_scale_magnitude(w->scale_kind, scales[k >> bits]);
            if (magnitude > largest) largest = magnitude;
        }
        for (int64_t k = k0; k < end; k++) {
            int m = nb_a8_multiplier(w->scale_kind, scales[k >> bits], largest);
            int value = (int)(32 * nb_f32_from_e2m1(code_at(w, row, k)));
            r->q[to * r->k + k] = (int8_t)((value * m + (1 << 14)) >> 15);
        }
        r->scales[to * r->groups + k0 / NB_A8_WEIGHT_GROUP] = nb_a8_fp4_scale(w, largest);
    }
}

static void round_x(void *arg, int64_t m, int thread)
{
    const struct job *job = arg;
    for (int i = 0; i < job->n_parts; i++) {
        const struct part *p = &job->parts[i];
        const float *x = nb_tensor_f32(p->x) + m * p->x.stride[0];
        float *row = job->rows + thread * job->longest;
        for (int64_t k = 0; p->w.column_scales && k < p->w.k; k++)
            row[k] = x[k] * p->w.column_scales[k];
        round_row(&p->rounded_x, m, p->w.column_scales ? row : x, NB_A8_GROUP);
    }
}

static void round_w(const struct job *job, const struct part *p, int64_t n, int thread)
{
    float *row = job->rows + thread * job->longest;
    if (p->w.dtype == NB_DTYPE_F4_E2M1X2) {
        round_fp4(&p->rounded_w, thread, &p->w, n);
        return;
    }
    nb_weight_decode_ref(&p->w, n, 0, p->w.k, row);
    round_row(&p->rounded_w, thread, row, NB_A8_WEIGHT_GROUP);
}

/* c with a part's products added. */
static float multiply(const struct part *p, int64_t m, int thread, float c)
{
    const struct rounded *x = &p->rounded_x, *w = &p->rounded_w;
    const int8_t *xq = x->q + m * x->k, *wq = w->q + thread * w->k;
    for (int64_t k0 = 0; k0 < w->k; k0 += NB_A8_WEIGHT_GROUP) {
        float t = 0.0f;
        for (int64_t k1 = k0; k1 < min_of(k0 + NB_A8_WEIGHT_GROUP, w->k); k1 += NB_A8_GROUP) {
            int sum = 0;
            for (int64_t k = k1; k < min_of(k1 + NB_A8_GROUP, w->k); k++) sum += xq[k] * wq[k];
            t = fmaf((float)sum, x->scales[m * x->groups + k1 / NB_A8_GROUP], t);
        }
        c = fmaf(t, w->scales[thread * w->groups + k0 / NB_A8_WEIGHT_GROUP], c);
    }
    return c;
}

static void one_output(void *arg, int64_t n, int thread)
{
    const struct job *job = arg;
    for (int i = 0; i < job->n_parts; i++) round_w(job, &job->parts[i], n, thread);
    for (int64_t m = 0; m < job->a->x.shape[0]; m++) {
        float c = 0.0f;
        for (int i = 0; i < job->n_parts; i++) c = multiply(&job->parts[i], m, thread, c);
        nb_tensor_f32(job->a->y)[m * job->a->y.stride[0] + n] =
            nb_linear_finish_ref(job->a, m, n, (double)c);
    }
}

/* x downᵀ and `up` as the second part. */
static void add_branch(nb_stream *s, struct job *job)
{
    const nb_weight *w = job->a->w;
    const nb_low_rank *low = &w->low_rank;
    nb_weight down = {
        .data = low->down, .dtype = low->dtype, .n = low->rank, .k = w->k, .scale = 1};
    nb_weight up = {
        .data = low->up, .dtype = low->dtype, .n = w->n, .k = low->rank, .scale = 1};
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(job->a->x.shape[0], low->rank));
    if (t.data) nb_linear_bf16_ref(s, &(nb_linear_args){.y = t, .x = job->a->x, .w = &down});
    job->parts[job->n_parts++] = (struct part){.w = up, .x = t};
}

void nb_linear_a8_ref(nb_stream *s, const nb_linear_args *a)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    int64_t m = a->x.shape[0];
    struct job job = {.a = a, .parts = {{.w = *a->w, .x = a->x}}, .n_parts = 1};
    if (a->w->low_rank.rank) add_branch(s, &job);
    for (int i = 0; i < job.n_parts; i++) {
        struct part *p = &job.parts[i];
        if (p->w.k > job.longest) job.longest = p->w.k;
        p->rounded_x = allocate(s, m, p->w.k, NB_A8_GROUP);
        p->rounded_w = allocate(s, s->threads, p->w.k, NB_A8_WEIGHT_GROUP);
    }
    job.rows = nb_arena_alloc(s->arena, (size_t)(s->threads * job.longest) * sizeof(float));
    if (!job.rows) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    nb_parallel(s, m, round_x, &job);
    nb_parallel(s, a->w->n, one_output, &job);
    nb_arena_rewind(s->arena, mark);
}
