#include "kernels/ref/quantize_rows.h"

#include <math.h>
#include <string.h>

#include "kernels/fp4.h"

enum { LANES = NB_QUANTIZE_LANES };

static void decode_bf16(const uint16_t *in, float *out)
{
    for (int i = 0; i < LANES; i++) out[i] = nb_f32_from_bits((uint32_t)in[i] << 16);
}

/* Shifting gives the right mantissa under an exponent that is 112 too small, denormals too; the
 * product puts it right. Infinity and NaN are told by their exponent. */
static void decode_f16(const uint16_t *in, float *out)
{
    for (int i = 0; i < LANES; i++) {
        uint32_t sign = (uint32_t)(in[i] & 0x8000u) << 16;
        uint32_t magnitude = (uint32_t)(in[i] & 0x7fffu) << 13;
        uint32_t bits = nb_f32_bits(nb_f32_from_bits(magnitude) * 0x1p112f);
        uint32_t special = magnitude | 0x7f800000u;
        out[i] = nb_f32_from_bits(sign | (magnitude >= 0x0f800000u ? special : bits));
    }
}

static void decode_lanes(nb_dtype dtype, const uint8_t *in, float *out)
{
    uint16_t halves[LANES]; /* the file may put them at any address */
    switch (dtype) {
    case NB_DTYPE_F32:
        memcpy(out, in, LANES * sizeof *out);
        break;
    case NB_DTYPE_BF16:
        memcpy(halves, in, sizeof halves);
        decode_bf16(halves, out);
        break;
    default:
        memcpy(halves, in, sizeof halves);
        decode_f16(halves, out);
    }
}

static int is_plain(const nb_weight *w)
{
    int fast =
        w->dtype == NB_DTYPE_F32 || w->dtype == NB_DTYPE_BF16 || w->dtype == NB_DTYPE_F16;
    return fast && w->scale_kind == NB_SCALE_NONE && w->scale == 1.0f;
}

void nb_quantize_decode(const nb_weight *w, int64_t row, int64_t k0, int64_t count, float *out)
{
    int64_t i = 0;
    if (is_plain(w)) {
        int64_t bytes = (int64_t)nb_dtype_bytes(w->dtype);
        const uint8_t *in = (const uint8_t *)w->data + (row * w->k + k0) * bytes;
        for (; i + LANES <= count; i += LANES) decode_lanes(w->dtype, in + i * bytes, out + i);
    }
    if (i < count) nb_weight_decode_ref(w, row, k0 + i, count - i, out + i);
}

float *nb_quantize_scratch(nb_stream *s, const nb_weight *w)
{
    return nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(s->threads, w->k)));
}

/* ---- the largest magnitude ---- */

struct amax_task {
    const nb_weight *w;
    float *rows; /* [n] */
    float *scratch;
};

static void amax_row(void *arg, int64_t row, int thread)
{
    struct amax_task *t = arg;
    int64_t k = t->w->k, i = 0;
    float *values = t->scratch + thread * k;
    uint32_t most = 0;
    nb_quantize_decode(t->w, row, 0, k, values);
    for (; i + LANES <= k; i += LANES) {
        uint32_t bits = nb_f32_bits(nb_amax16(values + i));
        most = bits > most ? bits : most;
    }
    for (; i < k; i++) {
        uint32_t bits = nb_magnitude_bits(values[i]);
        most = bits > most ? bits : most;
    }
    t->rows[row] = nb_f32_from_bits(most);
}

float nb_weight_amax(nb_stream *s, const nb_weight *w)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    uint32_t most = 0;
    struct amax_task t = {
        .w = w,
        .rows = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, &w->n)),
        .scratch = nb_quantize_scratch(s, w),
    };
    nb_parallel(s, w->n, amax_row, &t);
    for (int64_t i = 0; i < w->n && s->status == NB_OK; i++) {
        uint32_t bits = nb_magnitude_bits(t.rows[i]);
        most = bits > most ? bits : most;
    }
    nb_arena_rewind(s->arena, mark);
    return most < 0x7f800000u ? nb_f32_from_bits(most) : NAN;
}
