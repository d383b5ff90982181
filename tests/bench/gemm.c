/* Times nb_linear at FLUX.1's shapes: gemm [threads] [rows of x]. For each shape F32 weights at
 * policy f32, BF16 weights at bf16, NVFP4 weights at bf16 and at a8, in turn; the median of 7
 * rounds, and of what was done in a second of one processor's time, which other programs
 * disturb less. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

enum { RUNS = 7, N_CASES = 4 };

static const struct {
    int64_t m, n, k;
} shapes[] = {
    {1280, 9216, 3072}, {1280, 12288, 3072}, {1280, 3072, 15360}, {1280, 21504, 3072},
    {512, 9216, 3072},  {512, 12288, 3072},  {512, 3072, 15360},  {512, 21504, 3072},
    {256, 4096, 4096},  {256, 10240, 4096},  {1, 18432, 3072},    {8, 18432, 3072},
};

static const struct {
    nb_dtype dtype;
    nb_compute policy;
    const char *name;
} cases[N_CASES] = {
    {NB_DTYPE_F32, NB_COMPUTE_F32, "F32 weights, f32"},
    {NB_DTYPE_BF16, NB_COMPUTE_BF16, "BF16 weights, bf16"},
    {NB_DTYPE_F4_E2M1X2, NB_COMPUTE_BF16, "NVFP4 weights, bf16"},
    {NB_DTYPE_F4_E2M1X2, NB_COMPUTE_A8, "NVFP4 weights, a8"},
};

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *random_values(nb_dtype dtype, int64_t n)
{
    unsigned char *data =
        aligned_alloc(64, (size_t)(n * (int64_t)nb_dtype_bytes(dtype) + 63) / 64 * 64);
    uint32_t state = 1;
    if (!data) abort();
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float value = (float)(state >> 8) * 0x1p-23f - 1.0f;
        uint16_t half = nb_bf16_from_f32(value);
        uint8_t scale = (uint8_t)(0x30 + (state >> 27)); /* E4M3 from 0.5 to 7.5 */
        if (dtype == NB_DTYPE_F32) memcpy(data + 4 * i, &value, 4);
        if (dtype == NB_DTYPE_BF16) memcpy(data + 2 * i, &half, 2);
        if (dtype == NB_DTYPE_F4_E2M1X2) data[i] = (uint8_t)(state >> 24);
        if (dtype == NB_DTYPE_F8_E4M3) data[i] = scale;
    }
    return data;
}

static nb_weight random_weight(nb_dtype dtype, int64_t n, int64_t k)
{
    static float values[NB_SCALE_CODES];
    int is_fp4 = dtype == NB_DTYPE_F4_E2M1X2;
    nb_weight w = {.data = random_values(dtype, is_fp4 ? n * k / 2 : n * k),
                   .dtype = dtype,
                   .n = n,
                   .k = k,
                   .scale = 1};
    if (!is_fp4) return w;
    nb_weight_scale_values(NB_SCALE_NVFP4, 0.1f, 0, values);
    w.scale_kind = NB_SCALE_NVFP4;
    w.scales = random_values(NB_DTYPE_F8_E4M3, n * k / 16);
    w.scale_values = values;
    return w;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, RUNS, sizeof *values, by_value);
    return values[RUNS / 2];
}

static void time_shape(nb_stream *s, int64_t m, int64_t n, int64_t k)
{
    double wall[N_CASES][RUNS], processor[N_CASES][RUNS];
    double flops = 2.0 * (double)m * (double)n * (double)k;
    float *x = random_values(NB_DTYPE_F32, m * k), *y = random_values(NB_DTYPE_F32, m * n);
    nb_weight w[N_CASES];
    for (int i = 0; i < N_CASES; i++) w[i] = random_weight(cases[i].dtype, n, k);
    for (int run = -1; run < RUNS; run++) /* one to warm up */
        for (int i = 0; i < N_CASES; i++) {
            nb_linear_args a = {.w = &w[i]};
            a.x = nb_tensor_view(s->device, x, NB_DTYPE_F32, 2, NB_SHAPE(m, k));
            a.y = nb_tensor_view(s->device, y, NB_DTYPE_F32, 2, NB_SHAPE(m, n));
            s->compute = cases[i].policy;
            double start = now_s(CLOCK_MONOTONIC), busy = now_s(CLOCK_PROCESS_CPUTIME_ID);
            nb_linear(s, &a);
            if (run < 0) continue;
            wall[i][run] = now_s(CLOCK_MONOTONIC) - start;
            processor[i][run] = now_s(CLOCK_PROCESS_CPUTIME_ID) - busy;
        }
    for (int i = 0; i < N_CASES; i++) {
        printf("%5lld x %5lld x %5lld  %-20s %9.3f ms  %7.1f GFLOP/s (a processor: %7.1f)\n",
               (long long)m, (long long)n, (long long)k, cases[i].name, 1e3 * median(wall[i]),
               1e-9 * flops / median(wall[i]), 1e-9 * flops / median(processor[i]));
        free((void *)w[i].data);
        free((void *)w[i].scales);
    }
    fflush(stdout);
    free(x);
    free(y);
}

int main(int argc, char **argv)
{
    nb_device *device;
    nb_stream *s;
    int threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
    long rows = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    if (nb_device_open_cpu(nb_cpu_caps(), &device) ||
        nb_stream_create(device, NB_COMPUTE_F32, threads, NULL, &s))
        return EXIT_FAILURE;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (!rows || shapes[i].m == rows) time_shape(s, shapes[i].m, shapes[i].n, shapes[i].k);
    nb_stream_destroy(s);
    nb_device_close(device);
    return EXIT_SUCCESS;
}
