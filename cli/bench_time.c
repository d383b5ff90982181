/*
 * Clocks, their statistics, and the roofs.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/measure.h"

nb_bench_time nb_bench_now(void)
{
    return (nb_bench_time){nb_seconds(), nb_clock_seconds(CLOCK_PROCESS_CPUTIME_ID)};
}

nb_bench_time nb_bench_since(nb_bench_time then)
{
    nb_bench_time now = nb_bench_now();
    return (nb_bench_time){now.wall - then.wall, now.cpu - then.cpu};
}

void nb_bench_add(nb_bench_times *times, nb_bench_time time)
{
    if (times->n < NB_BENCH_MAX_RUNS) times->runs[times->n++] = time;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *sorted, int n)
{
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

nb_bench_stats nb_bench_stats_of(const nb_bench_times *times)
{
    double wall[NB_BENCH_MAX_RUNS], cpu[NB_BENCH_MAX_RUNS];
    int n = times->n;
    for (int i = 0; i < n; i++) {
        wall[i] = times->runs[i].wall;
        cpu[i] = times->runs[i].cpu;
    }
    qsort(wall, (size_t)n, sizeof *wall, by_value);
    qsort(cpu, (size_t)n, sizeof *cpu, by_value);
    return (nb_bench_stats){
        .median = median(wall, n),
        .spread = (wall[n - 1] - wall[0]) / 2,
        .least = wall[0],
        .most = wall[n - 1],
        .cpu = median(cpu, n),
    };
}

/* ---- roofs ---- */

static const double LOOP_SECONDS = 0.03;
enum { LOOPS = 5 };
static const size_t READ_BYTES = (size_t)512 << 20; /* many times what caches hold */

/* A loop that each task runs by itself, timed by its thread's own clock: what others do on the
 * machine meanwhile does not count. */
struct arithmetic {
    const nb_roof_loop *loop;
    int64_t rounds;
    double *seconds; /* [tasks] */
};

static void run_arithmetic(void *arg, int64_t task, int thread)
{
    const struct arithmetic *a = arg;
    double begin = nb_clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    (void)thread;
    a->loop->run(NULL, a->rounds);
    a->seconds[task] = nb_clock_seconds(CLOCK_THREAD_CPUTIME_ID) - begin;
}

/* Work a second of so many threads at once. */
static double arithmetic_rate(nb_stream *s, struct arithmetic *a, int threads)
{
    double rate = 0;
    nb_parallel(s, threads, run_arithmetic, a);
    for (int i = 0; i < threads && s->status == NB_OK; i++)
        rate += (double)a->rounds * a->loop->work / a->seconds[i];
    return rate;
}

static void measure_arithmetic(nb_stream *s, const nb_roof_loop *loop, double *seconds,
                               double *one, double *all)
{
    struct arithmetic a = {loop, 1000, seconds};
    while (a.rounds < INT64_MAX / 2) { /* until a loop is long enough for its clock */
        run_arithmetic(&a, 0, 0);
        if (seconds[0] >= LOOP_SECONDS) break;
        a.rounds *= 2;
    }
    for (int i = 0; i < LOOPS; i++) {
        double rate = arithmetic_rate(s, &a, 1);
        if (rate > *one) *one = rate;
        rate = arithmetic_rate(s, &a, s->threads);
        if (rate > *all) *all = rate;
    }
}

/* Memory is what threads share, so here the clock on the wall counts. */
struct reading {
    const nb_roof_loop *loop;
    const char *data;
    int64_t bytes, chunk;
};

static void run_reading(void *arg, int64_t task, int thread)
{
    const struct reading *r = arg;
    int64_t begin = task * r->chunk, count = r->bytes - begin;
    (void)thread;
    if (count > r->chunk) count = r->chunk;
    r->loop->run(r->data + begin, count / (int64_t)r->loop->work);
}

double nb_bench_read(nb_stream *s, const void *data, int64_t bytes)
{
    enum { CHUNKS = 32 }; /* for each thread, so that all end together */
    const nb_roof_loop *loop = nb_roof_find(NB_ROOF_READ, nb_device_caps(s->device));
    if (!loop) return 0;
    int64_t round = (int64_t)loop->work, n_chunks = (int64_t)CHUNKS * s->threads;
    struct reading r = {loop, data, bytes, (bytes / n_chunks + round) / round * round};
    nb_bench_time begin = nb_bench_now();
    nb_parallel(s, (bytes + r.chunk - 1) / r.chunk, run_reading, &r);
    return (double)bytes / nb_bench_since(begin).wall;
}

/* The median, as of everything that is held against it: what others do with the memory of the
 * machine comes and goes. */
static void measure_reading(nb_stream *s, const nb_roof_loop *loop, double *one, double *all)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    char *data = nb_stream_tensor(s, NB_DTYPE_U8, 1, NB_SHAPE((int64_t)READ_BYTES)).data;
    double rates[2][LOOPS];
    if (data) memset(data, 1, READ_BYTES); /* pages that nobody wrote are all the same one */
    for (int i = 0; i < LOOPS && data; i++) {
        nb_bench_time begin = nb_bench_now();
        loop->run(data, (int64_t)READ_BYTES / (int64_t)loop->work);
        rates[0][i] = (double)READ_BYTES / nb_bench_since(begin).wall;
        rates[1][i] = nb_bench_read(s, data, (int64_t)READ_BYTES);
    }
    for (int i = 0; i < 2 && data; i++) qsort(rates[i], LOOPS, sizeof rates[i][0], by_value);
    if (data) *one = median(rates[0], LOOPS), *all = median(rates[1], LOOPS);
    nb_arena_rewind(s->arena, mark);
    nb_arena_trim(s->arena);
}

nb_status nb_bench_measure_roofs(nb_stream *s, unsigned which, nb_bench_roofs *out)
{
    double *seconds = calloc((size_t)s->threads, sizeof *seconds);
    *out = (nb_bench_roofs){0};
    if (!seconds) return nb_fail(NB_E_SYSTEM, "out of memory for the roofs");
    for (int i = 0; i < NB_ROOF_COUNT; i++) {
        const nb_roof_loop *loop = nb_roof_find((nb_roof)i, nb_device_caps(s->device));
        if (!loop || !((which >> i) & 1)) continue;
        out->instructions[i] = loop->instruction;
        if (i == NB_ROOF_READ)
            measure_reading(s, loop, &out->one[i], &out->all[i]);
        else
            measure_arithmetic(s, loop, seconds, &out->one[i], &out->all[i]);
    }
    free(seconds);
    return nb_stream_sync(s);
}
