/*
 * A matrix is NVFP4, or integers as Q4_1 blocks, or where those would not be exact F32; what is
 * beside it follows.
 */
#include "models/nunchaku_matrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/tensor.h"
#include "kernels/fp4.h"
#include "kernels/ggml_blocks.h"
#include "models/nunchaku_order.h"

enum { NAME_BYTES = NB_NUNCHAKU_NAME_BYTES, BLOCK = 32 };

#define TENSOR_FORMAT "%s: tensor %.300s: "

nb_status nb_nunchaku_no_memory(const nb_nunchaku_view *v)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", nb_checkpoint_source(v->checkpoint));
}

/* --- tensors of the view --- */

/* A tensor of the view, in whose arena its data is already. */
nb_status nb_nunchaku_add(nb_nunchaku_view *v, const nb_stored *like, const char *name,
                          nb_dtype dtype, int rank, const int64_t *shape, const void *data)
{
    size_t bytes = strlen(name) + 1;
    nb_stored *t = nb_arena_alloc(v->storage, sizeof *t + bytes);
    if (!t || v->n == v->capacity) return nb_nunchaku_no_memory(v);
    *t = (nb_stored){.file = like->file, .dtype = dtype, .rank = rank, .data = data};
    t->name = memcpy(t + 1, name, bytes);
    for (int i = 0; i < rank; i++) t->shape[i] = shape[i];
    t->bytes = (size_t)(nb_stored_count(t) / nb_dtype_elements(dtype)) * nb_dtype_bytes(dtype);
    v->tensors[v->n++] = t;
    return NB_OK;
}

