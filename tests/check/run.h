/* Inside the harness: one run of one case, and what it left in memory. */
#ifndef NB_TESTS_CHECK_RUN_H
#define NB_TESTS_CHECK_RUN_H

#include <stddef.h>

#include "tests/check/op.h"

typedef enum input_kind { NORMAL, OUTLIERS, EXTREMES, ZEROS, NONFINITE, N_KINDS } input_kind;

typedef enum tensor_role { IN, OUT, INOUT } tensor_role;

enum { MAX_TENSORS = 16, MAX_TEXT = 400 };

/* A tensor in a mapping of its own: `bytes` at `base`, then a page that cannot be touched. */
struct entry {
    nb_tensor t;
    tensor_role role;
    int sliced;                   /* only its last rows were computed */
    unsigned char *base, *before; /* `before`: what base held when the operation began */
    size_t bytes, mapped;
};

/* What varies between the runs of an operation. */
struct setup {
    const nb_check_op *op;
    nb_compute compute;
    int shape;
    input_kind kind;
    int strided, threads;
    int subset; /* 0: all rows; 1, 2: the last two thirds, the last one */
};

struct nb_check {
    struct setup setup;
    nb_stream *stream;
    struct entry tensors[MAX_TENSORS];
    int n_tensors;
    int reuse; /* a timing: tensors stay from run to run */
    int has_rows;
    int64_t first_row;
    double flops;
    char shapes[MAX_TEXT];
};

/* Runs the operation once on `device`; tensors and stream stay until nb_check_free(). All that
 * return an int return 0, or -1 with a sentence in `message` [MAX_TEXT]. */
int nb_check_execute(nb_check *c, const nb_device *device, char *message);
void nb_check_free(nb_check *c);

/* Rows (of the last dimension) of a tensor, and where one begins, in elements. */
int64_t nb_check_n_rows(const nb_tensor *t);
int64_t nb_check_row_at(const nb_tensor *t, int64_t row);

/* Changed inputs, writes between rows and around tensors. */
int nb_check_undamaged(const nb_check *c, char *message);

/* Outputs of `c` against those of `expected`: within the operation's tolerance, or equal to the
 * bit in the rows that `c` computed. */
int nb_check_close(const nb_check *c, const nb_check *expected, char *message);
int nb_check_equal(const nb_check *c, const nb_check *expected, char *message);

/* Times a shape; a line about it into `line` [MAX_TEXT]. */
int nb_check_time(const struct setup *setup, const nb_device *device, const char *label,
                  char *line);

#endif
