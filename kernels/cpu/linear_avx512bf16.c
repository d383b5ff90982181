/* Activations into lanes, as BF16 pairs. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_avx512.h"
#include "kernels/cpu/transpose_avx512.h"

/* 16 rows by 32 columns; masked loads read nothing that is not there. */
static void pack16(char *out, int64_t unit_stride, const float *x, int64_t stride,
                   int64_t n_rows, int64_t k)
{
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        const float *row = i < n_rows ? x + i * stride : x;
        __m512 low = _mm512_maskz_loadu_ps(i < n_rows ? nb_first_lanes(k) : 0, row);
        __mmask16 mask = i < n_rows && k > 16 ? nb_first_lanes(k - 16) : 0;
        __m512 high = _mm512_maskz_loadu_ps(mask, row + (mask ? 16 : 0));
        r[i] = (__m512)_mm512_cvtne2ps_pbh(high, low);
    }
    nb_transpose16_avx512(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_store_ps(out + i * unit_stride, r[i]);
}

void nb_pack_rows_bf16_avx512bf16(const nb_pack_place *to, const float *x, int64_t stride,
                                  int64_t n_rows, int64_t k)
{
    char *out = to->out;
    for (int64_t at = 0; at < k; at += 32, out += to->chunk_stride)
        for (int lane = 0; lane < to->lanes; lane += 16)
            pack16(out + lane * 4, to->unit_stride, lane < n_rows ? x + lane * stride + at : x,
                   stride, n_rows - lane, k - at);
}
