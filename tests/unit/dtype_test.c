/*
 * Conversions of small floats, every code, against a formula that shares nothing with the code:
 * the value is built up in double precision from the definition of the type, and rounding is
 * checked by distance to the neighbours.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "kernels/base/dtype.h"

/* (-1)^s * 2^(e - bias) * 1.m, or 2^(1 - bias) * 0.m, by repeated doubling and halving. */
static double definition(unsigned code, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    unsigned mantissa = code % (1u << mantissa_bits);
    int exponent = (int)(code >> mantissa_bits) % (1 << exponent_bits);
    int negative = (int)(code >> (mantissa_bits + exponent_bits)) & 1;
    double value = mantissa;
    for (int i = 0; i < mantissa_bits; i++) value /= 2;
    if (exponent) value += 1;
    for (int e = exponent ? exponent : 1; e > bias; e--) value *= 2;
    for (int e = exponent ? exponent : 1; e < bias; e++) value /= 2;
    return negative ? -value : value;
}

static void check_code(unsigned code, float found, double wanted, int is_nan)
{
    if (is_nan ? !isnan(found) : (double)found != wanted || !signbit(found) != !signbit(wanted))
        fail_msg("code 0x%x: wanted %g, found %g", code, is_nan ? (double)NAN : wanted,
                 (double)found);
}

static void decodes_every_f16(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 0x10000; code++) {
        double wanted = definition(code, 5, 10);
        unsigned exponent = code >> 10 & 31, mantissa = code & 1023;
        if (exponent == 31) wanted = code & 0x8000 ? -(double)INFINITY : (double)INFINITY;
        check_code(code, nb_f32_from_f16((uint16_t)code), wanted, exponent == 31 && mantissa);
    }
}

static void decodes_every_f8(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 256; code++) {
        check_code(code, nb_f32_from_e4m3((uint8_t)code), definition(code, 4, 3),
                   (code & 0x7f) == 0x7f);
        double wanted = definition(code, 5, 2);
        unsigned exponent = code >> 2 & 31, mantissa = code & 3;
        if (exponent == 31) wanted = code & 0x80 ? -(double)INFINITY : (double)INFINITY;
        check_code(code, nb_f32_from_e5m2((uint8_t)code), wanted, exponent == 31 && mantissa);
        check_code(code, nb_f32_from_e8m0((uint8_t)code), pow(2, (int)code - 127), code == 255);
    }
    assert_true(nb_f32_from_e4m3(0x7e) == 448.0f);
    assert_true(nb_f32_from_e5m2(0x7b) == 57344.0f);
    assert_true(nb_f32_from_f16(0x7bff) == 65504.0f);
}

static void decodes_every_bf16(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 0x10000; code++) {
        double wanted = definition(code, 8, 7);
        unsigned exponent = code >> 7 & 255, mantissa = code & 127;
        if (exponent == 255) wanted = code & 0x8000 ? -(double)INFINITY : (double)INFINITY;
        check_code(code, nb_f32_from_bf16((uint16_t)code), wanted, exponent == 255 && mantissa);
    }
}

/* Types as a list of codes in rising order of value, to find the nearest by search. */
struct small {
    unsigned largest; /* code of the largest finite value */
    double (*value)(unsigned code);
    unsigned (*encode)(float value);
};

static double f16_value(unsigned code)
{
    return definition(code, 5, 10);
}

static unsigned f16_encode(float value)
{
    return nb_f16_from_f32(value);
}

static double bf16_value(unsigned code)
{
    return definition(code, 8, 7);
}

static unsigned bf16_encode(float value)
{
    return nb_bf16_from_f32(value);
}

static double e4m3_value(unsigned code)
{
    return definition(code, 4, 3);
}

static unsigned e4m3_encode(float value)
{
    return nb_e4m3_from_f32(value);
}

static const struct small f16 = {0x7bff, f16_value, f16_encode};
static const struct small bf16 = {0x7f7f, bf16_value, bf16_encode};
static const struct small e4m3 = {0x7e, e4m3_value, e4m3_encode};

/* Every value comes back, everything between two neighbours goes to the nearer one, and halfway
 * to the even code. */
