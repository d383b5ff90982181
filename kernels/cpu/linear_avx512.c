/* Activations into lanes, and sums into outputs. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/panel_avx512.h"
#include "kernels/cpu/transpose_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

/* 16 rows by 16 columns; masked loads read nothing that is not there. */
NB_ALWAYS_INLINE void pack16(char *out, int64_t unit_stride, const float *x, int64_t stride,
                             int64_t n_rows, int64_t k, int rounded)
{
    __mmask16 columns = nb_first_lanes(k);
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        r[i] = _mm512_maskz_loadu_ps(i < n_rows ? columns : 0, i < n_rows ? x + i * stride : x);
        if (rounded) r[i] = nb_round_bf16_avx512(r[i]);
    }
    nb_transpose16_avx512(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_store_ps(out + i * unit_stride, r[i]);
}

NB_ALWAYS_INLINE void pack(const nb_pack_place *to, const float *x, int64_t stride,
                           int64_t n_rows, int64_t k, int rounded)
{
    char *out = to->out;
    for (int64_t at = 0; at < k; at += 16, out += to->chunk_stride)
        for (int lane = 0; lane < to->lanes; lane += 16)
            pack16(out + lane * 4, to->unit_stride, lane < n_rows ? x + lane * stride + at : x,
                   stride, n_rows - lane, k - at, rounded);
}

void nb_pack_rows_f32_avx512(const nb_pack_place *to, const float *x, int64_t stride,
                             int64_t n_rows, int64_t k)
{
    pack(to, x, stride, n_rows, k, 0);
}

void nb_pack_rows_rounded_avx512(const nb_pack_place *to, const float *x, int64_t stride,
                                 int64_t n_rows, int64_t k)
{
    pack(to, x, stride, n_rows, k, 1);
}

static __m512 load_vector(nb_tensor t, int64_t n0, __mmask16 mask, float absent)
{
    if (!t.data) return _mm512_set1_ps(absent);
    return _mm512_maskz_loadu_ps(mask, nb_tensor_f32(t) + n0);
}

static __m512 load_row(nb_tensor t, int64_t m, int64_t n0, __mmask16 mask)
{
    return _mm512_maskz_loadu_ps(mask, nb_tensor_f32(t) + m * t.stride[0] + n0);
}

void nb_linear_finish_avx512(const nb_linear_args *a, const float *const sums[16], int64_t m0,
                             int64_t n_m, int64_t n0, int64_t n_n)
{
    __mmask16 mask = nb_first_lanes(n_n);
    __m512 bias = load_vector(a->bias, n0, mask, 0.0f);
    __m512 gate = load_vector(a->gate, n0, mask, 1.0f);
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_load_ps(sums[i]);
    nb_transpose16_avx512(r);
    for (int64_t i = 0; i < n_m; i++) {
        __m512 t = nb_act_avx512(a->act, _mm512_add_ps(r[i], bias));
        if (a->mul.data) t = _mm512_mul_ps(t, load_row(a->mul, m0 + i, n0, mask));
        t = _mm512_mul_ps(t, gate);
        if (a->residual.data) t = _mm512_add_ps(t, load_row(a->residual, m0 + i, n0, mask));
        _mm512_mask_storeu_ps(nb_tensor_f32(a->y) + (m0 + i) * a->y.stride[0] + n0, mask, t);
    }
}
