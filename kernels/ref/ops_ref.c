#include "kernels/ref/ref.h"

void nb_ops_init_ref(struct nb_ops *ops)
{
    *ops = (struct nb_ops){
        .linear = {[NB_COMPUTE_F32] = nb_linear_f32_ref,
                   [NB_COMPUTE_BF16] = nb_linear_bf16_ref,
                   [NB_COMPUTE_A8] = nb_linear_a8_ref,
                   [NB_COMPUTE_A4] = nb_linear_a4_ref},
        .attn = {[NB_COMPUTE_F32] = nb_attn_f32_ref,
                 [NB_COMPUTE_BF16] = nb_attn_bf16_ref,
                 [NB_COMPUTE_A8] = nb_attn_bf16_ref,
                 [NB_COMPUTE_A4] = nb_attn_bf16_ref},
        .conv2d = {[NB_COMPUTE_F32] = nb_conv2d_f32_ref,
                   [NB_COMPUTE_BF16] = nb_conv2d_bf16_ref,
                   [NB_COMPUTE_A8] = nb_conv2d_bf16_ref,
                   [NB_COMPUTE_A4] = nb_conv2d_bf16_ref},
        .layer_norm = nb_layer_norm_ref,
        .rms_norm = nb_rms_norm_ref,
        .group_norm = nb_group_norm_ref,
        .rope = nb_rope_ref,
        .chw_to_rows = nb_chw_to_rows_ref,
        .rows_to_chw = nb_rows_to_chw_ref,
        .embed = nb_embed_ref,
        .axpy = nb_axpy_ref,
        .blend = nb_blend_ref,
        .silu = nb_silu_ref,
        .add = nb_add_ref,
        .copy = nb_copy_ref,
    };
}
