/* The pool runs every task once, whatever the numbers of threads and tasks, job after job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/pool.h"

enum { MOST_TASKS = 1000, MOST_THREADS = 7 };

struct count {
    atomic_int runs[MOST_TASKS];
    int64_t n_tasks;
    int n_threads;
    atomic_int wrong;
};

static void count_task(void *arg, int64_t task, int thread)
{
    struct count *c = arg;
    if (task < 0 || task >= c->n_tasks || thread < 0 || thread >= c->n_threads)
        atomic_fetch_add(&c->wrong, 1);
    else
        atomic_fetch_add(&c->runs[task], 1);
}

static void run_and_check(nb_pool *pool, int n_threads, int64_t n_tasks)
{
    static struct count c;
    c.n_tasks = n_tasks;
    c.n_threads = n_threads;
    atomic_store(&c.wrong, 0);
    for (int i = 0; i < MOST_TASKS; i++) atomic_store(&c.runs[i], 0);
    nb_pool_run(pool, n_tasks, count_task, &c);
    assert_int_equal(c.wrong, 0);
    for (int i = 0; i < MOST_TASKS; i++) assert_int_equal(c.runs[i], i < n_tasks);
}

static void test_every_task_once(void **state)
{
    static const int64_t tasks[] = {0, 1, 2, 6, 7, 8, MOST_TASKS};
    (void)state;
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        nb_pool *pool;
        assert_int_equal(nb_pool_create(threads, &pool), NB_OK);
        for (int round = 0; round < 50; round++)
            for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
                run_and_check(pool, threads, tasks[i]);
        nb_pool_destroy(pool);
    }
}

static void test_unused(void **state)
{
    nb_pool *pool;
    (void)state;
    assert_int_equal(nb_pool_create(MOST_THREADS, &pool), NB_OK);
    nb_pool_destroy(pool);
    nb_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_task_once),
                                       cmocka_unit_test(test_unused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
