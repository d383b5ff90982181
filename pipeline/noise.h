/*
 * torch.randn, bit for bit, for a generator that goes on from draw to draw as torch.Generator
 * does.
 *
 * CPU:  MT19937 seeded by the low 32 bits of the seed. n >= 16: 24-bit uniforms, Box-Muller in
 *       groups of 16 with the polynomials of torch's AVX2 kernel (x86-64 builds of torch;
 *       others use libm and differ in the last bit). n < 16: Box-Muller in F64, whose second
 *       value is kept for the next such draw.
 * CUDA: Philox4x32-10; values depend on n and on the number of multiprocessors. The device's
 *       fast sine differs from ours in the last bits.
 *
 * Values come out as F32, after rounding to the type that is asked for. One thread.
 */
#ifndef NB_PIPELINE_NOISE_H
#define NB_PIPELINE_NOISE_H

#include <stdint.h>

#include "kernels/base/rng.h"
#include "kernels/base/status.h"

typedef enum nb_rng_kind { NB_RNG_TORCH_CPU, NB_RNG_TORCH_CUDA, NB_RNG_COUNT } nb_rng_kind;

/* BF16 and F16 are the F32 values rounded (torch >= 2.12); BF16_8BIT is what torch <= 2.11 drew
 * for bfloat16 on the CPU: other values, from 8-bit uniforms. */
typedef enum nb_noise_dtype {
    NB_NOISE_DEFAULT, /* "as the checkpoint": resolved by nb_txt2img, not for nb_generator_randn
                       */
    NB_NOISE_F32,
    NB_NOISE_F16,
    NB_NOISE_BF16,
    NB_NOISE_BF16_8BIT,
    NB_NOISE_COUNT
} nb_noise_dtype;

const char *nb_rng_name(nb_rng_kind kind);           /* "torch-cpu" */
const char *nb_noise_name(nb_noise_dtype dtype);     /* "bf16-8bit" */
nb_rng_kind nb_rng_from_name(const char *name);      /* NB_RNG_COUNT: no such name */
nb_noise_dtype nb_noise_from_name(const char *name); /* NB_NOISE_COUNT: no such name */

/* The device whose values are wanted, by default: an H100 (SXM) or H200. */
enum { NB_RNG_DEFAULT_SMS = 132, NB_RNG_DEFAULT_SM_THREADS = 2048, NB_RNG_MAX_SMS = 65536 };

typedef struct nb_generator {
    nb_rng_kind kind;
    nb_mt19937 mt;
    int has_next; /* CPU: a second value of a draw of fewer than 16 waits in `next` */
    double next;
    uint64_t seed, offset; /* CUDA */
    int sms;               /* CUDA: multiprocessors of that device, and ... */
    int sm_threads; /* ... the most threads that one holds: 2048, or 1536 on sm_86, sm_89 */
} nb_generator;

/* A negative seed is its two's complement, as torch.Generator.manual_seed takes it. Of CUDA,
 * the default device; set sms and sm_threads afterwards for another. */
void nb_generator_init(nb_generator *g, nb_rng_kind kind, uint64_t seed);

/* out [n] = torch.randn(n, dtype). BF16_8BIT wants n to be a multiple of 16 and the CPU's kind:
 * E_USAGE otherwise. */
nb_status nb_generator_randn(nb_generator *g, nb_noise_dtype dtype, float *out,
                             int64_t n) NB_MUST_CHECK;

#endif
