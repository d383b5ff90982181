/* Decoders of the block types of GGUF files (kernels/ggml_blocks.h) into panels, for the
 * decoders of all types to call. */
#ifndef NB_KERNELS_CPU_PANEL_GGML_H
#define NB_KERNELS_CPU_PANEL_GGML_H

#include "kernels/cpu/gemm.h"

nb_panel_decode_fn nb_panel_ggml_f32_avx2, nb_panel_ggml_rounded_avx2;
nb_panel_decode_fn nb_panel_ggml_f32_avx512, nb_panel_ggml_rounded_avx512;
nb_panel_decode_fn nb_panel_ggml_bf16_avx512bf16;

#endif