static nb_status add_part(nb_nunchaku_view *v, const nb_stored *like, const char *module,
                          const char *part, nb_dtype dtype, int rank, const int64_t *shape,
                          const void *data)
{
    char name[NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return nb_nunchaku_add(v, like, name, dtype, rank, shape, data);
}

/* --- matrices --- */

/* Do all rows have one factor? It is put into *out. */
static int one_factor(const nb_nunchaku_layer *l, int64_t first, int64_t n, float *out)
{
    *out = l->scale;
    if (!l->row_scales) return 1;
    float factor = nb_nunchaku_vector(l->row_scales, first);
    for (int64_t i = 1; i < n; i++)
        if (nb_nunchaku_vector(l->row_scales, first + i) != factor) return 0;
    *out *= factor;
    return factor != 0;
}

static nb_status add_dense(nb_nunchaku_view *v, const nb_nunchaku_matrix *m, const char *name)
{
    float *out = nb_arena_alloc(v->storage, (size_t)(m->n * m->k) * sizeof *out);
    uint8_t *codes = malloc((size_t)m->k);
    if (!out || !codes) {
        free(codes);
        return nb_nunchaku_no_memory(v);
    }
    for (int64_t i = 0; i < m->n; i++)
        for (int64_t s = 0, at = i * m->k; s < m->n_layers; at += m->layers[s++].k)
            nb_nunchaku_row(&m->layers[s], m->first + i, codes, out + at);
    free(codes);
    return add_part(v, m->layers->codes, name, "weight", NB_DTYPE_F32, 2, NB_SHAPE(m->n, m->k),
                    out);
}

/* NVFP4 with the scale of the first layer; that of another one goes to its columns of x. */
static nb_status add_nvfp4(nb_nunchaku_view *v, nb_nunchaku_matrix *m, const char *name)
{
    int64_t row_codes = m->k / 2, row_scales = m->k / NB_NVFP4_BLOCK;
    float factors[NB_NUNCHAKU_MAX_LAYERS], *number = nb_arena_alloc(v->storage, sizeof *number);
    for (int s = 0; s < m->n_layers; s++)
        if (!one_factor(&m->layers[s], m->first, m->n, &factors[s]))
            return add_dense(v, m, name);
    for (int s = 0; s < m->n_layers; s++) m->factors[s] = factors[s] / factors[0];
    uint8_t *codes = nb_arena_alloc(v->storage, (size_t)(m->n * row_codes));
    uint8_t *scales = nb_arena_alloc(v->storage, (size_t)(m->n * row_scales));
    if (!codes || !scales || !number) return nb_nunchaku_no_memory(v);
    *number = factors[0];
    for (int64_t i = 0; i < m->n; i++)
        for (int64_t s = 0, k0 = 0; s < m->n_layers; k0 += m->layers[s++].k) {
            const nb_nunchaku_layer *l = &m->layers[s];
            nb_nunchaku_codes(l->codes->data, l->k_padded, m->first + i, l->k,
                              codes + i * row_codes + k0 / 2);
            nb_nunchaku_scales(l->scales->data, l->k_padded, m->first + i,
                               l->k / NB_NVFP4_BLOCK,
                               scales + i * row_scales + k0 / NB_NVFP4_BLOCK);
        }
    const nb_stored *like = m->layers->codes;
    NB_TRY(add_part(v, like, name, "weight", NB_DTYPE_U8, 2, NB_SHAPE(m->n, row_codes), codes));
    NB_TRY(add_part(v, like, name, "weight_scale", NB_DTYPE_F8_E4M3, 2,
                    NB_SHAPE(m->n, row_scales), scales));
    return add_part(v, like, name, "weight_scale_2", NB_DTYPE_F32, 0, NULL, number);
}

/* --- integers --- */

/* A matrix of integers: layers, or a modulation. */
struct integers {
    const nb_nunchaku_matrix *matrix;
    const nb_nunchaku_modulation *modulation;
    int64_t n, k;
};

static nb_nunchaku_step step_of(const struct integers *m, int64_t row, int64_t k0)
{
    if (m->modulation) return nb_nunchaku_modulation_step(m->modulation, row, k0);
    const nb_nunchaku_layer *l = m->matrix->layers;
    for (; k0 >= l->k; l++) k0 -= l->k;
    return nb_nunchaku_layer_step(l, m->matrix->first + row, k0);
}

/* The codes of a row, 0 ... 15, one in a byte. */
static void row_codes(const struct integers *m, int64_t row, uint8_t *out)
{
    if (m->modulation) {
        int64_t at = nb_nunchaku_modulation_row(m->modulation, row);
        for (int64_t k0 = 0; k0 < m->k; k0 += BLOCK)
            nb_nunchaku_awq_codes(m->modulation->codes->data, m->k, at, k0, out + k0);
        return;
    }
    for (int s = 0; s < m->matrix->n_layers; out += m->matrix->layers[s++].k) {
        const nb_nunchaku_layer *l = &m->matrix->layers[s];
        uint8_t *packed = out + l->k / 2; /* is read just before it is written */
        nb_nunchaku_codes(l->codes->data, l->k_padded, m->matrix->first + row, l->k, packed);
        for (int64_t i = 0; i < l->k / 2; i++) {
            uint8_t byte = packed[i] ^ 0x88; /* no sign */
            out[2 * i] = byte & 15;
            out[2 * i + 1] = byte >> 4;
        }
    }
}

static int is_f16(float value)
{
    return nb_f32_from_f16(nb_f16_from_f32(value)) == value;
}

/* Are all steps and offsets exact in an F16, times `factor`? *most is the largest of them. */
static int are_f16(const struct integers *m, float factor, float *most)
{
    int exact = 1;
    *most = 0;
    for (int64_t i = 0; i < m->n; i++)
        for (int64_t k0 = 0; k0 < m->k; k0 += BLOCK) {
            nb_nunchaku_step step = step_of(m, i, k0);
            exact &= is_f16(step.scale * factor) && is_f16(step.offset * factor);
            *most = fmaxf(*most, fmaxf(fabsf(step.scale), fabsf(step.offset)));
        }
    return exact;
}

/* A power of two by which they are, 0 if there is none. */
static float f16_factor(const struct integers *m)
{
    enum { LARGEST = 15 }; /* exponent of an F16 */
    float most, again;
    if (m->k % BLOCK) return 0;
    if (are_f16(m, 1, &most)) return 1;
    float factor = ldexpf(1, LARGEST - (int)ceilf(log2f(most)));
    return isfinite(factor) && factor > 0 && are_f16(m, factor, &again) ? factor : 0;
}

static void fill_blocks(const struct integers *m, float factor, uint8_t *codes,
                        nb_block_q4_1 *out)
{
    for (int64_t i = 0; i < m->n; i++) {
        row_codes(m, i, codes);
        for (int64_t k0 = 0; k0 < m->k; k0 += BLOCK, out++) {
            nb_nunchaku_step step = step_of(m, i, k0);
            out->d = nb_f16_from_f32(step.scale * factor);
            out->m = nb_f16_from_f32(step.offset * factor);
            for (int j = 0; j < BLOCK / 2; j++)
                out->qs[j] = (uint8_t)(codes[k0 + j] | codes[k0 + BLOCK / 2 + j] << 4);
        }
    }
}

/* *factor is what the weights are multiplied by; 0: they were not added. */
static nb_status add_integers(nb_nunchaku_view *v, const struct integers *m,
                              const nb_stored *like, const char *name, float *factor)
{
    *factor = f16_factor(m);
    if (*factor == 0) return NB_OK;
    nb_block_q4_1 *out =
        nb_arena_alloc(v->storage, (size_t)(m->n * m->k / BLOCK) * sizeof *out);
    uint8_t *codes = malloc((size_t)m->k);
    if (!out || !codes) {
        free(codes);
        return nb_nunchaku_no_memory(v);
    }
    fill_blocks(m, *factor, codes, out);
    free(codes);
    return add_part(v, like, name, "weight", NB_DTYPE_Q4_1, 2, NB_SHAPE(m->n, m->k), out);
}

static nb_status add_integer_layers(nb_nunchaku_view *v, nb_nunchaku_matrix *m,
                                    const char *name)
{
    struct integers integers = {.matrix = m, .n = m->n, .k = m->k};
    float factor, row_factor;
    for (int s = 0; s < m->n_layers; s++)
        if (!one_factor(&m->layers[s], m->first, m->n, &row_factor) || row_factor != 1)
            return add_dense(v, m, name);
    NB_TRY(add_integers(v, &integers, m->layers->codes, name, &factor));
    if (factor == 0) return add_dense(v, m, name);
    for (int s = 0; s < m->n_layers; s++) m->factors[s] = 1 / factor;
    return NB_OK;
}

/* --- what is beside a matrix --- */

static nb_status add_column_scales(nb_nunchaku_view *v, const nb_nunchaku_matrix *m,
                                   const char *name)
{
    float *scales = nb_arena_alloc(v->storage, (size_t)m->k * sizeof *scales);
    int any = 0;
    if (!scales) return nb_nunchaku_no_memory(v);
    for (int64_t s = 0, at = 0; s < m->n_layers; at += m->layers[s++].k)
        for (int64_t i = 0; i < m->layers[s].k; i++) {
            scales[at + i] = m->factors[s] / nb_nunchaku_vector(m->layers[s].smooth, i);
            any |= scales[at + i] != 1;
        }
    if (!any) return NB_OK;
    return add_part(v, m->layers->smooth, name, "column_scales", NB_DTYPE_F32, 1, &m->k,
                    scales);
}

/* Branches of layers side by side: ranks one after the other, each of its own columns. */
static void fill_branches(const nb_nunchaku_matrix *m, int64_t rank, uint16_t *down,
                          uint16_t *up)
{
    memset(down, 0, (size_t)(rank * m->k) * sizeof *down);
    for (int64_t s = 0, r0 = 0, k0 = 0; s < m->n_layers; s++) {
        const nb_nunchaku_layer *l = &m->layers[s];
        for (int64_t r = 0; r < l->rank; r++)
            for (int64_t i = 0; i < l->k; i++)
                memcpy(&down[(r0 + r) * m->k + k0 + i],
                       (const char *)l->down->data +
                           nb_nunchaku_down_place(r, i, l->rank) * (int64_t)sizeof *down,
                       sizeof *down);
        for (int64_t i = 0; i < m->n; i++)
            for (int64_t r = 0; r < l->rank; r++)
                memcpy(&up[i * rank + r0 + r],
                       (const char *)l->up->data +
                           nb_nunchaku_up_place(m->first + i, r, l->rank) * (int64_t)sizeof *up,
                       sizeof *up);
        r0 += l->rank;
        k0 += l->k;
    }
}

static nb_status add_branches(nb_nunchaku_view *v, const nb_nunchaku_matrix *m,
                              const char *name)
{
    const nb_stored *like = NULL;
    int64_t rank = 0;
    for (int s = 0; s < m->n_layers; s++) {
        const nb_stored *down = m->layers[s].down;
        if (!m->layers[s].rank) continue;
        if (like && like->dtype != down->dtype)
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s as %s has, found %s", down->file,
                           down->name, nb_dtype_name(like->dtype), like->name,
                           nb_dtype_name(down->dtype));
        like = down;
        rank += m->layers[s].rank;
    }
    if (!rank) return NB_OK;
    uint16_t *down = nb_arena_alloc(v->storage, (size_t)(rank * m->k) * sizeof *down);
    uint16_t *up = nb_arena_alloc(v->storage, (size_t)(m->n * rank) * sizeof *up);
    if (!down || !up) return nb_nunchaku_no_memory(v);
    fill_branches(m, rank, down, up);
    NB_TRY(
        add_part(v, like, name, "low_rank_down", like->dtype, 2, NB_SHAPE(rank, m->k), down));
    return add_part(v, like, name, "low_rank_up", like->dtype, 2, NB_SHAPE(m->n, rank), up);
}

