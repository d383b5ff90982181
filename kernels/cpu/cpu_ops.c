#include "kernels/cpu/cpu_ops.h"

#include "kernels/base/cpu.h"

#if defined(__x86_64__)

#define SET_SIMPLE_OPS(ops, isa)                                                               \
    do {                                                                                       \
        (ops)->layer_norm = nb_layer_norm_##isa;                                               \
        (ops)->rms_norm = nb_rms_norm_##isa;                                                   \
        (ops)->group_norm = nb_group_norm_##isa;                                               \
        (ops)->rope = nb_rope_##isa;                                                           \
        (ops)->chw_to_rows = nb_chw_to_rows_##isa;                                             \
        (ops)->rows_to_chw = nb_rows_to_chw_##isa;                                             \
        (ops)->embed = nb_embed_##isa;                                                         \
        (ops)->axpy = nb_axpy_##isa;                                                           \
        (ops)->blend = nb_blend_##isa;                                                         \
        (ops)->silu = nb_silu_##isa;                                                           \
        (ops)->add = nb_add_##isa;                                                             \
        (ops)->copy = nb_copy_##isa;                                                           \
    } while (0)

void nb_ops_climb_cpu(struct nb_ops *ops, unsigned caps)
{
    if (caps & NB_CPU_AVX2) {
        ops->linear[NB_COMPUTE_F32] = nb_linear_f32_avx2;
        ops->linear[NB_COMPUTE_BF16] = nb_linear_bf16_avx2;
        ops->linear[NB_COMPUTE_A8] = nb_linear_a8_avx2;
        ops->linear[NB_COMPUTE_A4] = nb_linear_a4_avx2;
        ops->conv2d[NB_COMPUTE_F32] = nb_conv2d_f32_avx2;
        ops->conv2d[NB_COMPUTE_BF16] = nb_conv2d_bf16_avx2;
        ops->attn[NB_COMPUTE_F32] = nb_attn_f32_avx2;
        ops->attn[NB_COMPUTE_BF16] = nb_attn_bf16_avx2;
        SET_SIMPLE_OPS(ops, avx2);
    }
    if (caps & NB_CPU_AVX512) {
        SET_SIMPLE_OPS(ops, avx512);
        ops->linear[NB_COMPUTE_F32] = nb_linear_f32_avx512;
        ops->linear[NB_COMPUTE_BF16] = nb_linear_bf16_avx512;
        ops->linear[NB_COMPUTE_A4] = nb_linear_a4_avx512;
        ops->conv2d[NB_COMPUTE_F32] = nb_conv2d_f32_avx512;
        ops->conv2d[NB_COMPUTE_BF16] = nb_conv2d_bf16_avx512;
        ops->attn[NB_COMPUTE_F32] = nb_attn_f32_avx512;
        ops->attn[NB_COMPUTE_BF16] = nb_attn_bf16_avx512;
    }
    if (caps & NB_CPU_AVX512_BF16) {
        ops->linear[NB_COMPUTE_BF16] = nb_linear_bf16_avx512bf16;
        ops->conv2d[NB_COMPUTE_BF16] = nb_conv2d_bf16_avx512bf16;
        ops->attn[NB_COMPUTE_BF16] = nb_attn_bf16_avx512bf16;
    }
    if (caps & NB_CPU_AVX512_VNNI) ops->linear[NB_COMPUTE_A8] = nb_linear_a8_avx512vnni;
    for (int policy = NB_COMPUTE_A8; policy <= NB_COMPUTE_A4; policy++) {
        ops->conv2d[policy] = ops->conv2d[NB_COMPUTE_BF16];
        ops->attn[policy] = ops->attn[NB_COMPUTE_BF16];
    }
}

#else

void nb_ops_climb_cpu(struct nb_ops *ops, unsigned caps)
{
    (void)ops;
    (void)caps;
}

#endif
