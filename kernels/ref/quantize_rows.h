/*
 * For the quantisers: rows of a weight as F32, quickly for the types that checkpoints are
 * quantised from, and largest magnitudes. Loops are over blocks of a fixed length, so that the
 * compiler makes vectors of them without being told an instruction set.
 */
#ifndef NB_KERNELS_REF_QUANTIZE_ROWS_H
#define NB_KERNELS_REF_QUANTIZE_ROWS_H

#include "kernels/base/stream.h"
#include "kernels/weight.h"

enum { NB_QUANTIZE_LANES = 16 };

/* The bits of a magnitude order as the magnitudes do, NaN last. */
static inline uint32_t nb_magnitude_bits(float value)
{
    return nb_f32_bits(value) & 0x7fffffffu;
}

/* The largest magnitude of 16 values; NaN and infinity win. */
static inline float nb_amax16(const float *values)
{
    int32_t most[4] = {0, 0, 0, 0};
    for (int i = 0; i < NB_QUANTIZE_LANES; i += 4)
        for (int j = 0; j < 4; j++) {
            int32_t bits = (int32_t)nb_magnitude_bits(values[i + j]);
            most[j] = bits > most[j] ? bits : most[j];
        }
    int32_t a = most[0] > most[1] ? most[0] : most[1];
    int32_t b = most[2] > most[3] ? most[2] : most[3];
    return nb_f32_from_bits((uint32_t)(a > b ? a : b));
}

/* Elements k0 ... k0+count of a row. */
void nb_quantize_decode(const nb_weight *w, int64_t row, int64_t k0, int64_t count, float *out);

/* Scratch for a row per thread: F32 [threads, k]. */
float *nb_quantize_scratch(nb_stream *s, const nb_weight *w);

#endif
