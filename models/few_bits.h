/*
 * Of what few-bit type a transformer's linear layers are, by names and types alone.
 */
#ifndef NB_MODELS_FEW_BITS_H
#define NB_MODELS_FEW_BITS_H

#include "models/checkpoint.h"

/* What most of its quantised matrices are, by bytes: "FP4", "FP8", "4-bit" (nunchaku's), "Q4_K"
 * ...; NULL if none is, as nb_linear_compute means it. Those that ask for exact inputs
 * (models/declared.h) do not count, for no policy rounds theirs; nor do other parts of a
 * pipeline in the same file. Names may be canonical or the file's own. */
const char *nb_few_bits_of(const nb_checkpoint *c);

#endif
