#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/check/run.h"

enum { MAX_RUNS = 101 };
static const double REFERENCE_FLOPS = 1e9; /* more takes the references too long */

/* One thread is timed by its own clock, which does not run while others have the processor. */
static double now_s(int threads)
{
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bytes_of(const nb_check *c)
{
    double bytes = 0;
    for (int i = 0; i < c->n_tensors; i++) {
        const struct entry *e = &c->tensors[i];
        int passes = e->role == INOUT ? 2 : 1;
        bytes += passes * (double)nb_tensor_count(e->t) * (double)nb_dtype_bytes(e->t.dtype);
    }
    return bytes;
}

/* Runs the operation on a stream that has faulted: nothing happens, but tensors and flops are
 * there. */
static void prepare(nb_check *c, const nb_device *device, char *line)
{
    if (nb_stream_create(device, c->setup.compute, c->setup.threads, NULL, &c->stream)) abort();
    nb_stream_fault(c->stream, NB_E_STOPPED, "not yet");
    (void)nb_check_execute(c, device, line);
    c->stream->status = NB_OK;
}

/* The median of as many runs as fit into half a second, at least three after one to warm up. */
int nb_check_time(const struct setup *setup, const nb_device *device, const char *label,
                  char *line)
{
    nb_check c = {.setup = *setup, .reuse = 1};
    double seconds[MAX_RUNS], total = 0;
    int n = 0, failed = 0;
    prepare(&c, device, line);
    if (nb_device_caps(device) == 0 && c.flops > REFERENCE_FLOPS) {
        snprintf(line, MAX_TEXT, "%-26s %13s %18s  %.250s", label, "-", "", c.shapes);
        nb_check_free(&c);
        return 0;
    }
    for (int run = -1; run < MAX_RUNS && !failed && (run < 3 || total < 0.5); run++) {
        double start = now_s(setup->threads);
        failed = nb_check_execute(&c, device, line);
        if (run < 0) continue;
        seconds[n++] = now_s(setup->threads) - start;
        total += seconds[n - 1];
    }
    if (!failed) {
        qsort(seconds, (size_t)n, sizeof seconds[0], by_value);
        double median = seconds[n / 2], work = c.flops > 0 ? c.flops : bytes_of(&c);
        snprintf(line, MAX_TEXT, "%-26s %10.3f ms %10.1f %s  %.250s", label, 1e3 * median,
                 1e-9 * work / median, c.flops > 0 ? "GFLOP/s" : "GB/s   ", c.shapes);
    }
    nb_check_free(&c);
    return failed;
}
