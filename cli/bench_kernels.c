/*
 * nibble bench gemm, gemv, attn, conv: operations alone at FLUX.1's shapes, beside the roofs.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "kernels/attn.h"
#include "kernels/conv.h"
#include "kernels/ops.h"
#include "models/synthetic.h"

enum { DEFAULT_RUNS = 7, GEMV_RUNS = 21 };
static const double LEAST_SECONDS = 0.005; /* of a run of what is read from a cache */

/* A measurement of one operation under way. */
struct kernel_run {
    const struct bench_options *options;
    nb_stream *s;
    nb_bench_roofs roofs;
    nb_bench_report report;
    nb_bench_kernel kernel;
};

/* An operation with its arguments; `flops` and `bytes` are of one call. */
struct operation {
    void (*call)(nb_stream *s, const void *args);
    const void *args;
    double flops, bytes; /* 0: not told */
    nb_compute compute;  /* what its products are computed in */
    const nb_weight *w;  /* whose reading is the roof; NULL: it is not */
};

static void call_linear(nb_stream *s, const void *args)
{
    nb_linear(s, args);
}

static void call_attn(nb_stream *s, const void *args)
{
    nb_attn(s, args);
}

static void call_conv(nb_stream *s, const void *args)
{
    nb_conv2d(s, args);
}

/* Of everything but linears of quantised weights. */
static nb_compute plain_compute(const nb_stream *s)
{
    return s->compute < NB_COMPUTE_BF16 ? s->compute : NB_COMPUTE_BF16;
}

/* F32 in [-1, 1), in the stream's arena. */
static nb_tensor random_tensor(nb_stream *s, int rank, const int64_t *shape)
{
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, rank, shape);
    float *data = nb_tensor_f32(t);
    uint32_t state = 1;
    for (int64_t i = 0; data && i < nb_tensor_count(t); i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
    return t;
}

static double time_calls(struct kernel_run *run, const struct operation *op, int64_t calls,
                         nb_bench_times *times)
{
    nb_bench_time begin = nb_bench_now();
    for (int64_t i = 0; i < calls; i++) op->call(run->s, op->args);
    nb_bench_time all = nb_bench_since(begin);
    if (times)
        nb_bench_add(times, (nb_bench_time){all.wall / (double)calls, all.cpu / (double)calls});
    return all.wall / (double)calls;
}

/* How often a cache is to be read in one run. */
static int64_t calls_of(struct kernel_run *run, const struct operation *op)
{
    double seconds = time_calls(run, op, 1, NULL);
    if (!op->w || seconds >= LEAST_SECONDS) return 1;
    return (int64_t)(LEAST_SECONDS / seconds) + 1;
}

/* Reads the same bytes as often, in the same memory: seconds a byte. */
static void time_reading(struct kernel_run *run, const struct operation *op, int64_t calls,
                         nb_bench_times *times)
{
    double sum = 0;
    int64_t bytes = op->w->n * nb_weight_row_bytes(op->w);
    for (int64_t i = 0; i < calls; i++) {
        double rate = nb_bench_read(run->s, op->w->data, bytes);
        if (rate > 0) sum += 1 / rate;
    }
    nb_bench_add(times, (nb_bench_time){.wall = sum / (double)calls});
}

/* Once to warm up, then as often as was asked for; what is read is read by itself in turn,
 * since others may use the memory meanwhile. */
static nb_status time_operation(struct kernel_run *run, const struct operation *op,
                                nb_bench_stats *out, nb_bench_stats *reading)
{
    int64_t runs = run->options->runs, usual = op->w ? GEMV_RUNS : DEFAULT_RUNS;
    nb_bench_times times, reads;
    times.n = reads.n = 0;
    NB_TRY(nb_stream_sync(run->s)); /* the arguments could be made */
    int64_t calls = calls_of(run, op);
    for (int64_t i = 0; i < (runs ? runs : usual); i++) {
        if (op->w) time_reading(run, op, calls, &reads);
        time_calls(run, op, calls, &times);
        NB_TRY(nb_stream_sync(run->s));
    }
    *out = nb_bench_stats_of(&times);
    if (op->w) *reading = nb_bench_stats_of(&reads);
    return NB_OK;
}

