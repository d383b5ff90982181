#include "kernels/base/dtype.h"

#include <assert.h>
#include <math.h>

static const struct {
    const char *name;
    size_t bytes;
    int64_t elements;
} dtypes[] = {
#define ROW(name_, bytes_, elements_) {#name_, bytes_, elements_},
    NB_DTYPE_LIST(ROW)
#undef ROW
};

size_t nb_dtype_bytes(nb_dtype dtype)
{
    assert(dtype < NB_DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

int64_t nb_dtype_elements(nb_dtype dtype)
{
    assert(dtype < NB_DTYPE_COUNT);
    return dtypes[dtype].elements;
}

const char *nb_dtype_name(nb_dtype dtype)
{
    assert(dtype < NB_DTYPE_COUNT);
    return dtypes[dtype].name;
}

nb_dtype nb_dtype_from_name(const char *name)
{
    int i = 0;
    while (i < NB_DTYPE_COUNT && (dtypes[i].elements > 1 || strcmp(dtypes[i].name, name) != 0))
        i++;
    return (nb_dtype)i;
}

/* A float of 1 sign bit, `e` exponent bits with the IEEE bias and `m` mantissa bits. */
static float from_small_float(unsigned code, int e, int m, int is_ieee)
{
    unsigned sign = code >> (e + m), exponent = (code >> m) & ((1u << e) - 1u);
    unsigned mantissa = code & ((1u << m) - 1u), top = (1u << e) - 1u;
    int bias = (1 << (e - 1)) - 1;
    float value;
    if (is_ieee && exponent == top)
        value = mantissa ? NAN : INFINITY;
    else if (exponent == 0)
        value = ldexpf((float)mantissa, 1 - bias - m);
    else
        value = ldexpf((float)(mantissa | (1u << m)), (int)exponent - bias - m);
    return sign ? -value : value;
}

float nb_f32_from_f16(uint16_t h)
{
    return from_small_float(h, 5, 10, 1);
}

uint16_t nb_f16_from_f32(float value)
{
    uint16_t sign = (uint16_t)((nb_f32_bits(value) >> 16) & 0x8000u);
    float a = fabsf(value);
    if (isnan(value)) return (uint16_t)(sign | 0x7e00u);
    if (a >= 65520.0f) return (uint16_t)(sign | 0x7c00u);
    if (a < 0x1p-14f) return (uint16_t)(sign | (uint16_t)lrintf(a * 0x1p24f));
    uint32_t bits = nb_f32_bits(a);
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}

float nb_f32_from_e4m3(uint8_t code)
{
    if ((code & 0x7f) == 0x7f) return NAN;
    return from_small_float(code, 4, 3, 0);
}

uint8_t nb_e4m3_from_f32(float value)
{
    uint8_t sign = (uint8_t)((nb_f32_bits(value) >> 24) & 0x80u);
    float a = fabsf(value);
    if (isnan(value)) return (uint8_t)(sign | 0x7f);
    if (a >= 448.0f) return (uint8_t)(sign | 0x7e);
    if (a < 0x1p-6f) return (uint8_t)(sign | (uint8_t)lrintf(a * 0x1p9f));
    uint32_t bits = nb_f32_bits(a);
    bits += 0x7ffffu + ((bits >> 20) & 1u);
    return (uint8_t)(sign | (uint8_t)((bits >> 20) - (120u << 3)));
}

float nb_f32_from_e5m2(uint8_t code)
{
    return from_small_float(code, 5, 2, 1);
}

float nb_f32_from_e8m0(uint8_t code)
{
    return code == 255 ? NAN : ldexpf(1.0f, (int)code - 127);
}

float nb_load_f32(nb_dtype dtype, const void *data, int64_t index)
{
    const unsigned char *at =
        (const unsigned char *)data + index * (int64_t)nb_dtype_bytes(dtype);
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case NB_DTYPE_F32:
        memcpy(&single, at, sizeof single);
        return single;
    case NB_DTYPE_F64:
        memcpy(&wide, at, sizeof wide);
        return (float)wide;
    case NB_DTYPE_F16:
        memcpy(&half, at, sizeof half);
        return nb_f32_from_f16(half);
    case NB_DTYPE_BF16:
        memcpy(&half, at, sizeof half);
        return nb_f32_from_bf16(half);
    case NB_DTYPE_F8_E4M3:
        return nb_f32_from_e4m3(*at);
    case NB_DTYPE_F8_E5M2:
        return nb_f32_from_e5m2(*at);
    case NB_DTYPE_F8_E8M0:
        return nb_f32_from_e8m0(*at);
    default:
        assert(!"not a floating type");
        return NAN;
    }
}
