#include "kernels/a4.h"

#include <assert.h>
#include <float.h>
#include <math.h>

#include "kernels/fp4.h"
#include "kernels/ref/ref.h"

enum { ROWS = 512 }; /* that are rounded before they are multiplied */

static float largest_of(const float *x, int64_t n)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = nb_f32_bits(fabsf(x[i])); /* NaN is the largest of all */
        if (bits > largest) largest = bits;
    }
    return nb_f32_from_bits(largest);
}

static void round_block(float *out, const float *x, float t)
{
    float a = largest_of(x, NB_A4_BLOCK);
    float scale = fminf(fmaxf(a / (6.0f * t), 0x1p-9f), 448.0f);
    float step = nb_f32_from_e4m3(nb_e4m3_from_f32(scale)) * t;
    for (int i = 0; i < NB_A4_BLOCK; i++)
        out[i] = a <= FLT_MAX ? nb_f32_from_e2m1(nb_e2m1_from_f32(x[i] / step)) * step : NAN;
}

void nb_a4_round_ref(float *out, const float *x, int64_t k, float input_scale)
{
    float largest = largest_of(x, k);
    int is_nothing = input_scale == 0.0f && largest < NB_A4_SMALLEST;
    float t = input_scale > 0.0f ? input_scale : largest / 2688.0f;
    assert(k % NB_A4_BLOCK == 0);
    for (int64_t i = 0; i < k; i += NB_A4_BLOCK)
        if (is_nothing)
            for (int j = 0; j < NB_A4_BLOCK; j++) out[i + j] = 0.0f;
        else
            round_block(out + i, x + i, t);
}

/* Rows m0 ... of a linear, and their x'. */
struct job {
    nb_linear_args rows;
    nb_tensor rounded;
    nb_a4_round_fn *round;
};

static void round_row(void *arg, int64_t m, int thread)
{
    const struct job *job = arg;
    const nb_weight *w = job->rows.w;
    const float *x = nb_tensor_f32(job->rows.x) + m * job->rows.x.stride[0];
    float *out = nb_tensor_f32(job->rounded) + m * job->rounded.stride[0];
    (void)thread;
    for (int64_t k = 0; w->column_scales && k < w->k; k++) out[k] = x[k] * w->column_scales[k];
    job->round(out, w->column_scales ? out : x, w->k, w->input_scale);
}

static void finish_row(void *arg, int64_t m, int thread)
{
    const nb_linear_args *a = arg;
    float *y = nb_tensor_f32(a->y) + m * a->y.stride[0];
    const float *sums = nb_tensor_f32(a->x) + m * a->x.stride[0];
    (void)thread;
    for (int64_t n = 0; n < a->w->n; n++) y[n] = nb_linear_finish_ref(a, m, n, (double)sums[n]);
}

/* W and the branch have different x: their sums first, then the epilogue. */
static void multiply_with_branch(nb_stream *s, const struct job *job, const nb_weight *plain)
{
    nb_linear_fn *linear = nb_device_ops(s->device)->linear[NB_COMPUTE_BF16];
    const nb_linear_args *a = &job->rows;
    const nb_low_rank *low = &a->w->low_rank;
    int64_t m = a->x.shape[0], n = a->w->n;
    nb_weight down = {
        .data = low->down, .dtype = low->dtype, .n = low->rank, .k = a->w->k, .scale = 1};
    nb_weight up = {.data = low->up, .dtype = low->dtype, .n = n, .k = low->rank, .scale = 1};
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(m, low->rank));
    nb_tensor sums = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(m, n));
    if (!t.data || !sums.data) return;
    linear(s, &(nb_linear_args){.y = sums, .x = job->rounded, .w = plain});
    linear(s, &(nb_linear_args){.y = t, .x = a->x, .w = &down});
    linear(s, &(nb_linear_args){.y = sums, .x = t, .w = &up, .residual = sums});
    nb_linear_args last = *a;
    last.x = sums;
    nb_parallel(s, m, finish_row, &last);
}

static nb_tensor rows_of(nb_tensor t, int64_t m0, int64_t n)
{
    return t.data ? nb_tensor_slice(t, 0, m0, n) : t;
}

void nb_linear_a4(nb_stream *s, const nb_linear_args *a, nb_a4_round_fn *round)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    int64_t m = a->x.shape[0], step = m < ROWS ? m : ROWS;
    nb_tensor rounded = nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(step, a->w->k));
    nb_arena_mark inner = nb_arena_save(s->arena);
    nb_weight plain = *a->w;
    plain.column_scales = NULL;
    plain.low_rank.rank = 0;
    for (int64_t m0 = 0; rounded.data && m0 < m; m0 += step) {
        int64_t n = m - m0 < step ? m - m0 : step;
        struct job job = {.rows = *a, .rounded = rows_of(rounded, 0, n), .round = round};
        job.rows.x = rows_of(a->x, m0, n);
        job.rows.y = rows_of(a->y, m0, n);
        job.rows.mul = rows_of(a->mul, m0, n);
        job.rows.residual = rows_of(a->residual, m0, n);
        nb_parallel(s, n, round_row, &job);
        nb_linear_args product = job.rows;
        product.x = job.rounded;
        product.w = &plain;
        if (a->w->low_rank.rank)
            multiply_with_branch(s, &job, &plain);
        else
            nb_device_ops(s->device)->linear[NB_COMPUTE_BF16](s, &product);
        nb_arena_rewind(s->arena, inner);
    }
    nb_arena_rewind(s->arena, mark);
}

void nb_linear_a4_ref(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_a4(s, a, nb_a4_round_ref);
}
