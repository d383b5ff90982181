/* PSNR and SSIM against scikit-image 0.26 on pictures made by a formula, and their limits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pipeline/likeness.h"

enum { WIDTH = 40, HEIGHT = 24 };

static void fill(uint8_t *rgb, uint32_t seed, uint32_t noise)
{
    for (uint32_t i = 0; i < 3 * WIDTH * HEIGHT; i++) {
        seed = seed * 1103515245u + 12345u;
        uint32_t value = i / 3 % WIDTH * 5 + i / 3 / WIDTH * 3 + (seed >> 28) * noise;
        rgb[i] = (uint8_t)(value < 255 ? value : 255);
    }
}

static void equals_scikit_image(void **state)
{
    (void)state;
    uint8_t a[3 * WIDTH * HEIGHT], b[3 * WIDTH * HEIGHT];
    double ssim;
    fill(a, 1, 1);
    fill(b, 2, 4);
    assert_true(fabs(nb_psnr(a, b, WIDTH, HEIGHT) - 19.071676053735306) < 1e-9);
    assert_int_equal(nb_ssim(a, b, WIDTH, HEIGHT, &ssim), NB_OK);
    assert_true(fabs(ssim - 0.5909145350500938) < 1e-9);
}

static void equal_pictures(void **state)
{
    (void)state;
    uint8_t a[3 * WIDTH * HEIGHT];
    double ssim;
    fill(a, 1, 1);
    assert_true(nb_psnr(a, a, WIDTH, HEIGHT) == NB_PSNR_EQUAL);
    assert_int_equal(nb_ssim(a, a, WIDTH, HEIGHT, &ssim), NB_OK);
    assert_true(fabs(ssim - 1.0) < 1e-12);
    assert_int_equal(nb_ssim(a, a, 10, HEIGHT, &ssim), NB_E_USAGE);
}

static void cosines(void **state)
{
    (void)state;
    const float a[2] = {3.0f, 4.0f}, b[2] = {-4.0f, 3.0f}, zero[2] = {0};
    assert_true(fabs(nb_cosine(a, a, 2) - 1.0) < 1e-12);
    assert_true(fabs(nb_cosine(a, b, 2)) < 1e-12);
    assert_true(nb_cosine(a, zero, 2) == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_scikit_image),
        cmocka_unit_test(equal_pictures),
        cmocka_unit_test(cosines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