/* Measures, and puts what was found into the row, which is consumed. */
static nb_status add_row(struct kernel_run *run, const struct operation *op, json_t *row)
{
    nb_bench_stats stats, reading = {0};
    nb_roof roof = nb_roof_of_compute(op->compute, nb_device_caps(run->s->device));
    double peak = run->roofs.all[roof];
    nb_status status = time_operation(run, op, &stats, &reading);
    if (status || json_array_append_new(run->report.rows, row) != 0) {
        if (status) json_decref(row);
        return status ? status : nb_fail(NB_E_SYSTEM, "out of memory for the results");
    }
    nb_bench_set_stats(row, &stats);
    json_object_set_new(row, "roof", json_string(nb_roof_name(roof)));
    json_object_set_new(row, "ms", json_real(1e3 * stats.median));
    json_object_set_new(row, "ms_spread", json_real(1e3 * stats.spread));
    json_object_set_new(row, "cpu_ms", json_real(1e3 * stats.cpu));
    double rate = op->flops / stats.median, flow = op->bytes / stats.median;
    if (op->flops > 0) json_object_set_new(row, "gflops", json_real(1e-9 * rate));
    if (op->flops > 0 && peak > 0)
        json_object_set_new(row, "peak_percent", json_real(100 * rate / peak));
    if (op->bytes > 0) json_object_set_new(row, "gbytes", json_real(1e-9 * flow));
    if (op->bytes > 0 && reading.median > 0) {
        json_object_set_new(row, "read_gbytes", json_real(1e-9 / reading.median));
        json_object_set_new(row, "read_percent", json_real(100 * flow * reading.median));
    }
    nb_console_say(run->options->common.console, NB_LOG_DEBUG, "%.3f ms", 1e3 * stats.median);
    return NB_OK;
}

/* ---- matrix products ---- */

static const struct gemm_shape {
    int64_t rows, n, k;
} gemm_shapes[] = {
    {1280, 3072, 3072},  {1280, 9216, 3072},  {1280, 12288, 3072}, {1280, 3072, 12288},
    {1280, 21504, 3072}, {1280, 3072, 15360}, {512, 9216, 3072},   {512, 3072, 15360},
    {256, 4096, 4096},   {256, 10240, 4096},  {256, 4096, 10240},
};

/* So much of W, from memory (many times what caches hold) and from a cache. */
static const struct gemv_case {
    const char *from;
    int64_t rows, k, bytes;
} gemv_cases[] = {
    {"memory", 1, 7168, 384 << 20},
    {"memory", 8, 7168, 384 << 20},
    {"cache", 1, 3072, 4 << 20},
    {"cache", 8, 3072, 4 << 20},
};

/* Types that nibble reads but does not write. */
static const nb_dtype read_types[] = {NB_DTYPE_F16, NB_DTYPE_Q8_0, NB_DTYPE_Q6_K, NB_DTYPE_Q4_K,
                                      NB_DTYPE_Q4_0};

/* Small positive numbers wherever a block may have its F16. */
static nb_status read_type_matrix(nb_stream *s, nb_dtype dtype, int64_t n, int64_t k,
                                  nb_weight *out)
{
    nb_weight w = {.dtype = dtype, .n = n, .k = k, .scale = 1, .device = s->device};
    int64_t bytes = n * nb_weight_row_bytes(&w);
    uint8_t *data = nb_arena_alloc(s->arena, (size_t)bytes);
    if (!data) return NB_E_SYSTEM;
    for (int64_t i = 0; i < bytes; i++) data[i] = (uint8_t)(0x30 + (i * 5 & 7));
    w.data = data;
    *out = w;
    return NB_OK;
}

