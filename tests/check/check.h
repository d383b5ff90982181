/*
 * The check harness: every variant of every operation against its reference. It opens a CPU
 * with no capability, then adds one capability at a time; a function in the table of operations
 * that was not seen before is a variant, and is tested (or timed) in a process of its own, so
 * that a crash is a result and not the end. nb_check is this as a program; `nibble doctor` runs
 * it too.
 *
 * A variant fails when it differs from the reference by more than its tolerance, disagrees
 * about NaN or infinity, writes outside its output, changes an input, keeps scratch memory,
 * depends on the number of threads (1, 2, 7) or of rows, hangs or crashes.
 */
#ifndef NB_TESTS_CHECK_CHECK_H
#define NB_TESTS_CHECK_CHECK_H

typedef struct nb_check_options {
    const char *op; /* one operation ("attn"), NULL: all */
    int quick;      /* without outliers, zeros and gaps between rows: a quarter of the time */
    int bench;      /* time instead of test */
    int threads;    /* of a timing; 0: one for each processor, 1: by the thread's own clock */
    void (*print)(void *arg, const char *line); /* a line, without its end */
    void *arg;
} nb_check_options;

/* The number of variants that failed, -1 where there is no such operation. Forks: call it
 * before anything else has started threads. */
int nb_check_run(const nb_check_options *options);

#endif
