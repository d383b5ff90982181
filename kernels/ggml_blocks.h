/*
 * The block types of GGUF files: 32 elements, or 256 in the K types, are integers of few bits
 * with steps, and in some types offsets, in front of or behind them. To a decoder all are one:
 *
 *     value = q * step + offset        q an integer of 8 bits with a sign; step and offset are
 *                                      the same for 16 elements, offset is -0 where a type has
 *                                      none
 *
 * A step has at most 19 bits (an F16 times an integer of 8), so the product with q is exact in
 * F32 and the sum is the only rounding: a value is the same to the bit in whatever way it is
 * computed, fused or not.
 *
 * Halves, unless a field says otherwise: of a byte, the low half belongs to element j of the
 * block (of 32) or of a run of 64, the high half to element j + 16 (or j + 32).
 *
 * Source: the layout that ggml gives these types ("k-quants", ggml pull request 1684, for the K
 * types; 5590 and 5747 for IQ4; OCP Microscaling Formats 1.0 for MXFP4); fields have ggml's
 * names.
 */
#ifndef NB_KERNELS_GGML_BLOCKS_H
#define NB_KERNELS_GGML_BLOCKS_H

#include <stdint.h>

#include "kernels/base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NB_BLOCK_MAX = 256, NB_BLOCK_STEP = 16, NB_BLOCK_STEPS = NB_BLOCK_MAX / NB_BLOCK_STEP };

#define NB_PACKED __attribute__((packed))

/* X(nb_dtype's name, nb_block's name, elements) */
#define NB_BLOCK_LIST(X)                                                                       \
    X(Q4_0, q4_0, 32)                                                                          \
    X(Q4_1, q4_1, 32)                                                                          \
    X(Q5_0, q5_0, 32)                                                                          \
    X(Q5_1, q5_1, 32)                                                                          \
    X(Q8_0, q8_0, 32)                                                                          \
    X(Q2_K, q2_k, 256)                                                                         \
    X(Q3_K, q3_k, 256)                                                                         \
    X(Q4_K, q4_k, 256)                                                                         \
    X(Q5_K, q5_k, 256)                                                                         \
    X(Q6_K, q6_k, 256)                                                                         \
    X(IQ4_NL, iq4_nl, 32)                                                                      \
    X(IQ4_XS, iq4_xs, 256)                                                                     \
    X(MXFP4, mxfp4, 32)                                                                        \
    X(NVFP4, nvfp4, 64)

/* What a code of four bits stands for: of the IQ4 types values that lie closer around zero, of
 * MXFP4 and NVFP4 twice what E2M1 is. */
#define NB_IQ4_VALUES  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
#define NB_E2M1_VALUES 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12

/* (q - 8) * d */
typedef struct NB_PACKED nb_block_q4_0 {
    uint16_t d;     /* F16 */
    uint8_t qs[16]; /* q, two in a byte */
} nb_block_q4_0;

/* q * d + m */
typedef struct NB_PACKED nb_block_q4_1 {
    uint16_t d, m;  /* F16 */
    uint8_t qs[16]; /* q, two in a byte */
} nb_block_q4_1;

/* (q - 16) * d */
typedef struct NB_PACKED nb_block_q5_0 {
    uint16_t d;     /* F16 */
    uint8_t qh[4];  /* the fifth bit of element j is bit j of these 32 */
    uint8_t qs[16]; /* the lower four, two in a byte */
} nb_block_q5_0;

/* q * d + m */
typedef struct NB_PACKED nb_block_q5_1 {
    uint16_t d, m;  /* F16 */
    uint8_t qh[4];  /* as in q5_0 */
    uint8_t qs[16]; /* the lower four, two in a byte */
} nb_block_q5_1;

/* q * d */
typedef struct NB_PACKED nb_block_q8_0 {
    uint16_t d;    /* F16 */
    int8_t qs[32]; /* q */
} nb_block_q8_0;

/* q * (scale * d) - min * dmin, 16 elements under one scale and min */
typedef struct NB_PACKED nb_block_q2_k {
    uint8_t scales[16]; /* scale in the low half, min in the high one */
    uint8_t qs[64];     /* bits 2j, 2j + 1 of byte 32 i + l: q of element 128 i + 32 j + l */
    uint16_t d, dmin;   /* F16 */
} nb_block_q2_k;

/* (q - 4) * ((scale - 32) * d), 16 elements under one scale */
typedef struct NB_PACKED nb_block_q3_k {
    uint8_t hmask[32];  /* the third bit of element 32 j + l is bit j of byte l */
    uint8_t qs[64];     /* the lower two as in q2_k */
    uint8_t scales[12]; /* lower four bits of scale i and i + 8 in the halves of byte i < 8;
                           upper two of scale i at bit i / 4 * 2 of byte 8 + i % 4 */
    uint16_t d;         /* F16 */
} nb_block_q3_k;