/* Consumes the row. */
static nb_status time_linear(struct kernel_run *run, const nb_weight *w, int64_t rows,
                             json_t *row)
{
    nb_linear_args args = {
        .y = nb_stream_tensor(run->s, NB_DTYPE_F32, 2, NB_SHAPE(rows, w->n)),
        .x = random_tensor(run->s, 2, NB_SHAPE(rows, w->k)),
        .w = w,
    };
    double scales = w->scale_kind == NB_SCALE_NVFP4   ? (double)(w->n * w->k / 16)
                    : w->scale_kind == NB_SCALE_MXFP4 ? (double)(w->n * w->k / 32)
                                                      : 0;
    struct operation op = {call_linear, &args,
                           .flops = 2.0 * (double)(rows * w->n) * (double)w->k,
                           .compute = nb_linear_compute(run->s->compute, w)};
    if (run->kernel == NB_BENCH_GEMV) {
        op.bytes = (double)(w->n * nb_weight_row_bytes(w)) + scales;
        op.w = w;
    }
    if (row) json_object_set_new(row, "rows", json_integer(rows));
    if (row) json_object_set_new(row, "n", json_integer(w->n));
    if (row) json_object_set_new(row, "k", json_integer(w->k));
    return add_row(run, &op, row);
}

static nb_status time_gemm(struct kernel_run *run, nb_quant_format format,
                           const struct gemm_shape *shape)
{
    nb_weight w;
    NB_TRY(nb_synthetic_matrix(run->s->arena, run->s->device, format, shape->n, shape->k, &w));
    return time_linear(run, &w, shape->rows,
                       json_pack("{s:s}", "weights", nb_bench_format_name(format)));
}

/* Of a format (from 0 on), or of one of read_types after them. */
static nb_status time_gemv(struct kernel_run *run, int type, const struct gemv_case *c)
{
    int is_format = type < NB_BENCH_N_FORMATS;
    nb_quant_format format = nb_bench_formats[is_format ? type : 0];
    nb_dtype dtype = read_types[is_format ? 0 : type - NB_BENCH_N_FORMATS];
    char name[32];
    nb_weight w = {.dtype = dtype, .k = c->k};
    snprintf(name, sizeof name, "%s",
             is_format ? nb_bench_format_name(format) : nb_dtype_name(dtype));
    for (char *at = name; *at; at++) *at = (char)tolower((unsigned char)*at);
    if (is_format) /* the matrix says how long a row is */
        NB_TRY(nb_synthetic_matrix(run->s->arena, run->s->device, format, 1, c->k, &w));
    int64_t n = c->bytes / nb_weight_row_bytes(&w) / 64 * 64;
    if (is_format)
        NB_TRY(nb_synthetic_matrix(run->s->arena, run->s->device, format, n, c->k, &w));
    else
        NB_TRY(read_type_matrix(run->s, dtype, n, c->k, &w));
    return time_linear(run, &w, c->rows,
                       json_pack("{s:s, s:s}", "weights", name, "from", c->from));
}

static nb_status time_linears(struct kernel_run *run)
{
    int is_gemv = run->kernel == NB_BENCH_GEMV, only = run->options->weights;
    int n_types = NB_BENCH_N_FORMATS + (is_gemv ? (int)NB_COUNT(read_types) : 0);
    size_t n_shapes = is_gemv ? NB_COUNT(gemv_cases) : NB_COUNT(gemm_shapes);
    for (int type = 0; type < n_types; type++) {
        if (only && only != type + 1) continue;
        for (size_t i = 0; i < n_shapes; i++) {
            nb_arena_mark mark = nb_arena_save(run->s->arena);
            nb_status status = is_gemv
                                   ? time_gemv(run, type, &gemv_cases[i])
                                   : time_gemm(run, nb_bench_formats[type], &gemm_shapes[i]);
            nb_arena_rewind(run->s->arena, mark);
            nb_arena_trim(run->s->arena);
            NB_TRY(status);
        }
    }
    return NB_OK;
}

/* ---- attention ---- */

/* The transformer's at 512x512 and 1024x1024, T5's, the autoencoder's. */
static const struct attn_shape {
    const char *what;
    int64_t rows, heads, dim;
} attn_shapes[] = {
    {"transformer", 1280, 24, 128},
    {"transformer", 4608, 24, 128},
    {"t5", 256, 64, 64},
    {"vae", 4096, 1, 512},
};

