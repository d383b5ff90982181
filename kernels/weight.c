#include "kernels/weight.h"

#include <assert.h>

enum { SCALE_BLOCK = 128 };

static int64_t scale_blocks(int64_t k)
{
    return (k + SCALE_BLOCK - 1) / SCALE_BLOCK;
}

int64_t nb_weight_row_bytes(const nb_weight *w)
{
    return w->k * (int64_t)nb_dtype_bytes(w->dtype);
}

nb_weight nb_weight_rows(nb_weight w, int64_t start, int64_t count)
{
    int64_t n_scales = 0;
    assert(start >= 0 && count >= 0 && start + count <= w.n);
    if (w.scale_kind == NB_SCALE_ROW) n_scales = start;
    if (w.scale_kind == NB_SCALE_BLOCK128) {
        assert(start % SCALE_BLOCK == 0);
        n_scales = start / SCALE_BLOCK * scale_blocks(w.k);
    }
    w.data = (const char *)w.data + start * nb_weight_row_bytes(&w);
    if (n_scales) w.scales = (const char *)w.scales + n_scales * (int64_t)sizeof(float);
    w.n = count;
    return w;
}

float nb_weight_scale_at(const nb_weight *w, int64_t row, int64_t k)
{
    int64_t at = row;
    if (w->scale_kind == NB_SCALE_NONE) return w->scale;
    if (w->scale_kind == NB_SCALE_BLOCK128)
        at = row / SCALE_BLOCK * scale_blocks(w->k) + k / SCALE_BLOCK;
    return nb_load_f32(NB_DTYPE_F32, w->scales, at) * w->scale;
}

void nb_weight_decode_ref(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                          float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = nb_load_f32(w->dtype, w->data, row * w->k + k0 + i) *
                 nb_weight_scale_at(w, row, k0 + i);
}
