/*
 * Element types, named as safetensors names them, and exact conversions of the small float
 * types.
 */
#ifndef NB_KERNELS_BASE_DTYPE_H
#define NB_KERNELS_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, bytes, elements): of a block, which is one element but for the types of GGUF files
 * (kernels/ggml_blocks.h). F4_E2M1X2 is two E2M1 codes (kernels/fp4.h), counted as one element;
 * files call it U8. */
#define NB_DTYPE_LIST(X)                                                                       \
    X(F32, 4, 1)                                                                               \
    X(F16, 2, 1)                                                                               \
    X(BF16, 2, 1)                                                                              \
    X(F8_E4M3, 1, 1)                                                                           \
    X(F8_E5M2, 1, 1)                                                                           \
    X(F8_E8M0, 1, 1)                                                                           \
    X(F4_E2M1X2, 1, 1)                                                                         \
    X(F64, 8, 1)                                                                               \
    X(BOOL, 1, 1)                                                                              \
    X(U8, 1, 1)                                                                                \
    X(I8, 1, 1)                                                                                \
    X(U16, 2, 1)                                                                               \
    X(I16, 2, 1)                                                                               \
    X(U32, 4, 1)                                                                               \
    X(I32, 4, 1)                                                                               \
    X(U64, 8, 1)                                                                               \
    X(I64, 8, 1)                                                                               \
    X(Q4_0, 18, 32)                                                                            \
    X(Q4_1, 20, 32)                                                                            \
    X(Q5_0, 22, 32)                                                                            \
    X(Q5_1, 24, 32)                                                                            \
    X(Q8_0, 34, 32)                                                                            \
    X(Q2_K, 84, 256)                                                                           \
    X(Q3_K, 110, 256)                                                                          \
    X(Q4_K, 144, 256)                                                                          \
    X(Q5_K, 176, 256)                                                                          \
    X(Q6_K, 210, 256)                                                                          \
    X(IQ4_NL, 18, 32)                                                                          \
    X(IQ4_XS, 136, 256)                                                                        \
    X(MXFP4, 17, 32)                                                                           \
    X(NVFP4, 36, 64)

typedef enum nb_dtype {
#define NB_DTYPE_ENUM(name, bytes, elements) NB_DTYPE_##name,
    NB_DTYPE_LIST(NB_DTYPE_ENUM)
#undef NB_DTYPE_ENUM
        NB_DTYPE_COUNT
} nb_dtype;

size_t nb_dtype_bytes(nb_dtype dtype);     /* of an element, or of a block of them */
int64_t nb_dtype_elements(nb_dtype dtype); /* of a block; 1: the type has none */
const char *nb_dtype_name(nb_dtype dtype); /* "F8_E4M3" */

/* The dtype of a safetensors name, NB_DTYPE_COUNT if there is none: safetensors has no blocks.
 */
nb_dtype nb_dtype_from_name(const char *name);

static inline float nb_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t nb_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float nb_f32_from_bf16(uint16_t h)
{
    return nb_f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays a (quiet) NaN. */
static inline uint16_t nb_bf16_from_f32(float value)
{
    uint32_t bits = nb_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

static inline float nb_round_bf16(float value)
{
    return nb_f32_from_bf16(nb_bf16_from_f32(value));
}

float nb_f32_from_f16(uint16_t h);
uint16_t nb_f16_from_f32(float value); /* nearest even, overflow gives infinity */
float nb_f32_from_e4m3(uint8_t code);  /* OCP "fn": no infinity, 0x7f and 0xff are NaN */
uint8_t nb_e4m3_from_f32(float value); /* nearest even, saturates at 448, NaN stays NaN */
float nb_f32_from_e5m2(uint8_t code);  /* IEEE-like: infinities and NaNs */
float nb_f32_from_e8m0(uint8_t code);  /* 2^(code-127), 255 is NaN */

/* Element `index` of an array of floating type `dtype` as F32 (F64 is rounded), at any
 * alignment. Integers and types of blocks are a bug here. */
float nb_load_f32(nb_dtype dtype, const void *data, int64_t index);

#ifdef __cplusplus
}
#endif
#endif