static nb_status time_attn(struct kernel_run *run, const struct attn_shape *shape)
{
    int64_t n = shape->rows, wide = shape->heads * shape->dim;
    nb_tensor qkv = random_tensor(run->s, 2, NB_SHAPE(n, 3 * wide));
    nb_tensor out = nb_stream_tensor(run->s, NB_DTYPE_F32, 2, NB_SHAPE(n, wide));
    nb_tensor bias = {0};
    if (!strcmp(shape->what, "t5"))
        bias = random_tensor(run->s, 2, NB_SHAPE(shape->heads, 2 * n - 1));
    const nb_attn_args args = {
        .out = nb_tensor_split_heads(out, shape->heads),
        .q = nb_tensor_split_heads(nb_tensor_slice(qkv, 1, 0, wide), shape->heads),
        .k = nb_tensor_split_heads(nb_tensor_slice(qkv, 1, wide, wide), shape->heads),
        .v = nb_tensor_split_heads(nb_tensor_slice(qkv, 1, 2 * wide, wide), shape->heads),
        .scale = 0.0883883476f, /* 1 / sqrt(128) */
        .rel_bias = bias,
    };
    const struct operation op = {
        .call = call_attn,
        .args = &args,
        .flops = 4.0 * (double)(n * n) * (double)wide,
        .compute = plain_compute(run->s),
    };
    return add_row(run, &op,
                   json_pack("{s:s, s:I, s:I, s:I}", "of", shape->what, "rows", (json_int_t)n,
                             "heads", (json_int_t)shape->heads, "dim", (json_int_t)shape->dim));
}

static nb_status time_attns(struct kernel_run *run)
{
    for (size_t i = 0; i < NB_COUNT(attn_shapes); i++) {
        nb_arena_mark mark = nb_arena_save(run->s->arena);
        nb_status status = time_attn(run, &attn_shapes[i]);
        nb_arena_rewind(run->s->arena, mark);
        NB_TRY(status);
    }
    return NB_OK;
}

/* ---- convolutions ---- */

/* Of the autoencoder at 512x512, as its residual blocks call them. */
static const struct conv_shape {
    int64_t out, in, side;
    int kernel, upsample;
} conv_shapes[] = {
    {512, 512, 64, 3, 0},  {512, 512, 128, 3, 0}, {512, 512, 128, 3, 1}, {256, 512, 256, 3, 0},
    {256, 512, 256, 1, 0}, {256, 256, 256, 3, 0}, {128, 128, 512, 3, 0}, {3, 128, 512, 3, 0},
};

static nb_status time_conv(struct kernel_run *run, const struct conv_shape *shape)
{
    int64_t side = shape->side, k = shape->in * shape->kernel * shape->kernel;
    int64_t from = shape->upsample ? side / 2 : side;
    int is_wide = shape->kernel == 3 && !shape->upsample;
    nb_weight w;
    NB_TRY(
        nb_synthetic_matrix(run->s->arena, run->s->device, NB_QUANT_BF16, shape->out, k, &w));
    nb_conv2d_args args = {.w = &w, .kernel = shape->kernel, .stride = 1};
    args.pad = shape->kernel / 2;
    args.upsample = shape->upsample;
    args.x = random_tensor(run->s, 3, NB_SHAPE(shape->in, from, from));
    args.y = nb_stream_tensor(run->s, NB_DTYPE_F32, 3, NB_SHAPE(shape->out, side, side));
    args.bias = random_tensor(run->s, 1, &shape->out);
    if (is_wide) { /* a norm before it */
        args.mul = random_tensor(run->s, 1, &shape->in);
        args.add = random_tensor(run->s, 1, &shape->in);
        args.silu = 1;
    }
    const struct operation op = {
        .call = call_conv,
        .args = &args,
        .flops = 2.0 * (double)(side * side) * (double)(shape->out * k),
        .compute = plain_compute(run->s),
    };
    return add_row(run, &op,
                   json_pack("{s:I, s:I, s:I, s:i, s:s}", "in", (json_int_t)shape->in, "out",
                             (json_int_t)shape->out, "side", (json_int_t)side, "kernel",
                             shape->kernel, "with",
                             shape->upsample ? "upsampling"
                             : is_wide       ? "norm, silu"
                                             : ""));
}