/* What a layer's bias makes up for, of every row: W times the shift of x. */
static nb_status take_back_shift(nb_nunchaku_view *v, const nb_nunchaku_matrix *m,
                                 const nb_nunchaku_layer *l, float *bias)
{
    float *row = malloc((size_t)l->k * sizeof *row),
          *shift = malloc((size_t)l->k * sizeof *row);
    uint8_t *codes = malloc((size_t)l->k);
    nb_status status = row && shift && codes ? NB_OK : nb_nunchaku_no_memory(v);
    for (int64_t i = 0; i < l->k && !status; i++)
        shift[i] = l->shift / nb_nunchaku_vector(l->smooth, i);
    for (int64_t i = 0; i < m->n && !status; i++) {
        double sum = 0;
        nb_nunchaku_row(l, m->first + i, codes, row);
        for (int64_t j = 0; j < l->k; j++) sum += (double)row[j] * (double)shift[j];
        bias[i] += (float)sum;
    }
    free(row);
    free(shift);
    free(codes);
    return status;
}

static nb_status add_bias(nb_nunchaku_view *v, const nb_nunchaku_matrix *m, const char *name)
{
    float *bias = nb_arena_alloc(v->storage, (size_t)m->n * sizeof *bias);
    if (!bias) return nb_nunchaku_no_memory(v);
    for (int64_t i = 0; i < m->n; i++) bias[i] = 0;
    for (int s = 0; s < m->n_layers; s++) {
        for (int64_t i = 0; i < m->n; i++)
            bias[i] += nb_nunchaku_vector(m->layers[s].bias, m->first + i);
        if (m->layers[s].shift != 0) NB_TRY(take_back_shift(v, m, &m->layers[s], bias));
    }
    return add_part(v, m->layers->bias, name, "bias", NB_DTYPE_F32, 1, &m->n, bias);
}

