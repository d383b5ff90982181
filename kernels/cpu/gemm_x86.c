/* The linear layer and the convolution of each rung of x86. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/gemm.h"

#if defined(__x86_64__)

static const nb_gemm_isa f32_avx2 = {
    .rows = 6,
    .lanes = 16,
    .unit_elements = 1,
    .tile_full = nb_gemm_tile_f32_full_avx2,
    .tile_half = nb_gemm_tile_f32_half_avx2,
    .decode = nb_panel_f32_avx2,
    .pack_rows = nb_pack_rows_f32_avx2,
    .finish = nb_linear_finish_avx2,
    .decode_f32 = nb_panel_f32_avx2,
    .pack_filter = nb_pack_filter_f32_avx2,
    .pack_pixels = nb_pack_pixels_f32_avx2,
    .finish_pixels = nb_finish_pixels_avx2,
};

static const nb_gemm_isa rounded_avx2 = {
    .rows = 6,
    .lanes = 16,
    .unit_elements = 1,
    .tile_full = nb_gemm_tile_f32_full_avx2,
    .tile_half = nb_gemm_tile_f32_half_avx2,
    .decode = nb_panel_rounded_avx2,
    .pack_rows = nb_pack_rows_rounded_avx2,
    .finish = nb_linear_finish_avx2,
    .decode_f32 = nb_panel_f32_avx2,
    .pack_filter = nb_pack_filter_rounded_avx2,
    .pack_pixels = nb_pack_pixels_rounded_avx2,
    .finish_pixels = nb_finish_pixels_avx2,
};

static const nb_gemm_isa f32_avx512 = {
    .rows = 12,
    .lanes = 32,
    .unit_elements = 1,
    .tile_full = nb_gemm_tile_f32_full_avx512,
    .tile_half = nb_gemm_tile_f32_half_avx512,
    .decode = nb_panel_f32_avx512,
    .pack_rows = nb_pack_rows_f32_avx512,
    .finish = nb_linear_finish_avx512,
    .few = nb_few_f32_avx512,
    .spread = nb_panel_spread_avx512,
    .dot = nb_dot_f32_avx512,
    .dot_fp4 = nb_dot_fp4_f32_avx512,
    .dot_typed = nb_dot_typed_f32_avx512,
    .fold = nb_fold_avx512,
    .fp4_order = nb_fp4_order_f32_avx512,
    .dot_dtype = NB_DTYPE_F32,
};

static const nb_gemm_isa rounded_avx512 = {
    .rows = 12,
    .lanes = 32,
    .unit_elements = 1,
    .tile_full = nb_gemm_tile_f32_full_avx512,
    .tile_half = nb_gemm_tile_f32_half_avx512,
    .decode = nb_panel_rounded_avx512,
    .pack_rows = nb_pack_rows_rounded_avx512,
    .finish = nb_linear_finish_avx512,
    .few = nb_few_f32_avx512,
    .spread = nb_panel_spread_avx512,
    .dot = nb_dot_f32_avx512,
    .dot_fp4 = nb_dot_fp4_f32_avx512,
    .fold = nb_fold_avx512,
    .fp4_order = nb_fp4_order_f32_avx512,
    .dot_dtype = NB_DTYPE_COUNT,
};

static const nb_gemm_isa bf16_avx512bf16 = {
    .rows = 12,
    .lanes = 32,
    .unit_elements = 2,
    .tile_full = nb_gemm_tile_bf16_full_avx512bf16,
    .tile_half = nb_gemm_tile_bf16_half_avx512bf16,
    .decode = nb_panel_bf16_avx512bf16,
    .pack_rows = nb_pack_rows_bf16_avx512bf16,
    .finish = nb_linear_finish_avx512,
    .few = nb_few_bf16_avx512bf16,
    .spread = nb_panel_spread_avx512,
    .dot = nb_dot_bf16_avx512bf16,
    .dot_fp4 = nb_dot_fp4_bf16_avx512bf16,
    .dot_typed = nb_dot_typed_bf16_avx512bf16,
    .dot_f8 = nb_dot_f8_bf16_avx512bf16,
    .fold = nb_fold_avx512,
    .dot_dtype = NB_DTYPE_BF16,
};

static const nb_gemm_isa conv_f32_avx512 = {
    .rows = 8,
    .lanes = 32,
    .unit_elements = 1,
    .tile_full = nb_conv_tile_f32_full_avx512,
    .tile_half = nb_conv_tile_f32_half_avx512,
    .decode_f32 = nb_panel_f32_avx512,
    .pack_filter = nb_pack_filter_f32_avx512,
    .pack_pixels = nb_pack_pixels_f32_avx512,
    .finish_pixels = nb_finish_pixels_avx512,
};

static const nb_gemm_isa conv_rounded_avx512 = {
    .rows = 8,
    .lanes = 32,
    .unit_elements = 1,
    .tile_full = nb_conv_tile_f32_full_avx512,
    .tile_half = nb_conv_tile_f32_half_avx512,
    .decode_f32 = nb_panel_f32_avx512,
    .pack_filter = nb_pack_filter_rounded_avx512,
    .pack_pixels = nb_pack_pixels_rounded_avx512,
    .finish_pixels = nb_finish_pixels_avx512,
};

static const nb_gemm_isa conv_bf16_avx512bf16 = {
    .rows = 8,
    .lanes = 32,
    .unit_elements = 2,
    .tile_full = nb_conv_tile_bf16_full_avx512bf16,
    .tile_half = nb_conv_tile_bf16_half_avx512bf16,
    .decode_f32 = nb_panel_f32_avx512,
    .pack_filter = nb_pack_filter_bf16_avx512bf16,
    .pack_pixels = nb_pack_pixels_bf16_avx512bf16,
    .finish_pixels = nb_finish_pixels_avx512,
};

void nb_linear_f32_avx512(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_gemm(s, a, &f32_avx512);
}

void nb_linear_bf16_avx512(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_gemm(s, a, &rounded_avx512);
}

void nb_linear_bf16_avx512bf16(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_gemm(s, a, &bf16_avx512bf16);
}

void nb_conv2d_f32_avx512(nb_stream *s, const nb_conv2d_args *a)
{
    nb_conv2d_gemm(s, a, &conv_f32_avx512);
}

void nb_conv2d_bf16_avx512(nb_stream *s, const nb_conv2d_args *a)
{
    nb_conv2d_gemm(s, a, &conv_rounded_avx512);
}

void nb_conv2d_bf16_avx512bf16(nb_stream *s, const nb_conv2d_args *a)
{
    nb_conv2d_gemm(s, a, &conv_bf16_avx512bf16);
}

void nb_linear_f32_avx2(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_gemm(s, a, &f32_avx2);
}

void nb_linear_bf16_avx2(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_gemm(s, a, &rounded_avx2);
}

void nb_conv2d_f32_avx2(nb_stream *s, const nb_conv2d_args *a)
{
    nb_conv2d_gemm(s, a, &f32_avx2);
}

void nb_conv2d_bf16_avx2(nb_stream *s, const nb_conv2d_args *a)
{
    nb_conv2d_gemm(s, a, &rounded_avx2);
}

#endif
