/*
 * PNG files: what is written is read back, texts and all; a failure leaves no file and says
 * why.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <png.h>

#include "kernels/base/file.h"
#include "pipeline/png.h"

static char folder[] = "/tmp/nibble-png-XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/a.png", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails if anything else was left there */
}

enum { W = 37, H = 23 };

static nb_image sample(void)
{
    static uint8_t rgb[H * W * 3];
    for (int i = 0; i < H * W * 3; i++) rgb[i] = (uint8_t)(i * 7 + i / 11);
    return (nb_image){.width = W, .height = H, .rgb = rgb};
}

static void check_same(const nb_image *want)
{
    nb_image got;
    assert_int_equal(nb_png_read(path, &got), NB_OK);
    assert_int_equal(got.width, want->width);
    assert_int_equal(got.height, want->height);
    assert_memory_equal(got.rgb, want->rgb, (size_t)(3 * want->width * want->height));
    free(got.rgb);
}

static void check_text(const char *key, const char *want)
{
    char *got;
    assert_int_equal(nb_png_read_text(path, key, &got), NB_OK);
    if (want)
        assert_string_equal(got, want);
    else
        assert_null(got);
    free(got);
}

static void round_trip(void **state)
{
    (void)state;
    nb_image image = sample();
    const nb_png_text texts[] = {{"nibble", "{\"prompt\":\"x\"}", 1},
                                 {"parameters", "caf\xc3\xa9\nSteps: 4", 0},
                                 {"Software", "plain", 0}};
    assert_int_equal(nb_png_write(path, &image, texts, 3), NB_OK);
    check_same(&image);
    check_text("nibble", texts[0].text);
    check_text("parameters", texts[1].text);
    check_text("Software", "plain");
    check_text("absent", NULL);
    assert_int_equal(nb_png_write(path, &image, NULL, 0), NB_OK);
    check_text("nibble", NULL);
}

static void to_descriptor(void **state)
{
    (void)state;
    nb_image image = sample();
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(nb_png_write_fd(fd, "standard output", &image, NULL, 0), NB_OK);
    close(fd);
    check_same(&image);
}

static void write_errors(void **state)
{
    (void)state;
    nb_image image = sample();
    assert_int_equal(nb_png_write("/nonexistent-folder/a.png", &image, NULL, 0),
                     NB_E_CANTCREATE);
    assert_non_null(strstr(nb_error_message(), "/nonexistent-folder/a.png"));
    int full = open("/dev/full", O_WRONLY);
    if (full < 0) skip();
    assert_int_equal(nb_png_write_fd(full, "standard output", &image, NULL, 0), NB_E_IO);
    assert_non_null(strstr(nb_error_message(), "standard output"));
    close(full);
}

static void put(const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

/* Every prefix of a file, and garbage, is refused with the file's name. */
static void broken_files(void **state)
{
    (void)state;
    nb_image image = sample(), got;
    nb_buffer *file;
    assert_int_equal(nb_png_write(path, &image, NULL, 0), NB_OK);
    assert_int_equal(nb_file_map(path, &file), NB_OK);
    size_t n = nb_buffer_bytes(file);
    char *copy = malloc(n);
    assert_non_null(copy);
    memcpy(copy, nb_buffer_data(file), n);
    nb_buffer_unref(file);
    for (size_t bytes = 0; bytes < n; bytes += 1 + bytes / 16) {
        put(copy, bytes);
        assert_int_equal(nb_png_read(path, &got), NB_E_DATA);
        assert_non_null(strstr(nb_error_message(), path));
    }
    copy[n / 2] ^= 0x55;
    put(copy, n);
    assert_int_equal(nb_png_read(path, &got), NB_E_DATA);
    free(copy);
    assert_int_equal(nb_png_read("/nonexistent.png", &got), NB_E_NOINPUT);
}

/* Other colour types, by libpng's simple interface. */
static void other_formats(void **state)
{
    (void)state;
    static const uint8_t grey_alpha[4] = {10, 255, 200, 128};
    png_image header = {
        .version = PNG_IMAGE_VERSION, .width = 2, .height = 1, .format = PNG_FORMAT_GA};
    assert_true(png_image_write_to_file(&header, path, 0, grey_alpha, 0, NULL));
    check_same(&(nb_image){2, 1, (uint8_t[]){10, 10, 10, 200, 200, 200}});
    static const uint8_t index[2] = {1, 0}, map[6] = {1, 2, 3, 250, 251, 252};
    header = (png_image){.version = PNG_IMAGE_VERSION,
                         .width = 2,
                         .height = 1,
                         .format = PNG_FORMAT_RGB_COLORMAP,
                         .colormap_entries = 2};
    assert_true(png_image_write_to_file(&header, path, 0, index, 0, map));
    check_same(&(nb_image){2, 1, (uint8_t[]){250, 251, 252, 1, 2, 3}});
}

/* Half to even, as numpy's round; clamped; NaN is black. */
static void rounding(void **state)
{
    (void)state;
    const float planes[3 * 2] = {0.5f / 255, 1.5f / 255, 2.5f / 255, 1.25f, -3.0f, 0.0f};
    uint8_t rgb[6];
    nb_image_from_planes(rgb, planes, 1, 2);
    const uint8_t want[6] = {0, 2, 0, 2, 255, 0};
    assert_memory_equal(rgb, want, 6);
    const float nan[3] = {nb_f32_from_bits(0x7fc00000u), 1, 0.999f};
    nb_image_from_planes(rgb, nan, 1, 1);
    assert_int_equal(rgb[0], 0);
    assert_int_equal(rgb[1], 255);
    assert_int_equal(rgb[2], 255);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),    cmocka_unit_test(to_descriptor),
        cmocka_unit_test(write_errors),  cmocka_unit_test(broken_files),
        cmocka_unit_test(other_formats), cmocka_unit_test(rounding),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
