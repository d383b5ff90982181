/*
 * Synthetic pipelines: opened and drawn like any other, with values of the size that keeps
 * activations where they are; and how much arithmetic the published shapes are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "models/cost.h"
#include "pipeline/synthetic.h"
#include "pipeline/txt2img.h"
#include "tests/unit/scratch.h"

static const nb_quant_format formats[] = {NB_QUANT_NVFP4, NB_QUANT_MXFP4, NB_QUANT_FP8,
                                          NB_QUANT_BF16, NB_QUANT_F32};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* Everything in miniature. */
static nb_synthetic_spec small_spec(nb_quant_format format)
{
    return (nb_synthetic_spec){
        .n_double = 1, .n_single = 1, .weights = format, .text_weights = format};
}

/* ---- values ---- */

static void test_variance(void **state)
{
    enum { N = 64 };
    static const int64_t columns[] = {64, 3072, 15360};
    static float row[15360];
    nb_arena *arena;
    (void)state;
    assert_ok(nb_arena_create(&arena));
    for (int f = 0; f < N_FORMATS; f++)
        for (size_t c = 0; c < 3; c++) {
            nb_weight w;
            double squares = 0, sum = 0;
            int64_t k = columns[c];
            assert_ok(nb_synthetic_matrix(arena, NULL, formats[f], N, k, &w));
            for (int64_t i = 0; i < N; i++) {
                nb_weight_decode_ref(&w, i, 0, k, row);
                for (int64_t j = 0; j < k; j++) {
                    squares += (double)row[j] * (double)row[j];
                    sum += (double)row[j];
                }
            }
            double rms = sqrt(squares / (double)(N * k)) * sqrt((double)k);
            double mean = sum / (double)(N * k) * sqrt((double)k);
            if (rms < 0.7 || rms > 1.42 || fabs(mean) > 0.1)
                fail_msg("format %d, k %d: rms %g, mean %g", f, (int)k, rms, mean);
        }
    nb_arena_destroy(arena);
}

/* ---- pipelines ---- */

/* The values of a picture: how many differ from the first one. */
static nb_status look(void *arg, const nb_picture *picture)
{
    int *differ = arg;
    for (int64_t i = 0; i < 3 * picture->width * picture->height; i++)
        *differ += picture->rgb[i] != picture->rgb[0];
    return NB_OK;
}

