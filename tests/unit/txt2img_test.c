/*
 * The picture path around the arithmetic (which the golden cases check): defaults, limits,
 * recipes, stopping, memory, latents that no picture comes from.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/json.h"
#include "kernels/base/log.h"
#include "kernels/base/sha256.h"
#include "pipeline/png.h"
#include "tests/unit/pictures.h"

static int n_warnings, n_exploded;

static void count_warnings(void *arg, nb_log_level level, const char *line)
{
    (void)arg;
    n_warnings += level == NB_LOG_WARN;
    n_exploded += level == NB_LOG_WARN && strstr(line, "about 1 is usual") != NULL;
}

static int set_up(void **state)
{
    nb_log_set_sink(count_warnings, NULL);
    return open_folder_and_device(state);
}

/* ---- requests -----------------------------------------------------------------------------
 */

static void check_defaults(const char *model, int steps, int64_t t5_length,
                           nb_noise_dtype noise)
{
    nb_pipeline *p;
    nb_txt2img_request r = NB_TXT2IMG_REQUEST_DEFAULT;
    assert_int_equal(nb_pipeline_open(model, device, &p), NB_OK);
    for (int twice = 0; twice < 2; twice++) {
        assert_int_equal(nb_txt2img_resolve(p, &r), NB_OK);
        assert_int_equal(r.width, 64); /* the VAE's sample_size */
        assert_int_equal(r.height, 64);
        assert_int_equal(r.steps, steps);
        assert_int_equal(r.t5_length, t5_length);
        assert_int_equal(r.noise, noise);
        assert_int_equal(r.batch_count, 1);
        assert_true(r.guidance == 3.5 && r.true_cfg == 1);
    }
    nb_pipeline_close(p);
}

static void defaults(void **state)
{
    (void)state;
    check_defaults(MODELS "/dev", 28, 512, NB_NOISE_F32);
    check_defaults(MODELS "/schnell", 4, 256, NB_NOISE_BF16);
    check_defaults(MODELS "/f16", 28, 512, NB_NOISE_F16);
}

static void sizes_are_floored(void **state)
{
    (void)state;
    nb_pipeline *p;
    nb_txt2img_request r = small_request();
    assert_int_equal(nb_pipeline_open(MODELS "/dev", device, &p), NB_OK);
    n_warnings = 0;
    assert_int_equal(nb_txt2img_resolve(p, &r), NB_OK);
    assert_int_equal(n_warnings, 0);
    r.width = 107;
    r.height = 75;
    assert_int_equal(nb_txt2img_resolve(p, &r), NB_OK);
    assert_int_equal(n_warnings, 1);
    assert_int_equal(r.width, 96);
    assert_int_equal(r.height, 64);
    nb_pipeline_close(p);
}

static void check_refused(nb_txt2img_request r, const char *word)
{
    struct run run = {0};
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_E_USAGE);
    if (!strstr(nb_error_message(), word))
        fail_msg("\"%s\" lacks %s", nb_error_message(), word);
    assert_int_equal(run.n, 0);
}

#define CHECK_REFUSED(field, value, word)                                                      \
    do {                                                                                       \
        nb_txt2img_request refused = small_request();                                          \
        refused.field = value;                                                                 \
        check_refused(refused, word);                                                          \
    } while (0)

static void limits(void **state)
{
    (void)state;
    CHECK_REFUSED(width, 8, "width");
    CHECK_REFUSED(height, 1 << 20, "height");
    CHECK_REFUSED(steps, -1, "steps");
    CHECK_REFUSED(steps, 1001, "steps");
    CHECK_REFUSED(guidance, 1e30, "guidance");
    CHECK_REFUSED(true_cfg, -1, "true CFG");
    CHECK_REFUSED(t5_length, 513, "T5 length");
    CHECK_REFUSED(batch_count, -2, "batch");
    CHECK_REFUSED(rng_sms, -2, "multiprocessors");
    nb_txt2img_request r = small_request();
    r.only_set = 1;
    r.only = 1;
    check_refused(r, "picture");
    r = small_request();
    r.rng = NB_RNG_TORCH_CUDA;
    r.noise = NB_NOISE_BF16_8BIT;
    check_refused(r, "bf16-8bit");
}

static void prompt_is_not_utf8(void **state)
{
    (void)state;
    struct run run = {0};
    nb_txt2img_request r = small_request();
    r.prompt = "bad \xff byte";
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_E_DATA);
    assert_non_null(strstr(nb_error_message(), "prompt"));
}

/* ---- pictures -----------------------------------------------------------------------------
 */

static void check_pixels(const char *path, const char *sha256)
{
    nb_image image;
    char hex[65];
    assert_int_equal(nb_png_read(path, &image), NB_OK);
    nb_sha256_of(image.rgb, (size_t)(3 * image.width * image.height), hex);
    assert_string_equal(hex, sha256);
    free(image.rgb);
}

