#include "pipeline/arithmetic.h"

#include <stdio.h>

#include "kernels/roof.h"
#include "models/few_bits.h"

/* Does the device have an instruction of its own for the policy's products? */
static int is_native(const nb_device *device, nb_compute compute)
{
    return nb_roof_of_compute(compute, nb_device_caps(device)) != NB_ROOF_F32;
}

void nb_arithmetic_choose(const nb_device *device, const char *few_bits, nb_arithmetic *out)
{
    int has_int8 = is_native(device, NB_COMPUTE_A8),
        has_bf16 = is_native(device, NB_COMPUTE_BF16);
    out->compute = few_bits && has_int8 ? NB_COMPUTE_A8
                   : has_bf16           ? NB_COMPUTE_BF16
                                        : NB_COMPUTE_F32;
    if (out->compute == NB_COMPUTE_A8)
        snprintf(
            out->why, sizeof out->why,
            "the transformer's weights are %s, and this processor multiplies 8-bit integers "
            "fastest",
            few_bits);
    else if (out->compute == NB_COMPUTE_F32)
        snprintf(out->why, sizeof out->why,
                 "this processor has no instruction for products of BF16");
    else if (few_bits)
        snprintf(out->why, sizeof out->why,
                 "this processor has no instruction for products of 8-bit integers");
    else
        snprintf(out->why, sizeof out->why,
                 "the transformer has no weights of FP8 or fewer bits");
}

nb_status nb_arithmetic_of(const nb_pipeline *p, const nb_device *device, nb_arithmetic *out)
{
    nb_checkpoint *c;
    NB_TRY(nb_checkpoint_open(nb_pipeline_weights(p, NB_PART_FLUX), &c));
    nb_arithmetic_choose(device, nb_few_bits_of(c), out);
    nb_checkpoint_close(c);
    return NB_OK;
}
