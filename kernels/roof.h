/*
 * Roofs: what the processor at hand can do at most, by loops that do nothing else. What an
 * operation reaches is told beside the roof that it runs under.
 *
 *     F32    multiply-adds of F32 in registers
 *     BF16   pairs of BF16 multiplied and added into F32 (vdpbf16ps)
 *     INT8   fours of 8-bit integers multiplied and added into 32 bits (vpdpbusd)
 *     READ   bytes read, from memory or a cache, by how large the data is
 *
 * A loop runs in the caller's thread; the roof of several processors is the sum of a loop in
 * each. Time is the caller's to take.
 */
#ifndef NB_KERNELS_ROOF_H
#define NB_KERNELS_ROOF_H

#include "kernels/base/stream.h"

typedef enum nb_roof {
    NB_ROOF_F32,
    NB_ROOF_BF16,
    NB_ROOF_INT8,
    NB_ROOF_READ,
    NB_ROOF_COUNT
} nb_roof;

const char *nb_roof_name(nb_roof roof); /* "f32", "bf16", "int8", "read" */

typedef struct nb_roof_loop {
    const char *instruction; /* "vdpbf16ps" */
    double work; /* of a round: operations, two for a product with its sum; READ: bytes */
    /* `rounds` of it. READ: data holds rounds * work bytes, 64-byte aligned; else unused. */
    void (*run)(const void *data, int64_t rounds);
} nb_roof_loop;

/* The fastest loop that `caps` (bits of nb_cpu_cap) allow; NULL: these instructions are not
 * there. */
const nb_roof_loop *nb_roof_find(nb_roof roof, unsigned caps);

/* The roof of products at a policy on a device with `caps`: of the policy's own instruction, or
 * of F32 where that is missing (or emulated: a4). nb_linear_compute() tells a linear's policy;
 * attention and convolutions have BF16 at most. */
nb_roof nb_roof_of_compute(nb_compute compute, unsigned caps);

#endif
