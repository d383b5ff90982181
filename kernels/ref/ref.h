/* The references: one function per slot of struct nb_ops, each the shortest correct text. */
#ifndef NB_KERNELS_REF_REF_H
#define NB_KERNELS_REF_REF_H

#include "kernels/ops.h"

nb_linear_fn nb_linear_f32_ref, nb_linear_bf16_ref, nb_linear_a8_ref, nb_linear_a4_ref;
nb_attn_fn nb_attn_f32_ref, nb_attn_bf16_ref;
nb_conv2d_fn nb_conv2d_f32_ref, nb_conv2d_bf16_ref;
nb_norm_fn nb_layer_norm_ref, nb_rms_norm_ref;
nb_group_norm_fn nb_group_norm_ref;
nb_rope_fn nb_rope_ref;
nb_layout_fn nb_chw_to_rows_ref, nb_rows_to_chw_ref;
nb_embed_fn nb_embed_ref;
nb_elementwise_fn nb_axpy_ref, nb_blend_ref, nb_silu_ref, nb_add_ref, nb_copy_ref;

/* Output [m][n] of a linear from its sum. */
float nb_linear_finish_ref(const nb_linear_args *a, int64_t m, int64_t n, double t);

#endif
