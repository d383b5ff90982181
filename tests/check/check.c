#define _GNU_SOURCE
#include "tests/check/check.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/base/cpu.h"
#include "tests/check/run.h"

/* One line for each operation. */
extern const nb_check_op nb_check_linear, nb_check_linear_branch, nb_check_conv2d,
    nb_check_attn, nb_check_layer_norm, nb_check_rms_norm, nb_check_group_norm, nb_check_rope,
    nb_check_chw_to_rows, nb_check_rows_to_chw, nb_check_embed, nb_check_axpy, nb_check_blend,
    nb_check_silu, nb_check_add, nb_check_copy;
static const nb_check_op *const ops[] = {
    &nb_check_linear,      &nb_check_linear_branch, &nb_check_conv2d,     &nb_check_attn,
    &nb_check_layer_norm,  &nb_check_rms_norm,      &nb_check_group_norm, &nb_check_rope,
    &nb_check_chw_to_rows, &nb_check_rows_to_chw,   &nb_check_embed,      &nb_check_axpy,
    &nb_check_blend,       &nb_check_silu,          &nb_check_add,        &nb_check_copy,
};

enum { MAX_RUNGS = NB_CPU_N_CAPS + 1, TIME_LIMIT_S = 240 };

/* What the process that tests a variant tells; shared memory, so that a crash keeps it. */
struct verdict {
    int n_cases, failed;
    struct setup setup; /* of the case that runs */
    char message[MAX_TEXT];
};

struct session {
    const nb_check_options *options;
    nb_device *rungs[MAX_RUNGS]; /* rungs[0]: the references */
    int n_rungs;
    struct verdict *verdict;
    int n_passed, n_failed, n_skipped;
};

static void say(const struct session *s, const char *format, ...) NB_PRINTF(2, 3);

static void say(const struct session *s, const char *format, ...)
{
    char line[2 * MAX_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    s->options->print(s->options->arg, line);
}

static int is_hard(input_kind kind)
{
    return kind == EXTREMES || kind == ZEROS || kind == NONFINITE;
}

/* The case again in another way, which must change nothing. */
static int check_again(struct setup setup, const nb_device *device, const nb_check *first,
                       char *message)
{
    nb_check c = {.setup = setup};
    int failed = nb_check_execute(&c, device, message) || nb_check_undamaged(&c, message) ||
                 nb_check_equal(&c, first, message);
    nb_check_free(&c);
    return failed;
}

static int check_case(struct verdict *v, const nb_device *reference, const nb_device *device)
{
    struct setup setup = v->setup;
    nb_check expected = {.setup = setup}, c = {.setup = setup};
    int failed = nb_check_execute(&expected, reference, v->message) ||
                 nb_check_execute(&c, device, v->message) ||
                 nb_check_undamaged(&c, v->message) ||
                 nb_check_close(&c, &expected, v->message);
    for (int i = 0; !failed && !is_hard(setup.kind) && i < 2; i++) {
        v->setup.threads = i ? 7 : 2;
        failed = check_again(v->setup, device, &c, v->message);
    }
    if (!failed) v->setup.threads = 1;
    for (int i = 1; !failed && c.has_rows && i <= 2; i++) {
        v->setup.subset = i;
        failed = check_again(v->setup, device, &c, v->message);
    }
    nb_check_free(&expected);
    nb_check_free(&c);
    return failed;
}

/* All shapes, with all kinds of input, dense and with gaps. */
static void check_variant(struct verdict *v, const nb_check_op *op, nb_compute compute,
                          int quick, const nb_device *reference, const nb_device *device)
{
    for (int shape = 0; shape < op->n_shapes; shape++)
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int strided = 0; strided < (quick || is_hard((input_kind)kind) ? 1 : 2);
                 strided++) {
                if (kind == NONFINITE && shape >= op->n_nonfinite) continue;
                if (quick && (kind == OUTLIERS || kind == ZEROS)) continue;
                v->setup = (struct setup){.op = op,
                                          .compute = compute,
                                          .shape = shape,
                                          .kind = (input_kind)kind,
                                          .strided = strided,
                                          .threads = 1};
                v->failed = check_case(v, reference, device);
                if (v->failed) return;
                v->n_cases++;
            }
}

/* Fills in which case it was that failed, with the shapes of its tensors. */
static void describe_case(struct verdict *v, const nb_device *reference)
{
    nb_check c = {.setup = v->setup};
    char message[MAX_TEXT];
    c.setup.subset = 0;
    (void)nb_check_execute(&c, reference, message);
    memcpy(message, v->message, sizeof message);
    snprintf(v->message, MAX_TEXT, "%.140s: %.250s", c.shapes, message);
    nb_check_free(&c);
}

