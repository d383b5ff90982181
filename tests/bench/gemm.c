/* Times nb_linear at FLUX.1's shapes: gemm [f32|bf16] [threads]. Best of 7 runs, and the most
 * that was done in a second of one processor's time, which other programs disturb less. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

enum { RUNS = 7 };

static const struct {
    int64_t m, n, k;
} shapes[] = {
    {1280, 9216, 3072}, {1280, 12288, 3072}, {1280, 3072, 15360}, {1280, 21504, 3072},
    {256, 9216, 3072},  {256, 3072, 15360},  {256, 4096, 4096},   {256, 10240, 4096},
    {1, 18432, 3072},   {8, 18432, 3072},    {320, 256, 64},
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
        if (dtype == NB_DTYPE_F32) memcpy(data + 4 * i, &value, 4);
        if (dtype == NB_DTYPE_BF16) memcpy(data + 2 * i, &half, 2);
    }
    return data;
}

static void time_shape(nb_stream *s, nb_dtype dtype, int64_t m, int64_t n, int64_t k)
{
    nb_weight w = {
        .data = random_values(dtype, n * k), .dtype = dtype, .n = n, .k = k, .scale = 1};
    float *x = random_values(NB_DTYPE_F32, m * k), *y = random_values(NB_DTYPE_F32, m * n);
    nb_linear_args a = {.w = &w};
    double wall = 1e9, processor = 1e9, flops = 2.0 * (double)m * (double)n * (double)k;
    a.x = nb_tensor_view(s->device, x, NB_DTYPE_F32, 2, NB_SHAPE(m, k));
    a.y = nb_tensor_view(s->device, y, NB_DTYPE_F32, 2, NB_SHAPE(m, n));
    for (int run = 0; run < RUNS; run++) {
        double start = now_s(CLOCK_MONOTONIC),
               processor_start = now_s(CLOCK_PROCESS_CPUTIME_ID);
        nb_linear(s, &a);
        wall = fmin(wall, now_s(CLOCK_MONOTONIC) - start);
        processor = fmin(processor, now_s(CLOCK_PROCESS_CPUTIME_ID) - processor_start);
    }
    printf("%5lld x %5lld x %5lld  %9.3f ms  %7.1f GFLOP/s (a processor: %7.1f)  %6.1f GB/s\n",
           (long long)m, (long long)n, (long long)k, 1e3 * wall, 1e-9 * flops / wall,
           1e-9 * flops / processor, 1e-9 * (double)(n * nb_weight_row_bytes(&w)) / wall);
    free((void *)w.data);
    free(x);
    free(y);
}

int main(int argc, char **argv)
{
    nb_device *device;
    nb_stream *s;
    int is_bf16 = argc > 1 && !strcmp(argv[1], "bf16");
    int threads = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0;
    if (nb_device_open_cpu(nb_cpu_caps(), &device) ||
        nb_stream_create(device, is_bf16 ? NB_COMPUTE_BF16 : NB_COMPUTE_F32, threads, NULL, &s))
        return EXIT_FAILURE;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        time_shape(s, is_bf16 ? NB_DTYPE_BF16 : NB_DTYPE_F32, shapes[i].m, shapes[i].n,
                   shapes[i].k);
    nb_stream_destroy(s);
    nb_device_close(device);
    return EXIT_SUCCESS;
}
