/*
 * A pool of threads that share the tasks of one job at a time. The caller works as thread 0.
 * Waiting threads spin for some microseconds, so that back-to-back jobs start at once, and then
 * sleep: on a busy machine a spinning thread would take the processor from the one it waits
 * for.
 */
#ifndef NB_KERNELS_BASE_POOL_H
#define NB_KERNELS_BASE_POOL_H

#include <stdint.h>

#include "kernels/base/status.h"

typedef struct nb_pool nb_pool;

/* n_threads counts the caller. Workers that the system refuses to start are done without. */
nb_status nb_pool_create(int n_threads, nb_pool **out) NB_MUST_CHECK;
void nb_pool_destroy(nb_pool *p);

/* Runs fn(arg, task, thread) once for every task in 0 ... n_tasks-1, 0 <= thread < n_threads,
 * and returns when all are done. Which thread runs which task is not fixed. One job at a time,
 * and not from within a task. */
typedef void nb_task_fn(void *arg, int64_t task, int thread);
void nb_pool_run(nb_pool *p, int64_t n_tasks, nb_task_fn *fn, void *arg);

#endif
