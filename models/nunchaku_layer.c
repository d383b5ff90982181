#include "models/nunchaku_layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/fp4.h"
#include "models/nunchaku_order.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

enum { PAD = 128, RANK_MULTIPLE = 16, GROUP = NB_NUNCHAKU_AWQ_GROUP, E4M3_NAN = 0x7f };
static const float GELU_SHIFT = 0.171875f;

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* --- parts of a module --- */

static const nb_stored *part(const nb_checkpoint *c, const char *module, const char *name)
{
    char full[NB_NUNCHAKU_NAME_BYTES + 16];
    snprintf(full, sizeof full, "%s.%s", module, name);
    return nb_checkpoint_find(c, full);
}

static nb_status need(const nb_checkpoint *c, const char *module, const char *name,
                      const nb_stored **out)
{
    *out = part(c, module, name);
    if (*out) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: tensor %s.%s is missing", nb_checkpoint_source(c), module,
                   name);
}

static nb_status check_shape(const nb_stored *t, int rank, int64_t n, int64_t k)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    const int64_t wanted[2] = {n, k};
    if (t->rank == rank && t->shape[0] == n && (rank == 1 || t->shape[1] == k)) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name,
                   nb_shape_text(rank, wanted, want), nb_shape_text(t->rank, t->shape, found));
}

static int is_16_bits(const nb_stored *t)
{
    return t->dtype == NB_DTYPE_F16 || t->dtype == NB_DTYPE_BF16;
}

static nb_status check_type(const nb_stored *t, int good, const char *wanted)
{
    if (good) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", t->file, t->name, wanted,
                   nb_dtype_name(t->dtype));
}

/* A vector of n, of finite numbers, none of them 0 if they multiply or divide. */
static nb_status need_vector(const nb_checkpoint *c, const char *module, const char *name,
                             int64_t n, int may_be_0, const nb_stored **out)
{
    NB_TRY(need(c, module, name, out));
    const nb_stored *t = *out;
    NB_TRY(check_type(t, is_16_bits(t) || t->dtype == NB_DTYPE_F32, "F16, BF16 or F32"));
    NB_TRY(check_shape(t, 1, n, 0));
    for (int64_t i = 0; i < n; i++) {
        float value = nb_load_f32(t->dtype, t->data, i);
        if (!isfinite(value) || (value == 0 && !may_be_0))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "element %lld is %g", t->file, t->name,
                           (long long)i, (double)value);
    }
    return NB_OK;
}

/* --- layers --- */

static nb_status find_number(const nb_checkpoint *c, const char *module, float *out)
{
    const nb_stored *t = part(c, module, "wtscale");
    if (!t) return NB_OK;
    NB_TRY(check_type(t, is_16_bits(t) || t->dtype == NB_DTYPE_F32, "F16, BF16 or F32"));
    if (nb_stored_count(t) != 1)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted one number", t->file, t->name);
    *out = nb_load_f32(t->dtype, t->data, 0);
    if (isfinite(*out) && *out != 0) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "the scale is %g", t->file, t->name, (double)*out);
}

/* All scales, the padding's too: a NaN there is as wrong as elsewhere. */
static nb_status check_scale_values(const nb_stored *t)
{
    const uint8_t *codes = t->data;
    int64_t n = nb_stored_count(t);
    for (int64_t i = 0; i < n; i++)
        if (t->dtype == NB_DTYPE_F8_E4M3 ? (codes[i] & E4M3_NAN) == E4M3_NAN
                                         : !isfinite(nb_load_f32(t->dtype, t->data, i)))
            return nb_fail(NB_E_DATA, TENSOR_FORMAT "element %lld is not finite", t->file,
                           t->name, (long long)i);
    return NB_OK;
}

