/* Times nb_linear with few rows of x beside what this machine reads from memory, in turn:
 * bench_gemv [threads [rows]]. The best of 41 rounds of each, since other programs share the
 * memory; GB/s of W as it lies in its file, of which NVFP4 has 9 bytes for 16 elements. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

enum {
    ROUNDS = 41,
    MAX_ROWS = 8,
    MAX_N = 131072,
    READ_BYTES = 256 << 20,
    PIECE = 1 << 20,
    K = 3072,
    HUGE_PAGE = 2 << 20
};

static const struct {
    const char *name;
    nb_dtype dtype;
    nb_compute policy;
    int64_t n;
} cases[] = {
    {"NVFP4", NB_DTYPE_F4_E2M1X2, NB_COMPUTE_BF16, 131072},
    {"F8_E4M3", NB_DTYPE_F8_E4M3, NB_COMPUTE_BF16, 65536},
    {"BF16", NB_DTYPE_BF16, NB_COMPUTE_BF16, 36864},
    {"F16", NB_DTYPE_F16, NB_COMPUTE_BF16, 36864},
    {"F32", NB_DTYPE_F32, NB_COMPUTE_BF16, 18432},
    {"F32 at f32", NB_DTYPE_F32, NB_COMPUTE_F32, 18432},
    {"NVFP4 in cache", NB_DTYPE_F4_E2M1X2, NB_COMPUTE_BF16, 1024},
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Zeros and small numbers in any type, in huge pages where there are some. */
static void *new_bytes(size_t bytes)
{
    size_t size = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *data = aligned_alloc(HUGE_PAGE, size);
    if (!data) abort();
    madvise(data, size, MADV_HUGEPAGE);
    memset(data, 0x31, size);
    return data;
}

struct reading {
    const uint64_t *words;
    uint64_t sums[64]; /* of the threads, so that the words are wanted */
};

static void read_task(void *arg, int64_t task, int thread)
{
    struct reading *reading = arg;
    const uint64_t *p = reading->words + task * (PIECE / 8);
    uint64_t sums[4] = {0};
    for (int i = 0; i < PIECE / 8; i += 32)
        for (int j = 0; j < 4; j++) sums[j] += p[i + 8 * j]; /* a word of each line */
    reading->sums[thread % 64] = sums[0] + sums[1] + sums[2] + sums[3];
}

static double time_linear(nb_stream *s, int i, int rows, void *data, void *scales, float *x,
                          float *y)
{
    float values[NB_SCALE_CODES];
    int is_fp4 = cases[i].dtype == NB_DTYPE_F4_E2M1X2;
    nb_weight w = {.data = data, .dtype = cases[i].dtype, .n = cases[i].n, .k = K, .scale = 1};
    if (is_fp4) {
        w.scale_kind = NB_SCALE_NVFP4;
        w.scales = scales;
        w.scale_values = values;
        nb_weight_scale_values(w.scale_kind, 0.01f, 0, values);
    }
    nb_linear_args a = {.w = &w};
    a.x = nb_tensor_view(s->device, x, NB_DTYPE_F32, 2, NB_SHAPE(rows, K));
    a.y = nb_tensor_view(s->device, y, NB_DTYPE_F32, 2, NB_SHAPE(rows, w.n));
    s->compute = cases[i].policy;
    int64_t bytes = w.n * nb_weight_row_bytes(&w) + (is_fp4 ? w.n * K / 16 : 0);
    double start = now_s();
    nb_linear(s, &a);
    return 1e-9 * (double)bytes / (now_s() - start);
}

int main(int argc, char **argv)
{
    enum { N_CASES = sizeof cases / sizeof cases[0] };
    nb_device *device;
    nb_stream *s;
    int threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
    int rows = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 1;
    double best[N_CASES] = {0}, read = 0;
    if (rows < 1 || rows > MAX_ROWS) return EXIT_FAILURE;
    if (nb_device_open_cpu(nb_cpu_caps(), &device) ||
        nb_stream_create(device, NB_COMPUTE_BF16, threads, NULL, &s))
        return EXIT_FAILURE;
    void *data = new_bytes(READ_BYTES), *scales = new_bytes((size_t)MAX_N * K / 16);
    float *x = new_bytes(MAX_ROWS * K * 4), *y = new_bytes((size_t)MAX_ROWS * MAX_N * 4);
    struct reading reading = {.words = data};
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_s();
        nb_parallel(s, READ_BYTES / PIECE, read_task, &reading);
        read = fmax(read, 1e-9 * READ_BYTES / (now_s() - start));
        for (int i = 0; i < N_CASES; i++) {
            if (i == N_CASES - 1)
                time_linear(s, i, rows, data, scales, x, y); /* into the cache */
            best[i] = fmax(best[i], time_linear(s, i, rows, data, scales, x, y));
        }
    }
    printf("%-20s %6.1f GB/s, %d threads\n", "reading", read, s->threads);
    for (int i = 0; i < N_CASES; i++)
        printf("%-20s %6.1f GB/s  %5.1f %% of reading\n", cases[i].name, best[i],
               100 * best[i] / read);
    nb_stream_destroy(s);
    nb_device_close(device);
    free(data);
    free(scales);
    free(x);
    free(y);
    return EXIT_SUCCESS;
}