static void draw(const char *path, nb_dtype transformer)
{
    nb_device *device;
    nb_pipeline *pipeline;
    nb_stream *s;
    nb_checkpoint *c;
    nb_txt2img_result result;
    nb_txt2img_request request = NB_TXT2IMG_REQUEST_DEFAULT;
    int differ = 0;
    const nb_txt2img_callbacks callbacks = {.arg = &differ, .picture = look};
    char part[600];
    request.prompt = "a ship in a harbour, 4 masts; caf\xc3\xa9";
    request.width = request.height = 32;
    request.steps = 2;
    request.t5_length = 24;
    assert_ok(nb_device_open("cpu", &device));
    assert_ok(nb_pipeline_open(path, device, &pipeline));
    assert_ok(nb_stream_create(device, NB_COMPUTE_F32, 2, NULL, &s));
    assert_ok(nb_txt2img(pipeline, s, &request, &callbacks, &result));
    assert_true(differ > 32 * 32);
    assert_true(result.clip_used > 10 && result.t5_used > 10);
    snprintf(part, sizeof part, "%s/transformer", path);
    assert_ok(nb_checkpoint_open(part, &c));
    const nb_stored *t = nb_checkpoint_find(c, "transformer_blocks.0.attn.to_q.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, transformer);
    nb_checkpoint_close(c);
    nb_stream_destroy(s);
    nb_pipeline_close(pipeline);
    nb_device_close(device);
}

static void test_pipeline(void **state)
{
    static const nb_dtype dtypes[N_FORMATS] = {NB_DTYPE_U8, NB_DTYPE_U8, NB_DTYPE_F8_E4M3,
                                               NB_DTYPE_BF16, NB_DTYPE_F32};
    for (int f = 0; f < N_FORMATS; f++) {
        char name[16];
        nb_synthetic_spec spec = small_spec(formats[f]);
        spec.guidance = f % 2;
        snprintf(name, sizeof name, "model%d", f);
        const char *path = scratch_path(state, name);
        assert_int_equal(mkdir(path, 0777), 0);
        assert_ok(nb_synthetic_pipeline_write(&spec, path, NULL));
        draw(path, dtypes[f]);
    }
}

static void test_check(void **state)
{
    nb_synthetic_spec spec = small_spec(NB_QUANT_NVFP4);
    const char *path = scratch_path(state, "model");
    assert_int_equal(mkdir(path, 0777), 0);
    assert_fails(nb_synthetic_pipeline_check(&spec, path), NB_E_DATA, "no synthetic pipeline");
    assert_ok(nb_synthetic_pipeline_write(&spec, path, NULL));
    assert_ok(nb_synthetic_pipeline_check(&spec, path));
    spec.n_single = 3;
    assert_fails(nb_synthetic_pipeline_check(&spec, path), NB_E_DATA,
                 "single: wanted 3, found 1");
    spec = small_spec(NB_QUANT_MXFP4);
    assert_fails(nb_synthetic_pipeline_check(&spec, path), NB_E_DATA, "weights: wanted");
    spec = small_spec(NB_QUANT_NVFP4);
    spec.parts = 1u << NB_PART_VAE;
    assert_fails(nb_synthetic_pipeline_check(&spec, path), NB_E_DATA, "full parts");
}

static void count_bytes(void *arg, size_t bytes)
{
    *(size_t *)arg += bytes;
}

static void test_watch(void **state)
{
    nb_synthetic_spec spec = small_spec(NB_QUANT_NVFP4);
    atomic_int stop = 0;
    size_t written = 0, wanted = 0;
    const nb_synthetic_watch watch = {&stop, count_bytes, &written};
    const char *path = scratch_path(state, "model"), *other = scratch_path(state, "stopped");
    assert_int_equal(mkdir(path, 0777) | mkdir(other, 0777), 0);
    assert_ok(nb_synthetic_pipeline_write(&spec, path, &watch));
    for (int i = 0; i < NB_PART_COUNT; i++) {
        size_t bytes;
        assert_ok(nb_synthetic_part_bytes(&spec, (nb_part)i, &bytes));
        wanted += bytes;
    }
    assert_int_equal(written, wanted);
    stop = 1;
    assert_fails(nb_synthetic_pipeline_write(&spec, other, &watch), NB_E_STOPPED, "stopped");
    assert_int_not_equal(access(scratch_path(state, "stopped/model_index.json"), F_OK), 0);
}

/* The published sizes: 11.9 thousand million parameters, of which 3.25 are modulations. */
static void test_sizes(void **state)
{
    nb_synthetic_spec spec = {.guidance = 1,
                              .n_double = NB_FLUX_DOUBLE_BLOCKS,
                              .n_single = NB_FLUX_SINGLE_BLOCKS,
                              .weights = NB_QUANT_BF16,
                              .text_weights = NB_QUANT_BF16,
                              .parts = (1u << NB_PART_COUNT) - 1u};
    static const double published[NB_PART_COUNT] = {
        [NB_PART_CLIP] = 123060480,
        [NB_PART_T5] = 4762310656,
        [NB_PART_FLUX] = 11901408320,
        [NB_PART_VAE] = 49545475, /* the decoder's */
    };
    size_t bytes;
    (void)state;
    for (int i = 0; i < NB_PART_COUNT; i++) {
        assert_ok(nb_synthetic_part_bytes(&spec, (nb_part)i, &bytes));
        assert_int_equal(bytes, 2 * published[i]);
    }
    spec.weights = NB_QUANT_NVFP4;
    assert_ok(nb_synthetic_part_bytes(&spec, NB_PART_FLUX, &bytes));
    assert_true(bytes > 6.6e9 && bytes < 6.9e9);
}

/* ---- arithmetic ---- */

static void assert_near(double found, double wanted, double tolerance)
{
    if (fabs(found - wanted) > tolerance * wanted)
        fail_msg("wanted %g, found %g", wanted, found);
}

static void test_cost(void **state)
{
    const nb_flux_config flux = {.in_channels = 64,
                                 .out_channels = 64,
                                 .n_double = 19,
                                 .n_single = 38,
                                 .n_heads = 24,
                                 .head_dim = 128,
                                 .text_dim = 4096,
                                 .pooled_dim = 768};
    const nb_t5_config t5 = {.vocab = 32128,
                             .d_model = 4096,
                             .d_ff = 10240,
                             .d_kv = 64,
                             .n_heads = 64,
                             .n_layers = 24,
                             .gated = 1};
    const nb_clip_config clip = {.d_model = 768, .d_ff = 3072, .n_heads = 12, .n_layers = 12};
    const nb_vae_config vae = {.channels = {128, 256, 512, 512},
                               .n_levels = 4,
                               .n_resnets = 2,
                               .latent_channels = 16,
                               .out_channels = 3,
                               .mid_attention = 1};
    (void)state;
    /* By hand: 57 blocks of 12 d d weights, less what the last one leaves out. */
    nb_cost step = nb_flux_cost(&flux, 512, 4096);
    double d = 3072, block = 2 * 12 * d * d;
    assert_near(step.linear, 57 * 4608 * block - 512 * block * 10 / 12 + 4096 * 4 * 64 * d,
                1e-9);
    assert_near(step.attn, 4 * d * 4608 * (57 * 4608.0 - 512), 1e-9);
    assert_near(nb_cost_sum(step), 74.4e12, 0.01);
    assert_near(nb_flux_begin_cost(&flux, 512, 4).linear,
                4 * 2 * 344 * d * d + 2 * 512 * d * 4096, 0.01);
    assert_near(nb_t5_cost(&t5, 512).linear, 2.0 * 512 * (4762310656.0 - 32128 * 4096), 1e-3);
    assert_near(nb_t5_cost(&t5, 512).attn, 24 * 4.0 * 512 * 512 * 4096, 1e-9);
    assert_near(nb_clip_cost(&clip, 77).linear, 2.0 * 77 * 12 * 12 * 768 * 768, 1e-9);
    assert_near(nb_vae_cost(&vae, 64, 64).conv, 2.48e12, 0.01);
    assert_near(nb_vae_cost(&vae, 128, 128).conv, 4 * nb_vae_cost(&vae, 64, 64).conv, 1e-9);
    assert_near(nb_vae_cost(&vae, 64, 64).attn, 4.0 * 4096 * 4096 * 512, 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variance),
        cmocka_unit_test_setup_teardown(test_pipeline, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_check, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_watch, scratch_setup, scratch_teardown),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
