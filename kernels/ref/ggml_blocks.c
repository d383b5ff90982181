#include "kernels/ggml_blocks.h"

#include <assert.h>

enum { HALF = 16, RUN = 32 }; /* elements */

/* One step and offset for a block of 32. */
static void fill_steps(nb_block_values *out, float step, float offset)
{
    out->step[0] = out->step[1] = step;
    out->offset[0] = out->offset[1] = offset;
}

static void unpack_q4(const uint8_t *qs, int subtract, int8_t *q)
{
    for (int j = 0; j < HALF; j++) {
        q[j] = (int8_t)((qs[j] & 15) - subtract);
        q[j + HALF] = (int8_t)((qs[j] >> 4) - subtract);
    }
}

static void unpack_q5(const uint8_t *qs, const uint8_t *qh, int subtract, int8_t *q)
{
    for (int j = 0; j < RUN; j++) {
        int low = j < HALF ? qs[j] & 15 : qs[j - HALF] >> 4;
        int high = qh[j / 8] >> j % 8 & 1;
        q[j] = (int8_t)((low | high << 4) - subtract);
    }
}

static void unpack_q4_0(const nb_block_q4_0 *b, nb_block_values *out)
{
    unpack_q4(b->qs, 8, out->q);
    fill_steps(out, nb_f32_from_f16(b->d), -0.0f);
}

static void unpack_q4_1(const nb_block_q4_1 *b, nb_block_values *out)
{
    unpack_q4(b->qs, 0, out->q);
    fill_steps(out, nb_f32_from_f16(b->d), nb_f32_from_f16(b->m));
}

static void unpack_q5_0(const nb_block_q5_0 *b, nb_block_values *out)
{
    unpack_q5(b->qs, b->qh, 16, out->q);
    fill_steps(out, nb_f32_from_f16(b->d), -0.0f);
}

static void unpack_q5_1(const nb_block_q5_1 *b, nb_block_values *out)
{
    unpack_q5(b->qs, b->qh, 0, out->q);
    fill_steps(out, nb_f32_from_f16(b->d), nb_f32_from_f16(b->m));
}

static void unpack_q8_0(const nb_block_q8_0 *b, nb_block_values *out)
{
    for (int j = 0; j < RUN; j++) out->q[j] = b->qs[j];
    fill_steps(out, nb_f32_from_f16(b->d), -0.0f);
}

/* Two bits of element j of a K block. */
static int two_bits(const uint8_t *bytes, int j)
{
    return bytes[j / 128 * RUN + j % RUN] >> j % 128 / RUN * 2 & 3;
}

static void unpack_q2_k(const nb_block_q2_k *b, nb_block_values *out)
{
    float d = nb_f32_from_f16(b->d), dmin = nb_f32_from_f16(b->dmin);
    for (int j = 0; j < NB_BLOCK_MAX; j++) out->q[j] = (int8_t)two_bits(b->qs, j);
    for (int i = 0; i < NB_BLOCK_STEPS; i++) {
        out->step[i] = d * (float)(b->scales[i] & 15);
        out->offset[i] = -(dmin * (float)(b->scales[i] >> 4));
    }
}

static void unpack_q3_k(const nb_block_q3_k *b, nb_block_values *out)
{
    float d = nb_f32_from_f16(b->d);
    for (int j = 0; j < NB_BLOCK_MAX; j++) {
        int high = b->hmask[j % RUN] >> j / RUN & 1;
        out->q[j] = (int8_t)((two_bits(b->qs, j) | high << 2) - 4);
    }
    for (int i = 0; i < NB_BLOCK_STEPS; i++) {
        int low = i < 8 ? b->scales[i] & 15 : b->scales[i - 8] >> 4;
        int high = b->scales[8 + i % 4] >> i / 4 * 2 & 3;
        out->step[i] = d * (float)((low | high << 4) - 32);
        out->offset[i] = -0.0f;
    }
}

/* Scales and mins of q4_k and q5_k. */
static void unpack_k_scales(const uint8_t *s, float d, float dmin, nb_block_values *out)
{
    for (int i = 0; i < NB_BLOCK_MAX / RUN; i++) {
        int scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
        int min = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
        out->step[2 * i] = out->step[2 * i + 1] = d * (float)scale;
        out->offset[2 * i] = out->offset[2 * i + 1] = -(dmin * (float)min);
    }
}

/* Four bits of element j of a block in runs of 64. */
static int four_bits(const uint8_t *bytes, int j)
{
    return bytes[j / 64 * RUN + j % RUN] >> j % 64 / RUN * 4 & 15;
}

