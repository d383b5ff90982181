/*
 * Which arithmetic a picture is computed in where nobody names one (--compute auto): the
 * fastest that the quality gate allows on the device at hand.
 *
 * The gate, which tests/e2e/demo_score.sh holds: of 200 pictures of the small model that plain
 * code judges, at most one percentage point fewer are right than with the weights as trained,
 * and the mean PSNR against the latter at F32 is 28 dB or more. Measured (the README's table,
 * tests/bench/quality.sh; as trained, 196 are right at f32 and at bf16):
 *
 *     weights                    bf16            a8              a4
 *     as trained (BF16)          60.8 dB, 196    as bf16         as bf16
 *     FP8                        50.8 dB, 196    50.6 dB, 196    as a8
 *     Q8_0                       59.0 dB, 196    56.7 dB, 196
 *     NVFP4, four-over-six       42.2 dB, 197    42.1 dB, 197
 *     Q4_0                       42.2 dB, 196    42.2 dB, 196
 *     MXFP4                      39.5 dB, 195    39.5 dB, 195
 *     NVFP4, sweep               39.4 dB, 196    39.3 dB, 196    38.4 dB, 196
 *
 * All pass, with the text encoders' weights rounded too (SVDQuant and GGUF's K types were not
 * drawn with); so speed decides, in this order:
 *
 *     a8     if linears of the transformer are of few bits, and the device has an instruction
 *            for products of 8-bit integers
 *     bf16   if the device has an instruction for products of BF16
 *     f32
 *
 * Measured by nb_check --bench linear, one thread of Zen 5, ms:
 *
 *     weights, 1280 rows, 12288x3072       f32    bf16    a8
 *     NVFP4, AVX-512, its BF16 and VNNI    462     230   143
 *     Q4_K, likewise                       449     227   151
 *     NVFP4, AVX-512 without them          462     471
 *     NVFP4, AVX2                          831     850   894
 *
 * so without the instruction neither is worth its rounding.
 *
 * One policy serves all components, and each weight decides what it means for itself
 * (nb_linear_compute): a T5 of few bits follows the transformer, one of BF16 stays at bf16. A
 * T5 alone decides nothing, since it runs once and the transformer once a step. a4 is emulated
 * on every device there is yet, slower than a8, so auto never takes it.
 */
#ifndef NB_PIPELINE_ARITHMETIC_H
#define NB_PIPELINE_ARITHMETIC_H

#include "kernels/base/stream.h"
#include "pipeline/pipeline.h"

typedef struct nb_arithmetic {
    nb_compute compute;
    char why[128]; /* a sentence without its stop; "" where the arithmetic was named */
} nb_arithmetic;

/* By the device and what the transformer's few-bit linears are ("FP4"; NULL: it has none). */
void nb_arithmetic_choose(const nb_device *device, const char *few_bits, nb_arithmetic *out);

/* The same for a pipeline; reads the header of its transformer. E_NOINPUT, E_DATA. */
nb_status nb_arithmetic_of(const nb_pipeline *p, const nb_device *device,
                           nb_arithmetic *out) NB_MUST_CHECK;

#endif
