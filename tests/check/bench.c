#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/check/run.h"

enum { MAX_RUNS = 101 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
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

/* The median of as many runs as fit into half a second, at least three after one to warm up; a
 * first run of more than that is taken as it is. */
int nb_check_time(const struct setup *setup, const nb_device *device, const char *label,
                  char *line)
{
    nb_check c = {.setup = *setup, .reuse = 1};
    double seconds[MAX_RUNS], total = 0;
    int n = 0, failed = 0;
    for (int run = 0; run < MAX_RUNS && !failed && (run < 4 || total < 0.5); run++) {
        double start = now_s();
        failed = nb_check_execute(&c, device, line);
        double took = now_s() - start;
        if (run == 0 && took < 1) continue;
        seconds[n++] = took;
        total += took;
        if (run == 0) break;
    }
    if (!failed) {
        qsort(seconds, (size_t)n, sizeof seconds[0], by_value);
        double median = seconds[n / 2], work = c.flops > 0 ? c.flops : bytes_of(&c);
        snprintf(line, MAX_TEXT, "%-30s %10.3f ms %9.1f %s  %.200s", label, 1e3 * median,
                 1e-9 * work / median, c.flops > 0 ? "GFLOP/s" : "GB/s   ", c.shapes);
    }
    nb_check_free(&c);
    return failed;
}
