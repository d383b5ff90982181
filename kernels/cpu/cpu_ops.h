/* The CPU's variants, named operation_policy_instructions. */
#ifndef NB_KERNELS_CPU_CPU_OPS_H
#define NB_KERNELS_CPU_CPU_OPS_H

#include "kernels/ops.h"

nb_attn_fn nb_attn_f32_avx2, nb_attn_bf16_avx2;
nb_attn_fn nb_attn_f32_avx512, nb_attn_bf16_avx512, nb_attn_bf16_avx512bf16;

/* Operations whose body is one file for all instruction sets. */
#define NB_CPU_SIMPLE_OPS(isa)                                                                 \
    nb_norm_fn nb_layer_norm_##isa, nb_rms_norm_##isa;                                         \
    nb_group_norm_fn nb_group_norm_##isa;                                                      \
    nb_rope_fn nb_rope_##isa;                                                                  \
    nb_layout_fn nb_chw_to_rows_##isa, nb_rows_to_chw_##isa;                                   \
    nb_embed_fn nb_embed_##isa;                                                                \
    nb_elementwise_fn nb_axpy_##isa, nb_blend_##isa, nb_silu_##isa, nb_add_##isa, nb_copy_##isa
NB_CPU_SIMPLE_OPS(avx2);
NB_CPU_SIMPLE_OPS(avx512);

nb_linear_fn nb_linear_f32_avx2, nb_linear_bf16_avx2;
nb_conv2d_fn nb_conv2d_f32_avx2, nb_conv2d_bf16_avx2;
nb_linear_fn nb_linear_a4_avx2, nb_linear_a4_avx512;
nb_linear_fn nb_linear_a8_avx2, nb_linear_a8_avx512vnni;
nb_linear_fn nb_linear_f32_avx512, nb_linear_bf16_avx512, nb_linear_bf16_avx512bf16;
nb_conv2d_fn nb_conv2d_f32_avx512, nb_conv2d_bf16_avx512, nb_conv2d_bf16_avx512bf16;

#endif