static void time_variant(const struct session *s, const nb_check_op *op, nb_compute compute,
                         const nb_device *device, const char *label)
{
    for (int shape = op->n_shapes; shape < op->n_shapes + op->n_bench; shape++) {
        struct setup setup = {
            .op = op, .compute = compute, .shape = shape, .threads = s->options->threads};
        char line[MAX_TEXT];
        (void)nb_check_time(&setup, device, label, line);
        say(s, "%s", line);
    }
}

/* Tests or times a variant in a process of its own; what happened is in s->verdict. */
static void fork_variant(const struct session *s, const nb_check_op *op, nb_compute compute,
                         const nb_device *device, const char *label)
{
    struct verdict *v = s->verdict;
    int status = 0;
    memset(v, 0, sizeof *v);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(TIME_LIMIT_S);
        if (s->options->bench)
            time_variant(s, op, compute, device, label);
        else
            check_variant(v, op, compute, s->options->quick, s->rungs[0], device);
        if (v->failed) describe_case(v, s->rungs[0]);
        fflush(NULL);
        _exit(0);
    }
    if (pid > 0 && waitpid(pid, &status, 0) == pid && status == 0) return;
    v->failed = 1;
    int number = pid > 0 && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    snprintf(v->message, MAX_TEXT, "%s",
             number == SIGALRM ? "hangs"
             : number          ? strsignal(number)
                               : "ended early");
}

static void report(struct session *s, const char *label)
{
    static const char *const kinds[] = {"normal", "outliers", "extremes", "zeros", "nonfinite"};
    const struct verdict *v = s->verdict;
    const struct setup *u = &v->setup;
    *(v->failed ? &s->n_failed : &s->n_passed) += 1;
    if (v->failed)
        say(s, "%s FAILED at shape %d, %s%s, %d thread%s%s: %s", label, u->shape,
            kinds[u->kind], u->strided ? ", gaps between rows" : "", u->threads,
            u->threads > 1 ? "s" : "", u->subset ? ", last rows alone" : "", v->message);
    else if (!s->options->bench)
        say(s, "%s ok (%d cases)", label, v->n_cases);
}

/* Attention and convolution are those of BF16 where linears are of fewer bits. */
static int is_of_lower_policy(const nb_device *device, const nb_check_op *op,
                              nb_compute compute, nb_any_fn fn)
{
    return compute > NB_COMPUTE_BF16 &&
           fn == nb_ops_find(nb_device_ops(device), op->name, NB_COMPUTE_BF16);
}

/* Climbs the ladder; functions already seen on a lower rung are not tested again. */
static void check_op(struct session *s, const nb_check_op *op)
{
    const struct nb_ops *reference = nb_device_ops(s->rungs[0]);
    int by_compute = nb_ops_find(reference, op->name, NB_COMPUTE_F32) !=
                     nb_ops_find(reference, op->name, NB_COMPUTE_BF16);
    for (int i = 0; i < (by_compute ? NB_COMPUTE_COUNT : 1); i++) {
        nb_compute compute = (nb_compute)i;
        nb_any_fn seen = NULL;
        for (int rung = 0; rung < s->n_rungs; rung++) {
            const nb_device *device = s->rungs[rung];
            nb_any_fn fn = nb_ops_find(nb_device_ops(device), op->name, compute);
            char label[64];
            if (fn == seen || is_of_lower_policy(device, op, compute, fn)) continue;
            seen = fn;
            snprintf(label, sizeof label, "%s%s%s %s", op->name, by_compute ? " " : "",
                     by_compute ? nb_compute_name(compute) : "",
                     nb_ops_variant_name(device, op->name, compute));
            fork_variant(s, op, compute, device, label);
            report(s, label);
        }
    }
}

static int open_rungs(struct session *s)
{
    unsigned caps = 0;
    for (int i = 0; i <= NB_CPU_N_CAPS; i++) {
        unsigned cap = i ? 1u << (i - 1) : 0;
        if (cap && !(nb_cpu_caps() & cap)) {
            say(s, "SKIP %s: this processor has none", nb_cpu_cap_name(i - 1));
            s->n_skipped++;
            continue;
        }
        caps |= cap;
        if (nb_device_open_cpu(caps, &s->rungs[s->n_rungs])) return -1;
        s->n_rungs++;
    }
    return 0;
}

int nb_check_run(const nb_check_options *options)
{
    struct session s = {.options = options};
    int n_found = 0;
    s.verdict = mmap(NULL, sizeof *s.verdict, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s.verdict == MAP_FAILED || open_rungs(&s)) {
        say(&s, "out of memory");
        return 1;
    }
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (options->op && strcmp(options->op, ops[i]->name) != 0) continue;
        n_found++;
        check_op(&s, ops[i]);
    }
    if (n_found && !options->bench)
        say(&s, "%d passed, %d failed, %d skipped", s.n_passed, s.n_failed, s.n_skipped);
    for (int i = 0; i < s.n_rungs; i++) nb_device_close(s.rungs[i]);
    munmap(s.verdict, sizeof *s.verdict);
    return n_found ? s.n_failed : -1;
}
