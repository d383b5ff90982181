/*
 * A stream: the order in which operations run on a device, with what they need while they run:
 * scratch memory, a number of threads, the compute policy, and a flag that stops them.
 *
 * Operations return void. A fault (no memory for scratch, a device error, the stop flag) sticks
 * to the stream: later operations do nothing, and nb_stream_sync() hands the status out.
 * Results are complete only after a successful nb_stream_sync().
 */
#ifndef NB_KERNELS_BASE_STREAM_H
#define NB_KERNELS_BASE_STREAM_H

#include <stdatomic.h>

#include "kernels/base/device.h"
#include "kernels/base/pool.h"
#include "kernels/base/tensor.h"

/* How linears, attention and convolutions compute; everything else is F32 always.
 * F32:  every value F32.
 * BF16: inputs of products are rounded to BF16 (nearest even), sums are F32.
 * A8:   linears of quantised weights multiply 8-bit integers (kernels/a8.h); the rest as BF16.
 * A4:   linears of 4-bit weights round x to NVFP4 (kernels/a4.h); those of other quantised
 *       weights are as A8, the rest as BF16. */
typedef enum nb_compute {
    NB_COMPUTE_F32,
    NB_COMPUTE_BF16,
    NB_COMPUTE_A8,
    NB_COMPUTE_A4,
    NB_COMPUTE_COUNT
} nb_compute;

const char *nb_compute_name(nb_compute compute); /* "f32" */

struct nb_observer;

typedef struct nb_stream {
    const nb_device *device;
    nb_arena *arena; /* the job's memory and the operations' scratch */
    nb_compute compute;
    int threads;            /* at least 1 */
    nb_pool *pool;          /* of so many threads, started with the first parallel operation */
    const atomic_int *stop; /* NULL, or nonzero asks to stop: E_STOPPED */
    nb_status status;       /* the first fault, sticky */
    char message[512];      /* its sentence: faults may happen in another thread */
    const struct nb_observer *observer; /* kernels/observe.h; NULL: nobody looks on */
} nb_stream;

/* threads <= 0: one for each processor. The device and `stop` must outlive the stream. */
nb_status nb_stream_create(const nb_device *device, nb_compute compute, int threads,
                           const atomic_int *stop, nb_stream **out) NB_MUST_CHECK;
void nb_stream_destroy(nb_stream *s);

/* Waits for all that was asked for; the first fault since creation, with its sentence. */
nb_status nb_stream_sync(nb_stream *s) NB_MUST_CHECK;

/* Makes a fault stick (the first one wins). */
void nb_stream_fault(nb_stream *s, nb_status status, const char *format, ...) NB_PRINTF(3, 4);

/* A dense tensor of the stream's device out of its arena, uninitialised, valid until the arena
 * is rewound. On shortage the stream faults and the tensor's data is NULL: operations on it are
 * not run because the stream has faulted. */
nb_tensor nb_stream_tensor(nb_stream *s, nb_dtype dtype, int rank, const int64_t *shape);

/* Copies a dense host array into a dense tensor, or a dense tensor into a host array; the host
 * side may be reused when the call returns. Between host and host it is a plain copy. */
void nb_stream_upload(nb_stream *s, nb_tensor to, const void *from);
void nb_stream_download(nb_stream *s, void *to, nb_tensor from);

#define NB_SHAPE(...) ((const int64_t[]){__VA_ARGS__})

/* Runs fn(arg, task, thread) for task = 0 .. n_tasks-1, each once, on up to s->threads threads;
 * 0 <= thread < s->threads. Which thread runs which task is not fixed, so a task's result must
 * not depend on it: that is what makes results independent of the number of threads. Stops
 * early, with E_STOPPED, when the stop flag is up. CPU only. */
void nb_parallel(nb_stream *s, int64_t n_tasks, nb_task_fn *fn, void *arg);

#endif
