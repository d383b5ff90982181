/*
 * Everything worth comparing of a run, in one safetensors file:
 *     prompt_embeds [1, S_t, D]     pooled_prompt_embeds [1, P]      sigmas [N+1]
 *     noise [B, C, h, w]            latents.0 ... latents.N [B, S_i, 4C], velocity.i likewise
 *     image [B, 3, H, W], 0 .. 1
 * All F32; B pictures along the first axis, each filling in its slice.
 */
#ifndef NB_PIPELINE_DUMP_H
#define NB_PIPELINE_DUMP_H

#include <stdint.h>

#include "kernels/base/status.h"

typedef struct nb_dump nb_dump;

nb_status nb_dump_create(nb_dump **out) NB_MUST_CHECK;
void nb_dump_destroy(nb_dump *d);

/* Storage of a tensor, zeroed: made by the first call of its name, found by later ones. */
nb_status nb_dump_tensor(nb_dump *d, const char *name, int rank, const int64_t *shape,
                         float **out) NB_MUST_CHECK;

nb_status nb_dump_write(const nb_dump *d, const char *path) NB_MUST_CHECK;

#endif