static void check_rounding(const struct small *type, unsigned sign)
{
    for (unsigned code = 0; code <= type->largest; code++) {
        double low = type->value(code), high = type->value(code + 1);
        double middle = low + (high - low) / 2;
        assert_int_equal(type->encode((float)low), code);
        assert_int_equal(type->encode((float)-low), code | sign);
        if (code == type->largest) break;
        unsigned even = code % 2 ? code + 1 : code;
        if ((double)(float)middle != middle) continue; /* below the smallest F32 */
        assert_int_equal(type->encode((float)middle), even);
        assert_int_equal(type->encode((float)-middle), even | sign);
        assert_int_equal(type->encode(nextafterf((float)middle, 0)), code);
        assert_int_equal(type->encode(nextafterf((float)middle, INFINITY)), code + 1);
    }
}

static void rounds_to_nearest_even(void **state)
{
    (void)state;
    check_rounding(&f16, 0x8000);
    check_rounding(&bf16, 0x8000);
    check_rounding(&e4m3, 0x80);
}

static void rounds_the_extremes(void **state)
{
    (void)state;
    assert_int_equal(nb_f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(nb_f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(nb_f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(nb_bf16_from_f32(3.4e38f), 0x7f80);
    assert_int_equal(nb_bf16_from_f32(INFINITY), 0x7f80);
    assert_int_equal(nb_e4m3_from_f32(464.0f), 0x7e);
    assert_int_equal(nb_e4m3_from_f32(1e30f), 0x7e);
    assert_int_equal(nb_e4m3_from_f32(-INFINITY), 0xfe);
    /* NaN with its payload in the lowest bits only must not become infinity. */
    float nan = nb_f32_from_bits(0xff800001u);
    assert_true(isnan(nb_round_bf16(nan)));
    assert_true(isnan(nb_f32_from_f16(nb_f16_from_f32(nan))));
    assert_true(isnan(nb_f32_from_e4m3(nb_e4m3_from_f32(nan))));
    assert_true(nb_round_bf16(1.00390625f) == 1.0f); /* halfway between 1 and 1 + 2^-7 */
}

static void loads_at_any_alignment(void **state)
{
    (void)state;
    unsigned char bytes[32] = {0};
    const float single = 1.5f;
    const double wide = -0.1;
    memcpy(bytes + 5, &single, 4);
    assert_true(nb_load_f32(NB_DTYPE_F32, bytes + 1, 1) == 1.5f);
    memcpy(bytes + 11, &wide, 8);
    assert_true(nb_load_f32(NB_DTYPE_F64, bytes + 3, 1) == -0.1f);
    bytes[3] = 0x00, bytes[4] = 0x3e;
    assert_true(nb_load_f32(NB_DTYPE_F16, bytes + 1, 1) == 1.5f);
    bytes[3] = 0xc0, bytes[4] = 0x3f;
    assert_true(nb_load_f32(NB_DTYPE_BF16, bytes + 1, 1) == 1.5f);
    bytes[3] = 0x3c;
    assert_true(nb_load_f32(NB_DTYPE_F8_E4M3, bytes, 3) == 1.5f);
    bytes[3] = 0x3e;
    assert_true(nb_load_f32(NB_DTYPE_F8_E5M2, bytes, 3) == 1.5f);
    bytes[3] = 128;
    assert_true(nb_load_f32(NB_DTYPE_F8_E8M0, bytes, 3) == 2.0f);
}

static void knows_its_names(void **state)
{
    (void)state;
    static const char wanted[][8] = {"F32", "BF16", "F8_E4M3", "I64", "BOOL"};
    static const size_t bytes[] = {4, 2, 1, 8, 1};
    for (int i = 0; i < NB_DTYPE_COUNT; i++) {
        int has_blocks = nb_dtype_elements((nb_dtype)i) > 1;
        assert_int_equal(nb_dtype_from_name(nb_dtype_name((nb_dtype)i)),
                         has_blocks ? NB_DTYPE_COUNT : i);
    }
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        assert_int_equal(nb_dtype_bytes(nb_dtype_from_name(wanted[i])), bytes[i]);
    assert_int_equal(nb_dtype_from_name("F8"), NB_DTYPE_COUNT);
    assert_int_equal(nb_dtype_from_name("f32"), NB_DTYPE_COUNT);
    assert_int_equal(nb_dtype_from_name(""), NB_DTYPE_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_every_f16),   cmocka_unit_test(decodes_every_f8),
        cmocka_unit_test(decodes_every_bf16),  cmocka_unit_test(rounds_to_nearest_even),
        cmocka_unit_test(rounds_the_extremes), cmocka_unit_test(loads_at_any_alignment),
        cmocka_unit_test(knows_its_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
