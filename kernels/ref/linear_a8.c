#include "kernels/a8.h"

#include "kernels/fp4.h"
#include "kernels/ref/ref.h"

/* Rows of integers: of x, or of W for each thread. */
struct rounded {
    int8_t *q;       /* [rows, k] */
    uint8_t *shifts; /* [rows, blocks] */
    float *scales;   /* [rows, groups] */
    int64_t k, blocks, groups;
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

uint8_t nb_a8_fp4_exponent(nb_scale_kind kind, uint8_t code)
{
    int e;
    if (kind == NB_SCALE_MXFP4) return code < NB_A8_LEAST_FIELD ? 0 : code;
    float scale = fabsf(nb_f32_from_e4m3(code));
    if (isnan(scale)) return NB_A8_NAN_FIELD;
    if (scale == 0) return 0;
    frexpf(6 * scale, &e); /* e - 1 is the logarithm's floor */
    return (uint8_t)(e - 1 - 6 + NB_A8_NVFP4_BIAS);
}

static int8_t round_to_8(float x)
{
    return (int8_t)lrintf(fmaxf(fminf(x, NB_A8_MOST), -NB_A8_MOST));
}

float nb_a8_round_ref(const float *x, int64_t count, int8_t *q, uint8_t *shifts)
{
    int fields[NB_A8_GROUP_BLOCKS] = {0}, largest = 0;
    for (int64_t k = 0; k < count; k++) {
        int field = nb_a8_field(nb_f32_bits(fabsf(x[k]))), *of_block = &fields[k / NB_A8_BLOCK];
        if (field > *of_block) *of_block = field;
        if (field > largest) largest = field;
    }
    for (int64_t k = 0; k < count; k++) {
        int least = largest - NB_A8_MOST_SHIFT, field = fields[k / NB_A8_BLOCK];
        if (field < least) field = least;
        shifts[k / NB_A8_BLOCK] = (uint8_t)(field - least);
        q[k] = largest == NB_A8_NAN_FIELD ? 0 : round_to_8(x[k] * nb_a8_power(133 - field));
    }
    return nb_a8_scale(largest);
}

static unsigned code_at(const nb_weight *w, int64_t row, int64_t k)
{
    int high = (k % 2 == 1) != w->high_first;
    return ((const uint8_t *)w->data)[(row * w->k + k) / 2] >> (high ? 4 : 0) & 15;
}

/* A block's scale but for that of the matrix. */
static float block_scale(nb_scale_kind kind, uint8_t code)
{
    return kind == NB_SCALE_MXFP4 ? nb_f32_from_e8m0(code) : nb_f32_from_e4m3(code);
}

float nb_a8_round_fp4_ref(const nb_weight *w, int64_t row, int64_t k0, int64_t count, int8_t *q,
                          uint8_t *shifts)
{
    nb_scale_kind kind = w->scale_kind;
    int bits = nb_weight_block_bits(w), largest = 0;
    int bias = kind == NB_SCALE_MXFP4 ? NB_A8_MXFP4_BIAS : NB_A8_NVFP4_BIAS;
    const uint8_t *scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    for (int64_t k = 0; k < count; k += 1 << bits) {
        int e = nb_a8_fp4_exponent(kind, scales[k >> bits]);
        if (e > largest) largest = e;
    }
    int least = largest - NB_A8_MOST_SHIFT,
        is_number = largest > 0 && largest < NB_A8_NAN_FIELD;
    for (int64_t k = 0; k < count; k++) {
        uint8_t code = scales[k >> bits];
        int e = nb_a8_fp4_exponent(kind, code);
        float value = e > 0 && is_number
                          ? nb_f32_from_e2m1(code_at(w, row, k0 + k)) * block_scale(kind, code)
                          : 0.0f;
        if (e < least) e = least;
        shifts[k / NB_A8_BLOCK] = (uint8_t)(e - least);
        q[k] = round_to_8(ldexpf(value, bias - e));
    }
    return nb_a8_fp4_scale(w, largest);
}

static struct rounded allocate(nb_stream *s, int64_t rows, int64_t k)
{
    struct rounded r = {.k = k,
                        .blocks = (k + NB_A8_BLOCK - 1) / NB_A8_BLOCK,
                        .groups = (k + NB_A8_GROUP - 1) / NB_A8_GROUP};
    r.q = nb_arena_alloc(s->arena, (size_t)(rows * k));
    r.shifts = nb_arena_alloc(s->arena, (size_t)(rows * r.blocks));
    r.scales = nb_arena_alloc(s->arena, (size_t)(rows * r.groups) * sizeof(float));
    if (!r.q || !r.shifts || !r.scales)
        nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    return r;
}

/* `x`, or where that is NULL row n of FP4. */
static void round_row(const struct rounded *r, int64_t row, const float *x, const nb_weight *w,
                      int64_t n)
{
    for (int64_t k = 0; k < r->k; k += NB_A8_GROUP) {
        int64_t count = min_of(NB_A8_GROUP, r->k - k);
        int8_t *q = r->q + row * r->k + k;
        uint8_t *shifts = r->shifts + row * r->blocks + k / NB_A8_BLOCK;
        r->scales[row * r->groups + k / NB_A8_GROUP] =
            x ? nb_a8_round_ref(x + k, count, q, shifts)
              : nb_a8_round_fp4_ref(w, n, k, count, q, shifts);
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
        round_row(&p->rounded_x, m, p->w.column_scales ? row : x, NULL, 0);
    }
}

static void round_w(const struct job *job, const struct part *p, int64_t n, int thread)
{
    float *row = job->rows + thread * job->longest;
    int is_fp4 = p->w.dtype == NB_DTYPE_F4_E2M1X2;
    if (!is_fp4) nb_weight_decode_ref(&p->w, n, 0, p->w.k, row);
    round_row(&p->rounded_w, thread, is_fp4 ? NULL : row, &p->w, n);
}

/* The integer of a group: columns k0 ... of row m of x times W's. */
static int multiply_group(const struct part *p, int64_t m, int thread, int64_t k0)
{
    const struct rounded *x = &p->rounded_x, *w = &p->rounded_w;
    const int8_t *xq = x->q + m * x->k, *wq = w->q + thread * w->k;
    int t = 0;
    for (int64_t k = k0; k < min_of(k0 + NB_A8_GROUP, w->k); k++) {
        int64_t block = k / NB_A8_BLOCK;
        int shift = x->shifts[m * x->blocks + block] + w->shifts[thread * w->blocks + block];
        t += xq[k] * wq[k] * (1 << shift);
    }
    return t;
}

/* c with a part's products added. */
static float multiply(const struct part *p, int64_t m, int thread, float c)
{
    const struct rounded *x = &p->rounded_x, *w = &p->rounded_w;
    for (int64_t group = 0; group < w->groups; group++) {
        float t = (float)multiply_group(p, m, thread, group * NB_A8_GROUP);
        c = fmaf(t * x->scales[m * x->groups + group], w->scales[thread * w->groups + group],
                 c);
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
        p->rounded_x = allocate(s, m, p->w.k);
        p->rounded_w = allocate(s, s->threads, p->w.k);
    }
    job.rows = nb_arena_alloc(s->arena, (size_t)(s->threads * job.longest) * sizeof(float));
    if (!job.rows) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    nb_parallel(s, m, round_x, &job);
    nb_parallel(s, a->w->n, one_output, &job);
    nb_arena_rewind(s->arena, mark);
}
