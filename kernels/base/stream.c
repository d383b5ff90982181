#include "kernels/base/stream.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/cpu.h"

const char *nb_compute_name(nb_compute compute)
{
    static const char *const names[NB_COMPUTE_COUNT] = {"f32", "bf16", "a8", "a4"};
    return names[compute];
}

nb_status nb_stream_create(const nb_device *device, nb_compute compute, int threads,
                           const atomic_int *stop, nb_stream **out)
{
    nb_stream *s = calloc(1, sizeof *s);
    if (!s) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *s);
    nb_status status = nb_arena_create(&s->arena);
    if (status) {
        free(s);
        return status;
    }
    s->device = device;
    s->compute = compute;
    s->threads = threads > 0 ? threads : nb_cpu_count();
    s->stop = stop;
    *out = s;
    return NB_OK;
}

void nb_stream_destroy(nb_stream *s)
{
    if (!s) return;
    nb_pool_destroy(s->pool);
    nb_arena_destroy(s->arena);
    free(s);
}

nb_status nb_stream_sync(nb_stream *s)
{
    if (s->status == NB_OK) return NB_OK;
    return nb_fail(s->status, "%s", s->message);
}

void nb_stream_fault(nb_stream *s, nb_status status, const char *format, ...)
{
    va_list args;
    if (s->status != NB_OK) return;
    va_start(args, format);
    vsnprintf(s->message, sizeof s->message, format, args);
    va_end(args);
    s->status = status;
}

nb_tensor nb_stream_tensor(nb_stream *s, nb_dtype dtype, int rank, const int64_t *shape)
{
    nb_tensor t = nb_tensor_view(s->device, NULL, dtype, rank, shape);
    size_t bytes = (size_t)nb_tensor_count(t) * nb_dtype_bytes(dtype);
    if (s->status == NB_OK) {
        t.data = nb_arena_alloc(s->arena, bytes);
        if (!t.data) nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
    }
    return t;
}

static size_t dense_bytes(nb_tensor t)
{
    assert(nb_tensor_is_dense(t));
    return (size_t)nb_tensor_count(t) * nb_dtype_bytes(t.dtype);
}

void nb_stream_upload(nb_stream *s, nb_tensor to, const void *from)
{
    if (s->status == NB_OK) memcpy(to.data, from, dense_bytes(to));
}

void nb_stream_download(nb_stream *s, void *to, nb_tensor from)
{
    if (s->status == NB_OK) memcpy(to, from.data, dense_bytes(from));
}

/* A job whose tasks are left out once the stop flag is up. */
struct stoppable {
    nb_stream *s;
    nb_task_fn *fn;
    void *arg;
    atomic_int stopped;
};

static void run_unless_stopped(void *arg, int64_t task, int thread)
{
    struct stoppable *job = arg;
    const atomic_int *stop = job->s->stop;
    if (stop && atomic_load_explicit(stop, memory_order_relaxed))
        atomic_store_explicit(&job->stopped, 1, memory_order_relaxed);
    else
        job->fn(job->arg, task, thread);
}

void nb_parallel(nb_stream *s, int64_t n_tasks, nb_task_fn *fn, void *arg)
{
    struct stoppable job = {.s = s, .fn = fn, .arg = arg};
    if (s->status != NB_OK) return;
    if (!s->pool && nb_pool_create(s->threads, &s->pool) != NB_OK) {
        nb_stream_fault(s, NB_E_SYSTEM, "%s", nb_error_message());
        return;
    }
    nb_pool_run(s->pool, n_tasks, run_unless_stopped, &job);
    if (job.stopped) nb_stream_fault(s, NB_E_STOPPED, "stopped before the end");
}
