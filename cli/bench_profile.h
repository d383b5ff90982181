/*
 * Where the time goes: operations that are seen on a stream, summed for parts of a picture,
 * each beside its floor, which is what its arithmetic takes at the peak of registers or what
 * its bytes take at the rate of reading memory, whichever is longer, call by call.
 */
#ifndef NB_CLI_BENCH_PROFILE_H
#define NB_CLI_BENCH_PROFILE_H

#include "cli/bench.h"

typedef struct nb_bench_profile nb_bench_profile;

/* Watches `s` from now on; its operations are held against `roofs`. Both must outlive it. */
nb_status nb_bench_profile_create(nb_stream *s, const nb_bench_roofs *roofs, int n_parts,
                                  nb_bench_profile **out) NB_MUST_CHECK;
void nb_bench_profile_destroy(nb_bench_profile *p); /* and watches no longer */

/* All that was seen since the last call, and `spent`, belong to `part`, or to none (-1). */
void nb_bench_profile_take(nb_bench_profile *p, int part, nb_bench_time spent);

/* Adds the part's rows to `rows`: all of it, each kind of operations, and what is in none of
 * them. Sums are divided by `runs`. */
nb_status nb_bench_profile_add_rows(const nb_bench_profile *p, int part, const char *name,
                                    int runs, json_t *rows) NB_MUST_CHECK;

extern const nb_bench_column nb_bench_profile_columns[];
extern const int nb_bench_profile_n_columns;

#endif
