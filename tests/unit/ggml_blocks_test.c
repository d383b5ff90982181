/*
 * Blocks of GGUF files against what the gguf package expands them to, bit for bit
 * (golden/make_gguf.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ggml_blocks.h"
#include "kernels/weight.h"
#include "models/safetensors.h"
#include "tests/unit/scratch.h"

static nb_safetensors *golden;

static int open_golden(void **state)
{
    (void)state;
    return (int)nb_safetensors_open("golden/gguf/blocks.safetensors", &golden);
}

static int close_golden(void **state)
{
    (void)state;
    nb_safetensors_close(golden);
    return 0;
}

static const nb_stored *part(nb_dtype dtype, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", nb_dtype_name(dtype), suffix);
    const nb_stored *t = nb_safetensors_find(golden, name);
    if (!t) fail_msg("%s is not in the golden file", name);
    return t;
}

static void same_bits(nb_dtype dtype, const float *found, const float *wanted, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (nb_f32_bits(found[i]) != nb_f32_bits(wanted[i]))
            fail_msg("%s: element %d is %.9g, wanted %.9g", nb_dtype_name(dtype), (int)i,
                     (double)found[i], (double)wanted[i]);
}

static void check_type(nb_dtype dtype)
{
    const nb_stored *blocks = part(dtype, "blocks"), *values = part(dtype, "values");
    int64_t n = nb_stored_count(values), size = nb_dtype_elements(dtype);
    float *found = malloc((size_t)n * sizeof *found), *wanted = malloc(values->bytes);
    char *moved = malloc(blocks->bytes + 1); /* blocks lie at any address */
    assert_true(found && wanted && moved);
    assert_int_equal(blocks->bytes, (size_t)(n / size) * nb_dtype_bytes(dtype));
    memcpy(wanted, values->data, values->bytes);
    memcpy(moved + 1, blocks->data, blocks->bytes);
    nb_blocks_decode_ref(dtype, moved + 1, 0, n, found);
    same_bits(dtype, found, wanted, n);

    /* Any part of any row of a matrix. */
    nb_weight w = {.data = moved + 1, .dtype = dtype, .n = n / size / 2, .k = 2 * size};
    w.scale = 1;
    assert_int_equal(nb_weight_row_bytes(&w) * w.n, blocks->bytes);
    nb_weight_decode_ref(&w, 1, 5, 2 * size - 9, found);
    same_bits(dtype, found, wanted + 2 * size + 5, 2 * size - 9);
    w = nb_weight_rows(w, 2, 2);
    nb_weight_decode_ref(&w, 1, 0, 2 * size, found);
    same_bits(dtype, found, wanted + 6 * size, 2 * size);
    free(moved);
    free(wanted);
    free(found);
}

static void decodes_as_the_package_does(void **state)
{
    int n_types = 0;
    (void)state;
    for (int i = 0; i < NB_DTYPE_COUNT; i++) {
        if (nb_dtype_elements((nb_dtype)i) == 1) continue;
        check_type((nb_dtype)i);
        n_types++;
    }
    assert_int_equal(n_types, 14);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_the_package_does),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
