/* The CPU's variants, named operation_policy_instructions. */
#ifndef NB_KERNELS_CPU_CPU_OPS_H
#define NB_KERNELS_CPU_CPU_OPS_H

#include "kernels/ops.h"

nb_attn_fn nb_attn_f32_avx512, nb_attn_bf16_avx512, nb_attn_bf16_avx512bf16;

nb_linear_fn nb_linear_f32_avx512, nb_linear_bf16_avx512, nb_linear_bf16_avx512bf16;

#endif
