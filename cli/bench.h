/*
 * Inside nibble bench: what its flags say, how times are taken, and how results are told.
 */
#ifndef NB_CLI_BENCH_H
#define NB_CLI_BENCH_H

#include "cli/common.h"
#include "kernels/ops.h"
#include "kernels/roof.h"
#include "models/quant_target.h"

enum { NB_BENCH_MAX_RUNS = 1000 };

typedef enum nb_bench_format {
    NB_BENCH_MD,
    NB_BENCH_CSV,
    NB_BENCH_JSON,
} nb_bench_format;

struct bench_options {
    nb_common_options common;
    int64_t size[2]; /* width, height */
    int arch;        /* 0: flux-schnell, 1: flux-dev */
    int weights;     /* 0: auto, else 1 + a place in nb_bench_formats */
    int text_weights;
    int format;                                      /* nb_bench_format */
    int64_t steps, tokens, n_double, n_single, runs; /* 0: what is usual */
    const char *parts, *keep;
    int profile;
};

/* The words of --weights behind the first, in its order. */
enum { NB_BENCH_N_FORMATS = 5 };
extern const nb_quant_format nb_bench_formats[NB_BENCH_N_FORMATS];
const char *nb_bench_format_name(nb_quant_format format);

/* ---- time ---- */

/* Of the clock on the wall, and of all processors' work for this process. */
typedef struct nb_bench_time {
    double wall, cpu; /* seconds */
} nb_bench_time;

nb_bench_time nb_bench_now(void);
nb_bench_time nb_bench_since(nb_bench_time then);

/* Times of several runs of one thing. */
typedef struct nb_bench_times {
    nb_bench_time runs[NB_BENCH_MAX_RUNS];
    int n;
} nb_bench_times;

void nb_bench_add(nb_bench_times *times, nb_bench_time time); /* beyond the most: dropped */

typedef struct nb_bench_stats {
    double median, spread, least, most; /* seconds; spread: half of the range */
    double cpu;                         /* median of the processors' time */
} nb_bench_stats;

nb_bench_stats nb_bench_stats_of(const nb_bench_times *times); /* n > 0 */

/* ---- roofs ---- */

/* Work a second; 0 where the instructions are missing or the roof was not asked for. */
typedef struct nb_bench_roofs {
    double one[NB_ROOF_COUNT], all[NB_ROOF_COUNT]; /* of one thread, of all of the stream */
    const char *instructions[NB_ROOF_COUNT];
} nb_bench_roofs;

/* Measures those of `which` (bits 1 << nb_roof). Takes a tenth of a second each, READ more. */
nb_status nb_bench_measure_roofs(nb_stream *s, unsigned which,
                                 nb_bench_roofs *out) NB_MUST_CHECK;

/* Reads so much of what is 64-byte aligned (but for a rest of less than a KB) by all threads of
 * the stream at once: bytes a second; 0: this processor has no loop for it. */
double nb_bench_read(nb_stream *s, const void *data, int64_t bytes);

/* ---- tables ---- */

/* A column of a table of results. What a row does not have is left empty. */
typedef struct nb_bench_column {
    const char *key, *title; /* of JSON and CSV, of the table for people */
    int digits;              /* behind the point */
} nb_bench_column;

/* What is told: `about` (an object: processor, threads ...) and `rows` (an array of objects
 * with the columns' keys, and maybe more, which JSON alone shows). */
typedef struct nb_bench_report {
    json_t *about, *rows;
    const nb_bench_column *columns;
    int n_columns;
    const char *note; /* a sentence under the table for people, or NULL */
} nb_bench_report;

/* Zeros out; then about has what all subjects say. E_SYSTEM. */
nb_status nb_bench_report_init(nb_bench_report *report, const nb_stream *s,
                               const nb_bench_roofs *roofs) NB_MUST_CHECK;
void nb_bench_report_fini(nb_bench_report *report);

/* Adds seconds, spread, least, most and cpu_seconds to a row. */
void nb_bench_set_stats(json_t *row, const nb_bench_stats *stats);

nb_status nb_bench_print(const nb_bench_report *report, nb_bench_format format) NB_MUST_CHECK;

/* ---- subjects ---- */

nb_status nb_bench_image(const struct bench_options *o) NB_MUST_CHECK;

typedef enum nb_bench_kernel {
    NB_BENCH_GEMM,
    NB_BENCH_GEMV,
    NB_BENCH_ATTN,
    NB_BENCH_CONV,
} nb_bench_kernel;

nb_status nb_bench_kernels(const struct bench_options *o, nb_bench_kernel kernel) NB_MUST_CHECK;

#endif
