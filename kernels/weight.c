#include "kernels/weight.h"

#include <assert.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/fp4.h"
#include "kernels/ggml_blocks.h"

enum { SCALE_BLOCK = 128 };

static int64_t scale_blocks(int64_t k)
{
    return (k + SCALE_BLOCK - 1) / SCALE_BLOCK;
}

static int is_fp4(const nb_weight *w)
{
    assert((w->dtype == NB_DTYPE_F4_E2M1X2) ==
           (w->scale_kind == NB_SCALE_NVFP4 || w->scale_kind == NB_SCALE_MXFP4));
    return w->dtype == NB_DTYPE_F4_E2M1X2;
}

void nb_weight_scale_values(nb_scale_kind kind, float scale, int divides,
                            float values[NB_SCALE_CODES])
{
    for (int i = 0; i < NB_SCALE_CODES; i++) {
        float value = kind == NB_SCALE_MXFP4 ? nb_f32_from_e8m0((uint8_t)i)
                                             : nb_f32_from_e4m3((uint8_t)i);
        values[i] = divides ? value / scale : value * scale;
    }
}

/* The system reads no more for one call than it reads ahead by itself (128 kB, unless a disk
 * says otherwise), so a matrix is asked for in such pieces. */
static void prefetch(const void *data, int64_t bytes)
{
    enum { PIECE = 128 << 10 };
    uintptr_t at = (uintptr_t)data / PIECE * PIECE, end = (uintptr_t)data + (uintptr_t)bytes;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)data / page * page;
    if (!data || bytes <= 0) return;
    for (; at < end; at += PIECE) {
        uintptr_t from = at < first ? first : at, to = at + PIECE < end ? at + PIECE : end;
        madvise((void *)from, to - from, MADV_WILLNEED);
    }
}

void nb_weight_prefetch(const nb_weight *w)
{
    prefetch(w->data, w->n * nb_weight_row_bytes(w));
    if (w->dtype == NB_DTYPE_F4_E2M1X2)
        prefetch(w->scales, w->n * (w->k >> nb_weight_block_bits(w)));
}

int64_t nb_weight_row_bytes(const nb_weight *w)
{
    if (is_fp4(w)) return w->k / 2;
    return w->k / nb_dtype_elements(w->dtype) * (int64_t)nb_dtype_bytes(w->dtype);
}

int64_t nb_weight_bytes(const nb_weight *w)
{
    int64_t n_scales = 0;
    if (w->scale_kind == NB_SCALE_ROW) n_scales = w->n;
    if (w->scale_kind == NB_SCALE_BLOCK128) n_scales = scale_blocks(w->n) * scale_blocks(w->k);
    int64_t bytes = w->n * nb_weight_row_bytes(w) + n_scales * (int64_t)sizeof(float);
    return is_fp4(w) ? bytes + ((w->n * w->k) >> nb_weight_block_bits(w)) : bytes;
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
    if (is_fp4(&w))
        w.scales = (const uint8_t *)w.scales + start * (w.k >> nb_weight_block_bits(&w));
    if (n_scales) w.scales = (const char *)w.scales + n_scales * (int64_t)sizeof(float);
    if (w.low_rank.rank)
        w.low_rank.up = (const char *)w.low_rank.up +
                        start * w.low_rank.rank * (int64_t)nb_dtype_bytes(w.low_rank.dtype);
    w.n = count;
    return w;
}

float nb_weight_scale_at(const nb_weight *w, int64_t row, int64_t k)
{
    int64_t at = row;
    if (is_fp4(w)) {
        at = (row * w->k + k) >> nb_weight_block_bits(w);
        return w->scale_values[((const uint8_t *)w->scales)[at]];
    }
    if (w->scale_kind == NB_SCALE_NONE) return w->scale;
    if (w->scale_kind == NB_SCALE_BLOCK128)
        at = row / SCALE_BLOCK * scale_blocks(w->k) + k / SCALE_BLOCK;
    return nb_load_f32(NB_DTYPE_F32, w->scales, at) * w->scale;
}

/* Element `i` of all, before its scale. */
static float element_at(const nb_weight *w, int64_t i)
{
    if (!is_fp4(w)) return nb_load_f32(w->dtype, w->data, i);
    int high = (i % 2 == 1) != w->high_first;
    return nb_f32_from_e2m1(((const uint8_t *)w->data)[i / 2] >> (high ? 4 : 0));
}

void nb_weight_decode_ref(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                          float *out)
{
    if (nb_weight_has_blocks(w)) {
        assert(w->scale == 1.0f && w->k % nb_dtype_elements(w->dtype) == 0);
        nb_blocks_decode_ref(w->dtype, w->data, row * w->k + k0, count, out);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        out[i] = element_at(w, row * w->k + k0 + i) * nb_weight_scale_at(w, row, k0 + i);
}