nb_status nb_nunchaku_add_matrix(nb_nunchaku_view *v, nb_nunchaku_matrix *m, const char *name)
{
    int n_integer = 0;
    for (int s = 0; s < m->n_layers; s++) {
        n_integer += m->layers[s].is_integer;
        m->factors[s] = 1;
    }
    if (n_integer == m->n_layers)
        NB_TRY(add_integer_layers(v, m, name));
    else if (!n_integer)
        NB_TRY(add_nvfp4(v, m, name));
    else
        NB_TRY(add_dense(v, m, name));
    NB_TRY(add_column_scales(v, m, name));
    NB_TRY(add_branches(v, m, name));
    return add_bias(v, m, name);
}

static nb_status add_dense_modulation(nb_nunchaku_view *v, const struct integers *m,
                                      const char *name)
{
    float *out = nb_arena_alloc(v->storage, (size_t)(m->n * m->k) * sizeof *out);
    uint8_t *codes = malloc((size_t)m->k);
    if (!out || !codes) {
        free(codes);
        return nb_nunchaku_no_memory(v);
    }
    for (int64_t i = 0; i < m->n; i++) {
        row_codes(m, i, codes);
        for (int64_t k = 0; k < m->k; k++) {
            nb_nunchaku_step step = step_of(m, i, k);
            out[i * m->k + k] = (float)codes[k] * step.scale + step.offset;
        }
    }
    free(codes);
    return add_part(v, m->modulation->codes, name, "weight", NB_DTYPE_F32, 2,
                    NB_SHAPE(m->n, m->k), out);
}

nb_status nb_nunchaku_add_modulation(nb_nunchaku_view *v,
                                     const nb_nunchaku_modulation *modulation, const char *name)
{
    struct integers m = {.modulation = modulation, .n = modulation->n, .k = modulation->k};
    float factor;
    NB_TRY(add_integers(v, &m, modulation->codes, name, &factor));
    if (factor == 0) NB_TRY(add_dense_modulation(v, &m, name));
    float *scales = nb_arena_alloc(v->storage, (size_t)m.k * sizeof *scales);
    float *bias = nb_arena_alloc(v->storage, (size_t)m.n * sizeof *bias);
    if (!scales || !bias) return nb_nunchaku_no_memory(v);
    for (int64_t i = 0; i < m.k; i++) scales[i] = 1 / factor;
    for (int64_t i = 0; i < m.n; i++) bias[i] = nb_nunchaku_modulation_bias(modulation, i);
    if (factor != 0 && factor != 1)
        NB_TRY(add_part(v, modulation->scales, name, "column_scales", NB_DTYPE_F32, 1, &m.k,
                        scales));
    return add_part(v, modulation->bias, name, "bias", NB_DTYPE_F32, 1, &m.n, bias);
}
