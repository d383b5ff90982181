/*
 * nibble bench gemm, gemv, attn, conv: operations alone at FLUX.1's shapes, beside the roofs.
 */
#include <string.h>

#include "cli/bench.h"
#include "kernels/attn.h"
#include "kernels/conv.h"
#include "kernels/ops.h"
#include "models/synthetic.h"

enum { DEFAULT_RUNS = 7 };

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

/* Once to warm up, then as often as was asked for. */
static nb_status time_operation(struct kernel_run *run, const struct operation *op,
                                nb_bench_stats *out)
{
    int64_t runs = run->options->runs ? run->options->runs : DEFAULT_RUNS;
    nb_bench_times times;
    times.n = 0;
    NB_TRY(nb_stream_sync(run->s)); /* the arguments could be made */
    for (int64_t i = -1; i < runs; i++) {
        nb_bench_time begin = nb_bench_now();
        op->call(run->s, op->args);
        NB_TRY(nb_stream_sync(run->s));
        if (i >= 0) nb_bench_add(&times, nb_bench_since(begin));
    }
    *out = nb_bench_stats_of(&times);
    return NB_OK;
}

/* Measures, and puts what was found into the row, which is consumed. */
static nb_status add_row(struct kernel_run *run, const struct operation *op, json_t *row)
{
    nb_bench_stats stats;
    nb_roof roof = nb_roof_of_compute(op->compute, nb_device_caps(run->s->device));
    double peak = run->roofs.all[roof], read = run->roofs.all[NB_ROOF_READ];
    nb_status status = time_operation(run, op, &stats);
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
    if (op->bytes > 0 && read > 0)
        json_object_set_new(row, "read_percent", json_real(100 * flow / read));
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

/* The first is far larger than caches, the second fits into them. */
static const struct gemm_shape gemv_shapes[] = {
    {1, 131072, 7168}, {1, 3072, 3072}, {1, 18432, 3072}, {4, 18432, 3072}, {8, 18432, 3072},
};

static nb_status time_linear(struct kernel_run *run, nb_quant_format format,
                             const struct gemm_shape *shape)
{
    nb_weight w;
    NB_TRY(nb_synthetic_matrix(run->s->arena, run->s->device, format, shape->n, shape->k, &w));
    nb_linear_args args = {
        .y = nb_stream_tensor(run->s, NB_DTYPE_F32, 2, NB_SHAPE(shape->rows, shape->n)),
        .x = random_tensor(run->s, 2, NB_SHAPE(shape->rows, shape->k)),
        .w = &w,
    };
    double scales = w.scale_kind == NB_SCALE_NVFP4   ? (double)(w.n * w.k / 16)
                    : w.scale_kind == NB_SCALE_MXFP4 ? (double)(w.n * w.k / 32)
                                                     : 0;
    struct operation op = {call_linear, &args,
                           .flops = 2.0 * (double)(shape->rows * w.n) * (double)w.k,
                           .compute = nb_linear_compute(run->s->compute, &w)};
    if (run->kernel == NB_BENCH_GEMV)
        op.bytes = (double)(w.n * nb_weight_row_bytes(&w)) + scales;
    return add_row(run, &op,
                   json_pack("{s:s, s:I, s:I, s:I}", "weights", nb_bench_format_name(format),
                             "rows", (json_int_t)shape->rows, "n", (json_int_t)shape->n, "k",
                             (json_int_t)shape->k));
}

static nb_status time_linears(struct kernel_run *run, const struct gemm_shape *shapes,
                              size_t n_shapes)
{
    int only = run->options->weights;
    for (int f = 0; f < NB_BENCH_N_FORMATS; f++) {
        if (only && only != f + 1) continue;
        for (size_t i = 0; i < n_shapes; i++) {
            nb_arena_mark mark = nb_arena_save(run->s->arena);
            nb_status status = time_linear(run, nb_bench_formats[f], &shapes[i]);
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
        return time_linears(run, gemm_shapes, NB_COUNT(gemm_shapes));
    case NB_BENCH_GEMV:
        return time_linears(run, gemv_shapes, NB_COUNT(gemv_shapes));
    case NB_BENCH_ATTN:
        return time_attns(run);
    default:
        return time_convs(run);
    }
}

#define RATES                                                                                  \
    {"ms", "ms", 3}, {"ms_spread", "+-", 3}, {"cpu_ms", "cpu ms", 3},                          \
        {"gflops", "GFLOP/s", 1}, {"peak_percent", "% of peak", 1}, {"gbytes", "GB/s", 1},     \
    {                                                                                          \
        "read_percent", "% of read", 1                                                         \
    }

static void choose_columns(struct kernel_run *run)
{
    static const nb_bench_column linear[] = {{"weights", "weights", 0},
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