static void unpack_q4_k(const nb_block_q4_k *b, nb_block_values *out)
{
    for (int j = 0; j < NB_BLOCK_MAX; j++) out->q[j] = (int8_t)four_bits(b->qs, j);
    unpack_k_scales(b->scales, nb_f32_from_f16(b->d), nb_f32_from_f16(b->dmin), out);
}

static void unpack_q5_k(const nb_block_q5_k *b, nb_block_values *out)
{
    for (int j = 0; j < NB_BLOCK_MAX; j++) {
        int high = b->qh[j % RUN] >> j / RUN & 1;
        out->q[j] = (int8_t)(four_bits(b->qs, j) | high << 4);
    }
    unpack_k_scales(b->scales, nb_f32_from_f16(b->d), nb_f32_from_f16(b->dmin), out);
}

static void unpack_q6_k(const nb_block_q6_k *b, nb_block_values *out)
{
    float d = nb_f32_from_f16(b->d);
    for (int j = 0; j < NB_BLOCK_MAX; j++) {
        int low = b->ql[j / 128 * 64 + j % 64] >> j % 128 / 64 * 4 & 15;
        out->q[j] = (int8_t)((low | two_bits(b->qh, j) << 4) - 32);
    }
    for (int i = 0; i < NB_BLOCK_STEPS; i++) {
        out->step[i] = d * (float)b->scales[i];
        out->offset[i] = -0.0f;
    }
}

static const int8_t iq4_values[16] = {NB_IQ4_VALUES};
static const int8_t e2m1_values[16] = {NB_E2M1_VALUES};

static void unpack_table(const uint8_t *qs, const int8_t values[16], int8_t *q)
{
    for (int j = 0; j < HALF; j++) {
        q[j] = values[qs[j] & 15];
        q[j + HALF] = values[qs[j] >> 4];
    }
}

static void unpack_iq4_nl(const nb_block_iq4_nl *b, nb_block_values *out)
{
    unpack_table(b->qs, iq4_values, out->q);
    fill_steps(out, nb_f32_from_f16(b->d), -0.0f);
}

static void unpack_iq4_xs(const nb_block_iq4_xs *b, nb_block_values *out)
{
    float d = nb_f32_from_f16(b->d);
    for (int i = 0; i < NB_BLOCK_MAX / RUN; i++) {
        int low = b->scales_l[i / 2] >> i % 2 * 4 & 15;
        int high = b->scales_h[i / 4] >> i % 4 * 2 & 3;
        unpack_table(b->qs + i * HALF, iq4_values, out->q + i * RUN);
        out->step[2 * i] = out->step[2 * i + 1] = d * (float)((low | high << 4) - 32);
        out->offset[2 * i] = out->offset[2 * i + 1] = -0.0f;
    }
}

static void unpack_mxfp4(const nb_block_mxfp4 *b, nb_block_values *out)
{
    unpack_table(b->qs, e2m1_values, out->q);
    fill_steps(out, nb_mxfp4_step(b->e), -0.0f);
}

static void unpack_nvfp4(const nb_block_nvfp4 *b, nb_block_values *out)
{
    for (int j = 0; j < 64; j++) {
        int byte = b->qs[j / HALF * 8 + j % 8];
        out->q[j] = e2m1_values[j % HALF < 8 ? byte & 15 : byte >> 4];
    }
    for (int i = 0; i < 4; i++) {
        out->step[i] = nb_nvfp4_step(b->scales[i]);
        out->offset[i] = -0.0f;
    }
}

void nb_block_unpack_ref(nb_dtype dtype, const void *block, nb_block_values *out)
{
    switch (dtype) {
#define UNPACK(type, name, elements)                                                           \
    case NB_DTYPE_##type:                                                                      \
        unpack_##name(block, out);                                                             \
        break;
        NB_BLOCK_LIST(UNPACK)
#undef UNPACK
    default:
        assert(!"not a type of blocks");
    }
}

void nb_blocks_decode_ref(nb_dtype dtype, const void *blocks, int64_t first, int64_t count,
                          float *out)
{
    int64_t size = nb_dtype_elements(dtype), bytes = (int64_t)nb_dtype_bytes(dtype);
    int64_t held = -1;
    nb_block_values b;
    for (int64_t i = first; i < first + count; i++) {
        int64_t at = i % size;
        if (i / size != held) {
            held = i / size;
            nb_block_unpack_ref(dtype, (const char *)blocks + held * bytes, &b);
        }
        *out++ = (float)b.q[at] * b.step[at / NB_BLOCK_STEP] + b.offset[at / NB_BLOCK_STEP];
    }
}