static nb_status find_scales(const nb_checkpoint *c, const char *module, nb_nunchaku_layer *l)
{
    NB_TRY(need(c, module, "wscales", &l->scales));
    l->is_integer = is_16_bits(l->scales);
    NB_TRY(check_type(l->scales, l->is_integer || l->scales->dtype == NB_DTYPE_F8_E4M3,
                      "F8_E4M3, F16 or BF16"));
    int64_t block = l->is_integer ? GROUP : NB_NVFP4_BLOCK;
    NB_TRY(check_shape(l->scales, 2, l->k_padded / block, l->n_padded));
    return check_scale_values(l->scales);
}

static nb_status find_branch(const nb_checkpoint *c, const char *module, int wanted,
                             nb_nunchaku_layer *l)
{
    if (!wanted && !part(c, module, "lora_down") && !part(c, module, "lora_up")) return NB_OK;
    NB_TRY(need(c, module, "lora_down", &l->down));
    NB_TRY(need(c, module, "lora_up", &l->up));
    NB_TRY(check_type(l->down, is_16_bits(l->down), "F16 or BF16"));
    NB_TRY(check_type(l->up, l->up->dtype == l->down->dtype, nb_dtype_name(l->down->dtype)));
    l->rank = l->down->rank == 2 ? l->down->shape[1] : 0;
    if (l->rank < 1 || l->rank % RANK_MULTIPLE)
        return check_shape(l->down, 2, l->k_padded,
                           round_up(l->rank + !l->rank, RANK_MULTIPLE));
    NB_TRY(check_shape(l->down, 2, l->k_padded, l->rank));
    return check_shape(l->up, 2, l->n_padded, l->rank);
}

nb_status nb_nunchaku_find_layer(const nb_checkpoint *c, const char *module, int64_t n,
                                 int64_t k, int behind_gelu, int wants_branch,
                                 nb_nunchaku_layer *out)
{
    nb_nunchaku_layer l = {.n = n, .k = k, .scale = 1};
    l.n_padded = round_up(n, PAD);
    l.k_padded = round_up(k, PAD);
    NB_TRY(need(c, module, "qweight", &l.codes));
    NB_TRY(check_type(l.codes, l.codes->dtype == NB_DTYPE_I8 || l.codes->dtype == NB_DTYPE_U8,
                      "I8"));
    NB_TRY(check_shape(l.codes, 2, l.n_padded, l.k_padded / 2));
    if (k % NB_NVFP4_BLOCK)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted columns in blocks of %d, found %lld",
                       l.codes->file, l.codes->name, NB_NVFP4_BLOCK, (long long)k);
    NB_TRY(find_scales(c, module, &l));
    NB_TRY(find_number(c, module, &l.scale));
    if (part(c, module, "wcscales"))
        NB_TRY(need_vector(c, module, "wcscales", l.n_padded, 1, &l.row_scales));
    NB_TRY(need_vector(c, module, "smooth", l.k_padded, 0, &l.smooth));
    NB_TRY(need_vector(c, module, "bias", l.n_padded, 1, &l.bias));
    NB_TRY(find_branch(c, module, wants_branch, &l));
    l.shift = l.is_integer && behind_gelu ? GELU_SHIFT : 0;
    *out = l;
    return NB_OK;
}

float nb_nunchaku_vector(const nb_stored *t, int64_t i)
{
    return nb_load_f32(t->dtype, t->data, nb_nunchaku_vector_place(i));
}

nb_nunchaku_step nb_nunchaku_layer_step(const nb_nunchaku_layer *l, int64_t row, int64_t k0)
{
    int64_t at = nb_nunchaku_group_place(row, k0 / GROUP, l->k_padded / GROUP);
    float scale = nb_load_f32(l->scales->dtype, l->scales->data, at);
    return (nb_nunchaku_step){.scale = scale, .offset = -8 * scale};
}

static void integer_row(const nb_nunchaku_layer *l, int64_t row, const uint8_t *codes,
                        float *out)
{
    for (int64_t k0 = 0; k0 < l->k; k0 += 2) {
        float scale = nb_nunchaku_layer_step(l, row, k0).scale;
        uint8_t byte = codes[k0 / 2] ^ 0x88; /* no sign: 0 ... 15 */
        out[k0] = (float)((byte & 15) - 8) * scale;
        out[k0 + 1] = (float)((byte >> 4) - 8) * scale;
    }
}