/* q * (scale * d) - min * dmin, 32 elements under one scale and min */
typedef struct NB_PACKED nb_block_q4_k {
    uint16_t d, dmin;   /* F16 */
    uint8_t scales[12]; /* scales 0 to 3 in the lower six bits of bytes 0 to 3, mins 0 to 3 of
                           bytes 4 to 7; of scale and min i of 4 to 7 the lower four bits in the
                           halves of byte i + 4, the upper two above scale and min i - 4 */
    uint8_t qs[128];    /* q, two in a byte, runs of 64 */
} nb_block_q4_k;

/* q * (scale * d) - min * dmin, 32 elements under one scale and min */
typedef struct NB_PACKED nb_block_q5_k {
    uint16_t d, dmin;   /* F16 */
    uint8_t scales[12]; /* as in q4_k */
    uint8_t qh[32];     /* the fifth bit of element 32 j + l is bit j of byte l */
    uint8_t qs[128];    /* the lower four, two in a byte, runs of 64 */
} nb_block_q5_k;

/* (q - 32) * (scale * d), 16 elements under one scale */
typedef struct NB_PACKED nb_block_q6_k {
    uint8_t ql[128];   /* the lower four bits of q, two in a byte: j and j + 64, runs of 128 */
    uint8_t qh[64];    /* bits 2j, 2j + 1 of byte 32 i + l: the upper two of 128 i + 32 j + l */
    int8_t scales[16]; /* with a sign */
    uint16_t d;        /* F16 */
} nb_block_q6_k;

/* value(q) * d */
typedef struct NB_PACKED nb_block_iq4_nl {
    uint16_t d;     /* F16 */
    uint8_t qs[16]; /* q, two in a byte */
} nb_block_iq4_nl;

/* value(q) * ((scale - 32) * d), 32 elements under one scale */
typedef struct NB_PACKED nb_block_iq4_xs {
    uint16_t d;          /* F16 */
    uint8_t scales_h[2]; /* upper two bits of scale i at bit 2 i of these 16 */
    uint8_t scales_l[4]; /* lower four of scale i at bit 4 i of these 32 */
    uint8_t qs[128];     /* q, two in a byte, runs of 32 */
} nb_block_iq4_xs;

/* value(q) * 2^(e - 128); of e = 255, which OCP calls NaN, ggml makes 2^127 too */
typedef struct NB_PACKED nb_block_mxfp4 {
    uint8_t e;
    uint8_t qs[16]; /* q, two in a byte */
} nb_block_mxfp4;

/* value(q) * scale / 2, 16 elements under one scale */
typedef struct NB_PACKED nb_block_nvfp4 {
    uint8_t scales[4]; /* E4M3 without a sign; 0x7f is 0 */
    uint8_t qs[32];    /* q, two in a byte: of 16 elements j and j + 8 */
} nb_block_nvfp4;

#ifdef __cplusplus
#define NB_BLOCK_IS(type, bytes) static_assert(sizeof(type) == (bytes), #type)
#else
#define NB_BLOCK_IS(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#endif
NB_BLOCK_IS(nb_block_q4_0, 18);
NB_BLOCK_IS(nb_block_q4_1, 20);
NB_BLOCK_IS(nb_block_q5_0, 22);
NB_BLOCK_IS(nb_block_q5_1, 24);
NB_BLOCK_IS(nb_block_q8_0, 34);
NB_BLOCK_IS(nb_block_q2_k, 84);
NB_BLOCK_IS(nb_block_q3_k, 110);
NB_BLOCK_IS(nb_block_q4_k, 144);
NB_BLOCK_IS(nb_block_q5_k, 176);
NB_BLOCK_IS(nb_block_q6_k, 210);
NB_BLOCK_IS(nb_block_iq4_nl, 18);
NB_BLOCK_IS(nb_block_iq4_xs, 136);
NB_BLOCK_IS(nb_block_mxfp4, 17);
NB_BLOCK_IS(nb_block_nvfp4, 36);
#undef NB_BLOCK_IS

/* 2^(e - 128) of an MXFP4 block: exact, those below 2^-126 too. */
static inline float nb_mxfp4_step(uint8_t e)
{
    return nb_f32_from_bits(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23);
}

/* Half of an NVFP4 block's scale, exact. */
static inline float nb_nvfp4_step(uint8_t code)
{
    uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
    if (code == 0x7f) return 0;
    if (!exponent) return (float)mantissa * 0x1p-10f;
    return nb_f32_from_bits((exponent + 119) << 23 | mantissa << 20);
}

/* A block as integers with their steps; what lies behind the block's elements is not set. */
typedef struct nb_block_values {
    int8_t q[NB_BLOCK_MAX];
    float step[NB_BLOCK_STEPS], offset[NB_BLOCK_STEPS]; /* of 16 elements each */
} nb_block_values;

/* One block at any alignment: the specification of faster ones. */
void nb_block_unpack_ref(nb_dtype dtype, const void *block, nb_block_values *out);

/* Elements first ... first+count of an array of blocks, as F32. */
void nb_blocks_decode_ref(nb_dtype dtype, const void *blocks, int64_t first, int64_t count,
                          float *out);

#ifdef __cplusplus
}
#endif
#endif
