#include "kernels/cpu/cpu_ops.h"

#include "kernels/base/cpu.h"

void nb_ops_climb_cpu(struct nb_ops *ops, unsigned caps)
{
    if (caps & NB_CPU_AVX512) {
        ops->linear[NB_COMPUTE_F32] = nb_linear_f32_avx512;
        ops->linear[NB_COMPUTE_BF16] = nb_linear_bf16_avx512;
        ops->attn[NB_COMPUTE_F32] = nb_attn_f32_avx512;
        ops->attn[NB_COMPUTE_BF16] = nb_attn_bf16_avx512;
    }
    if (caps & NB_CPU_AVX512_BF16) {
        ops->linear[NB_COMPUTE_BF16] = nb_linear_bf16_avx512bf16;
        ops->attn[NB_COMPUTE_BF16] = nb_attn_bf16_avx512bf16;
    }
}
