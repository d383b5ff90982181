/* Times nb_conv2d at the shapes of FLUX.1's autoencoder, as its residual blocks call it and
 * bare: conv [f32|bf16] [threads]. Best of 5 runs, and the most that was done in a second of
 * one processor's time, which other programs disturb less. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

enum { RUNS = 5 };

static const struct {
    int64_t n, c, size;
} shapes[] = {{512, 512, 64}, {512, 512, 128}, {256, 256, 256}, {128, 128, 512}};

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nb_tensor random_tensor(nb_stream *s, int rank, const int64_t *shape)
{
    nb_tensor t = nb_stream_tensor(s, NB_DTYPE_F32, rank, shape);
    uint32_t state = 1;
    if (!t.data) abort();
    for (int64_t i = 0; i < nb_tensor_count(t); i++) {
        state = state * 1664525u + 1013904223u;
        nb_tensor_f32(t)[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
    return t;
}

static void time_conv(nb_stream *s, const nb_conv2d_args *a, const char *name)
{
    double wall = 1e9, processor = 1e9;
    int64_t n = a->y.shape[0], size = a->y.shape[1];
    double flops = 2.0 * (double)(n * size * size) * (double)a->w->k;
    for (int run = 0; run < RUNS; run++) {
        double start = now_s(CLOCK_MONOTONIC),
               processor_start = now_s(CLOCK_PROCESS_CPUTIME_ID);
        nb_conv2d(s, a);
        wall = fmin(wall, now_s(CLOCK_MONOTONIC) - start);
        processor = fmin(processor, now_s(CLOCK_PROCESS_CPUTIME_ID) - processor_start);
    }
    printf("%3lld -> %3lld at %3lld^2, %-8s %9.3f ms  %7.1f GFLOP/s (a processor: %7.1f)\n",
           (long long)a->x.shape[0], (long long)n, (long long)size, name, 1e3 * wall,
           1e-9 * flops / wall, 1e-9 * flops / processor);
    fflush(stdout);
}

static void time_shape(nb_stream *s, int64_t n, int64_t c, int64_t size)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_tensor w = random_tensor(s, 2, NB_SHAPE(n, c * 9));
    nb_weight weight = {.data = w.data, .dtype = NB_DTYPE_F32, .n = n, .k = c * 9, .scale = 1};
    nb_conv2d_args a = {.w = &weight, .kernel = 3, .stride = 1, .pad = 1};
    a.x = random_tensor(s, 3, NB_SHAPE(c, size, size));
    a.y = random_tensor(s, 3, NB_SHAPE(n, size, size));
    a.bias = random_tensor(s, 1, NB_SHAPE(n));
    time_conv(s, &a, "bare");
    a.mul = random_tensor(s, 1, NB_SHAPE(c));
    a.add = random_tensor(s, 1, NB_SHAPE(c));
    a.residual = random_tensor(s, 3, NB_SHAPE(n, size, size));
    a.silu = 1;
    time_conv(s, &a, "residual");
    nb_arena_rewind(s->arena, mark);
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
        time_shape(s, shapes[i].n, shapes[i].c, shapes[i].size);
    nb_stream_destroy(s);
    nb_device_close(device);
    return EXIT_SUCCESS;
}