static nb_status time_convs(struct kernel_run *run)
{
    for (size_t i = 0; i < NB_COUNT(conv_shapes); i++) {
        nb_arena_mark mark = nb_arena_save(run->s->arena);
        nb_status status = time_conv(run, &conv_shapes[i]);
        nb_arena_rewind(run->s->arena, mark);
        NB_TRY(status);
    }
    return NB_OK;
}

/* ---- the whole ---- */

static nb_status time_kernel(struct kernel_run *run)
{
    switch (run->kernel) {
    case NB_BENCH_GEMM:
    case NB_BENCH_GEMV:
        return time_linears(run);
    case NB_BENCH_ATTN:
        return time_attns(run);
    default:
        return time_convs(run);
    }
}

#define RATES                                                                                  \
    {"ms", "ms", 3}, {"ms_spread", "+-", 3}, {"cpu_ms", "cpu ms", 3},                          \
        {"gflops", "GFLOP/s", 1}, {"peak_percent", "% of peak", 1}, {"gbytes", "GB/s", 1},     \
        {"read_gbytes", "read GB/s", 1},                                                       \
    {                                                                                          \
        "read_percent", "% of read", 1                                                         \
    }

static void choose_columns(struct kernel_run *run)
{
    static const nb_bench_column linear[] = {{"weights", "weights", 0},
                                             {"from", "from", 0},
                                             {"rows", "rows", 0},
                                             {"n", "n", 0},
                                             {"k", "k", 0},
                                             {"roof", "peak of", 0},
                                             RATES};
    static const nb_bench_column attn[] = {
        {"of", "of", 0}, {"rows", "rows", 0}, {"heads", "heads", 0}, {"dim", "dim", 0}, RATES};
    static const nb_bench_column conv[] = {{"in", "in", 0},     {"out", "out", 0},
                                           {"side", "side", 0}, {"kernel", "kernel", 0},
                                           {"with", "with", 0}, RATES};
    int is_linear = run->kernel == NB_BENCH_GEMM || run->kernel == NB_BENCH_GEMV;
    run->report.columns = is_linear ? linear : run->kernel == NB_BENCH_ATTN ? attn : conv;
    run->report.n_columns = (int)(is_linear                      ? NB_COUNT(linear)
                                  : run->kernel == NB_BENCH_ATTN ? NB_COUNT(attn)
                                                                 : NB_COUNT(conv));
}

static nb_status measure(struct kernel_run *run)
{
    unsigned caps = nb_device_caps(run->s->device);
    unsigned which = 1u << nb_roof_of_compute(run->s->compute, caps) |
                     1u << nb_roof_of_compute(plain_compute(run->s), caps);
    if (run->kernel == NB_BENCH_GEMV) which |= 1u << NB_ROOF_READ;
    NB_TRY(nb_bench_measure_roofs(run->s, which, &run->roofs));
    NB_TRY(nb_bench_report_init(&run->report, run->s, &run->roofs));
    choose_columns(run);
    nb_status status = time_kernel(run);
    if (!status) status = nb_bench_print(&run->report, (nb_bench_format)run->options->format);
    nb_bench_report_fini(&run->report);
    return status;
}

nb_status nb_bench_kernels(const struct bench_options *o, nb_bench_kernel kernel)
{
    struct kernel_run run = {.options = o, .kernel = kernel};
    nb_device *device;
    nb_arithmetic arithmetic;
    NB_TRY(nb_machine_open(&o->common, &device));
    nb_status status = nb_machine_compute(&o->common, device, NULL, &arithmetic);
    if (!status)
        status = nb_stream_create(device, arithmetic.compute, (int)o->common.threads,
                                  nb_signals_catch(), &run.s);
    if (!status) status = measure(&run);
    nb_stream_destroy(run.s);
    nb_device_close(device);
    return status;
}