static void recipe(void **state)
{
    (void)state;
    struct run run = {.png = in_folder("recipe.png")};
    nb_txt2img_request r = small_request();
    char *text;
    json_t *json, *model;
    r.seed = UINT64_MAX;
    r.negative_prompt = "no\nlines";
    r.compute_why = "it may";
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_OK);
    assert_int_equal(run.stages, (1u << NB_STAGE_COUNT) - 1);
    assert_int_equal(run.result.n_pictures, 1);
    assert_int_equal(run.result.n_steps, 2);
    check_pixels(run.png, run.sha256[0]);

    assert_int_equal(nb_png_read_text(run.png, "nibble", &text), NB_OK);
    assert_non_null(text);
    assert_int_equal(nb_json_parse("nibble", text, strlen(text), &json), NB_OK);
    free(text);
    assert_string_equal(json_string_value(json_object_get(json, "nibble")), "1.2.3");
    assert_string_equal(json_string_value(json_object_get(json, "prompt")), r.prompt);
    assert_string_equal(json_string_value(json_object_get(json, "pixels")), run.sha256[0]);
    assert_string_equal(json_string_value(json_object_get(json, "seed")),
                        "18446744073709551615");
    assert_string_equal(json_string_value(json_object_get(json, "compute")), "f32");
    assert_string_equal(json_string_value(json_object_get(json, "compute_why")), "it may");
    assert_int_equal(json_integer_value(json_object_get(json, "steps")), 2);
    model = json_object_get(json, "model");
    for (int i = 0; i < NB_PART_COUNT; i++)
        assert_int_equal(json_string_length(json_object_get(model, nb_part_name((nb_part)i))),
                         64);
    json_decref(json);

    assert_int_equal(nb_png_read_text(run.png, "parameters", &text), NB_OK);
    assert_non_null(text);
    assert_non_null(
        strstr(text, "a caf\xc3\xa9, small\nNegative prompt: no\nlines\nSteps: 2, "));
    assert_non_null(strstr(text, "Distilled CFG Scale: 3.5, Seed: 18446744073709551615, "
                                 "Size: 32x32, Model hash: "));
    free(text);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    struct run one = {.threads = 1};
    nb_txt2img_request r = small_request();
    assert_int_equal(run_model(&one, MODELS "/schnell", &r), NB_OK);
    for (int threads = 2; threads <= 7; threads += 5) {
        struct run more = {.threads = threads};
        assert_int_equal(run_model(&more, MODELS "/schnell", &r), NB_OK);
        assert_string_equal(more.sha256[0], one.sha256[0]);
    }
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    struct run run = {.threads = 2};
    nb_txt2img_request r = small_request();
    r.steps = 6;
    r.negative_prompt = "";
    r.true_cfg = 2;
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_OK);
    assert_true(run.chunks_first > 0);
    assert_int_equal(run.chunks_first, run.chunks_last);
}

/* ---- ends before the end ------------------------------------------------------------------
 */

static void stopping(void **state)
{
    (void)state;
    struct run later = {.stop_at = 1}, at_once = {.stop = 1};
    nb_txt2img_request r = small_request();
    assert_int_equal(run_model(&later, MODELS "/dev", &r), NB_E_STOPPED);
    assert_int_equal(later.n, 0);
    assert_int_equal(later.result.n_steps, 1);
    assert_int_equal(run_model(&at_once, MODELS "/dev", &r), NB_E_STOPPED);
    assert_int_equal(at_once.result.n_steps, 0);
}

/* A limit that the whole picture does not fit in, but tiles do; and one that nothing fits in.
 */
static void memory_limit(void **state)
{
    (void)state;
    nb_pipeline *p;
    const nb_vae *vae;
    struct run whole = {0}, tiled = {0}, none = {0};
    nb_txt2img_request r = small_request();
    r.width = r.height = 128; /* tiles are of 64 pixels */
    r.steps = 1;
    assert_int_equal(nb_pipeline_open(MODELS "/dev", device, &p), NB_OK);
    assert_int_equal(nb_pipeline_vae(p, &vae), NB_OK);
    size_t most = nb_vae_decode_bytes(vae, 16, 16, 0);
    assert_true(nb_vae_decode_bytes(vae, 16, 16, 1) < most);
    nb_pipeline_close(p);
    r.max_memory = most;
    assert_int_equal(run_model(&whole, MODELS "/dev", &r), NB_OK);
    assert_false(whole.result.tiled);
    r.max_memory = most - 1;
    assert_int_equal(run_model(&tiled, MODELS "/dev", &r), NB_OK);
    assert_true(tiled.result.tiled);
    assert_string_not_equal(tiled.sha256[0], whole.sha256[0]);
    r.max_memory = 1000;
    assert_int_equal(run_model(&none, MODELS "/dev", &r), NB_E_USAGE);
}

/* A white picture is never handed out as if nothing were wrong. */
static void exploded_latents(void **state)
{
    (void)state;
    static const int64_t shape[] = {1, 4, 64};
    struct run usual = {0}, large = {0}, infinite = {0};
    nb_txt2img_request r = small_request();
    r.steps = 1;
    r.init_latents = write_latents("latents", NB_DTYPE_F32, 3, shape, 1);
    n_exploded = 0;
    assert_int_equal(run_model(&usual, MODELS "/dev", &r), NB_OK);
    assert_int_equal(n_exploded, 0);
    r.init_latents = write_latents("latents", NB_DTYPE_F32, 3, shape, 1000);
    assert_int_equal(run_model(&large, MODELS "/dev", &r), NB_OK);
    assert_int_equal(n_exploded, 1);
    r.init_latents = write_latents("latents", NB_DTYPE_F32, 3, shape, INFINITY);
    assert_int_equal(run_model(&infinite, MODELS "/dev", &r), NB_E_DATA);
    assert_non_null(
        strstr(nb_error_message(), "latents.safetensors: 256 of 256 latents are not finite"));
    assert_int_equal(infinite.result.n_pictures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(sizes_are_floored),
        cmocka_unit_test(limits),
        cmocka_unit_test(prompt_is_not_utf8),
        cmocka_unit_test(recipe),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(stopping),
        cmocka_unit_test(memory_limit),
        cmocka_unit_test(exploded_latents),
    };
    return cmocka_run_group_tests(tests, set_up, close_folder_and_device);
}
