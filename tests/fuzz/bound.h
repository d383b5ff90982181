/* For fuzzing: everything of a checkpoint bound, and every value of it read. */
#ifndef NB_TESTS_FUZZ_BOUND_H
#define NB_TESTS_FUZZ_BOUND_H

#include "kernels/base/stream.h"
#include "models/bind.h"
#include "models/checkpoint.h"

/* Aborts unless the condition holds. */
void must(int condition);

/* Failed with that code and a sentence that begins with `file`, or not at all. */
int refused(nb_status status, const char *file);

/* One for the whole run. */
nb_stream *fuzz_stream(void);

/* Every element, scale and branch. */
void read_weight(const nb_weight *w);

/* All that is called X.weight as layers, with what is beside it: read, and multiplied by. */
void read_layers(const nb_checkpoint *c);

#endif
