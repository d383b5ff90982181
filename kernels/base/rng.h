/*
 * Random number engines, bit for bit: MT19937 (Matsumoto and Nishimura 1998) and Philox4x32-10
 * (Salmon et al. 2011). Distributions that must equal torch's live in pipeline/noise.h.
 */
#ifndef NB_KERNELS_BASE_RNG_H
#define NB_KERNELS_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_mt19937 {
    uint32_t state[624];
    int next; /* 624: regenerate before the next draw */
} nb_mt19937;

void nb_mt19937_init(nb_mt19937 *g, uint32_t seed);
uint32_t nb_mt19937_next(nb_mt19937 *g);

/* Ten rounds on a 128-bit counter with a 64-bit key. */
void nb_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#ifdef __cplusplus
}
#endif
#endif