/* The first half of `codes` is for the codes, the other for the scales. */
void nb_nunchaku_row(const nb_nunchaku_layer *l, int64_t row, uint8_t *codes, float *out)
{
    uint8_t *scales = codes + l->k / 2;
    float factor = l->scale;
    nb_nunchaku_codes(l->codes->data, l->k_padded, row, l->k, codes);
    if (l->row_scales) factor *= nb_nunchaku_vector(l->row_scales, row);
    if (l->is_integer) {
        integer_row(l, row, codes, out);
    } else {
        nb_nunchaku_scales(l->scales->data, l->k_padded, row, l->k / NB_NVFP4_BLOCK, scales);
        for (int64_t i = 0; i < l->k; i++)
            out[i] = nb_f32_from_e2m1(codes[i / 2] >> (i % 2 ? 4 : 0)) *
                     nb_f32_from_e4m3(scales[i / NB_NVFP4_BLOCK]);
    }
    for (int64_t i = 0; factor != 1 && i < l->k; i++) out[i] *= factor;
}

/* --- modulations --- */

static nb_status find_groups(const nb_checkpoint *c, const char *module, const char *name,
                             const nb_nunchaku_modulation *m, const nb_stored **out)
{
    NB_TRY(need(c, module, name, out));
    const nb_stored *t = *out;
    int64_t groups = m->k / GROUP;
    NB_TRY(check_type(t, is_16_bits(t), "F16 or BF16"));
    if (t->rank != 2 || t->shape[0] < groups) return check_shape(t, 2, groups, m->n);
    NB_TRY(check_shape(t, 2, t->shape[0], m->n));
    return check_scale_values(t);
}

nb_status nb_nunchaku_find_modulation(const nb_checkpoint *c, const char *module, int chunks,
                                      int64_t width, nb_nunchaku_modulation *out)
{
    nb_nunchaku_modulation m = {.n = chunks * width, .k = width, .chunks = chunks};
    NB_TRY(need(c, module, "qweight", &m.codes));
    NB_TRY(check_type(m.codes, m.codes->dtype == NB_DTYPE_I32, "I32"));
    if (width % GROUP)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted columns in groups of %d, found %lld",
                       m.codes->file, m.codes->name, GROUP, (long long)width);
    NB_TRY(check_shape(m.codes, 2, m.n / 4, m.k / 2));
    NB_TRY(find_groups(c, module, "wscales", &m, &m.scales));
    NB_TRY(find_groups(c, module, "wzeros", &m, &m.zeros));
    NB_TRY(need_vector(c, module, "bias", m.n, 1, &m.bias));
    *out = m;
    return NB_OK;
}

int64_t nb_nunchaku_modulation_row(const nb_nunchaku_modulation *m, int64_t i)
{
    int64_t width = m->n / m->chunks;
    return i % width * m->chunks + i / width;
}

/* The second chunk and the last but one are scales: of three, one and the same. */
float nb_nunchaku_modulation_bias(const nb_nunchaku_modulation *m, int64_t i)
{
    int64_t chunk = i / (m->n / m->chunks);
    float bias = nb_load_f32(m->bias->dtype, m->bias->data, nb_nunchaku_modulation_row(m, i));
    return chunk == 1 || chunk == m->chunks - 2 ? bias - 1 : bias;
}

nb_nunchaku_step nb_nunchaku_modulation_step(const nb_nunchaku_modulation *m, int64_t i,
                                             int64_t k0)
{
    int64_t at = k0 / GROUP * m->n + nb_nunchaku_modulation_row(m, i);
    return (nb_nunchaku_step){.scale = nb_load_f32(m->scales->dtype, m->scales->data, at),
                              .offset = nb_load_f32(m->zeros->dtype, m->zeros->data, at)};
}
