/*
 * The loops of kernels/roof.h. An accumulator waits for itself alone, and there are more of
 * them than an instruction's latency times what starts at once, so what bounds the loop is how
 * many start in a clock.
 */
#ifndef NB_KERNELS_CPU_ROOF_H
#define NB_KERNELS_CPU_ROOF_H

#include "kernels/roof.h"

extern const nb_roof_loop nb_roof_f32_avx2, nb_roof_read_avx2;
extern const nb_roof_loop nb_roof_f32_avx512, nb_roof_read_avx512;
extern const nb_roof_loop nb_roof_bf16_avx512bf16, nb_roof_int8_avx512vnni;

enum { NB_ROOF_READ_BYTES = 1024 }; /* of a round */

/* The value is computed, whatever becomes of it. */
#define NB_ROOF_KEEP(x) __asm__ volatile("" : : "v"(x))

#endif
