#include "kernels/base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* About 20 microseconds: longer than the pause between two operations, much shorter than a
 * scheduler's time slice. */
enum { SPINS = 2000 };

struct job {
    nb_task_fn *fn;
    void *arg;
    int64_t n_tasks;
};

struct worker {
    nb_pool *pool;
    pthread_t thread;
    int index; /* from 1; the caller is 0 */
};

struct nb_pool {
    pthread_mutex_t lock;
    pthread_cond_t started, finished;
    struct job job;            /* written under the lock, before `round` goes up */
    atomic_uint round;         /* counts jobs; workers wait for it to change */
    atomic_int_least64_t next; /* the next task to take */
    atomic_int inside;         /* workers that are at the job; changed under the lock */
    int open; /* may workers still join the job? Late ones are not waited for */
    int quit;
    int n_workers;
    struct worker workers[];
};

/* Tells the processor that a thread only waits. */
#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

static void take_tasks(nb_pool *p, int thread)
{
    const struct job *job = &p->job;
    int64_t task;
    while ((task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < job->n_tasks)
        job->fn(job->arg, task, thread);
}

/* Waits for a job that is newer than round `seen` and joins it; 0 when the pool ends. */
static int join_round(nb_pool *p, unsigned *seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->round, memory_order_relaxed) != *seen) break;
        RELAX();
    }
    pthread_mutex_lock(&p->lock);
    while (!p->quit && !(p->open && atomic_load(&p->round) != *seen))
        pthread_cond_wait(&p->started, &p->lock);
    int quit = p->quit;
    *seen = atomic_load(&p->round);
    if (!quit) atomic_fetch_add(&p->inside, 1);
    pthread_mutex_unlock(&p->lock);
    return !quit;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    nb_pool *p = w->pool;
    unsigned seen = 0;
    while (join_round(p, &seen)) {
        take_tasks(p, w->index);
        pthread_mutex_lock(&p->lock);
        if (atomic_fetch_sub(&p->inside, 1) == 1) pthread_cond_signal(&p->finished);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

nb_status nb_pool_create(int n_threads, nb_pool **out)
{
    size_t bytes = sizeof(nb_pool) + (size_t)n_threads * sizeof(struct worker);
    nb_pool *p = calloc(1, bytes);
    if (!p) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", bytes);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->started, NULL);
    pthread_cond_init(&p->finished, NULL);
    for (int i = 0; i < n_threads - 1; i++) {
        struct worker *w = &p->workers[i];
        *w = (struct worker){.pool = p, .index = i + 1};
        if (pthread_create(&w->thread, NULL, work, w) != 0) break;
        p->n_workers++;
    }
    *out = p;
    return NB_OK;
}

void nb_pool_destroy(nb_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->quit = 1;
    pthread_cond_broadcast(&p->started);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_workers; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->started);
    pthread_cond_destroy(&p->finished);
    free(p);
}

/* No task is left: closes the job and waits for the workers that are still at one. */
static void close_round(nb_pool *p)
{
    for (int i = 0; i < SPINS && atomic_load(&p->inside) > 0; i++) RELAX();
    pthread_mutex_lock(&p->lock);
    p->open = 0;
    while (atomic_load(&p->inside) > 0) pthread_cond_wait(&p->finished, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void nb_pool_run(nb_pool *p, int64_t n_tasks, nb_task_fn *fn, void *arg)
{
    if (n_tasks <= 1 || p->n_workers == 0) {
        for (int64_t task = 0; task < n_tasks; task++) fn(arg, task, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->job = (struct job){.fn = fn, .arg = arg, .n_tasks = n_tasks};
    atomic_store(&p->next, 0);
    atomic_fetch_add(&p->round, 1);
    p->open = 1;
    pthread_cond_broadcast(&p->started);
    pthread_mutex_unlock(&p->lock);
    take_tasks(p, 0);
    close_round(p);
}
