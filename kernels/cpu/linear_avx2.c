/* Activations into lanes, and sums into outputs. */
#include "kernels/cpu/act_avx2.h"
#include "kernels/cpu/gemm.h"

/* 8 rows by 8 columns; masked loads read nothing that is not there. */
NB_ALWAYS_INLINE void pack8(char *out, int64_t unit_stride, const float *x, int64_t stride,
                            int64_t n_rows, int64_t k, int rounded)
{
    vec r[LANES];
    for (int i = 0; i < LANES; i++) {
        r[i] = i < n_rows ? vec_load_n(x + i * stride, k) : vec_zero();
        if (rounded) r[i] = vec_round_bf16(r[i]);
    }
    vec_transpose(r);
    for (int i = 0; i < LANES; i++) vec_store((float *)(void *)(out + i * unit_stride), r[i]);
}

NB_ALWAYS_INLINE void pack(const nb_pack_place *to, const float *x, int64_t stride,
                           int64_t n_rows, int64_t k, int rounded)
{
    for (int64_t at = 0; at < (k + 15) / 16 * 16; at += LANES) {
        int64_t left = k > at ? k - at : 0;
        char *out = (char *)to->out + at / 16 * to->chunk_stride + at % 16 * to->unit_stride;
        for (int lane = 0; lane < to->lanes; lane += LANES)
            pack8(out + lane * 4, to->unit_stride,
                  lane < n_rows && left ? x + lane * stride + at : x, stride, n_rows - lane,
                  left, rounded);
    }
}

void nb_pack_rows_f32_avx2(const nb_pack_place *to, const float *x, int64_t stride,
                           int64_t n_rows, int64_t k)
{
    pack(to, x, stride, n_rows, k, 0);
}

void nb_pack_rows_rounded_avx2(const nb_pack_place *to, const float *x, int64_t stride,
                               int64_t n_rows, int64_t k)
{
    pack(to, x, stride, n_rows, k, 1);
}

static vec load_vector(nb_tensor t, int64_t n0, int64_t n, float absent)
{
    return t.data ? vec_load_n(nb_tensor_f32(t) + n0, n) : vec_all(absent);
}

static vec load_row(nb_tensor t, int64_t m, int64_t n0, int64_t n)
{
    return vec_load_n(nb_tensor_f32(t) + m * t.stride[0] + n0, n);
}

/* 8 columns of 8 rows. */
static void finish8(const nb_linear_args *a, const float *const sums[8], int64_t lane,
                    int64_t m0, int64_t n_m, int64_t n0, int64_t n_n)
{
    vec bias = load_vector(a->bias, n0, n_n, 0.0f), gate = load_vector(a->gate, n0, n_n, 1.0f);
    vec r[LANES];
    for (int i = 0; i < LANES; i++) r[i] = vec_load(sums[i] + lane);
    vec_transpose(r);
    for (int64_t i = 0; i < n_m && i < LANES; i++) {
        vec t = nb_act_avx2(a->act, vec_add(r[i], bias));
        if (a->mul.data) t = vec_mul(t, load_row(a->mul, m0 + i, n0, n_n));
        t = vec_mul(t, gate);
        if (a->residual.data) t = vec_add(t, load_row(a->residual, m0 + i, n0, n_n));
        vec_store_n(nb_tensor_f32(a->y) + (m0 + i) * a->y.stride[0] + n0, t, n_n);
    }
}

void nb_linear_finish_avx2(const nb_linear_args *a, const float *const sums[16], int64_t m0,
                           int64_t n_m, int64_t n0, int64_t n_n)
{
    for (int64_t m = 0; m < n_m; m += LANES)
        for (int64_t n = 0; n < n_n; n += LANES)
            finish8(a, sums + n, m, m0 + m, n_m - m, n0 + n, n_n - n);
}
