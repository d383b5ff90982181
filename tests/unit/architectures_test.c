/*
 * The four architectures by themselves, against what diffusers and transformers computed: each
 * gets the reference's own inputs, so an error is found in the model that makes it. Run on the
 * references in plain C and on everything the processor can do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "kernels/base/cpu.h"
#include "kernels/base/json.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/vae.h"

#define MODEL  "golden/flux/models/dev"
#define ANSWER "golden/flux/dev-square"
enum { STEPS = 3, SIDE = 4 /* image tokens a side: 64x64 pixels */ };

static nb_device *device;
static nb_stream *stream;
static nb_safetensors *expected;

static void must(nb_status status)
{
    if (status) fail_msg("%s", nb_error_message());
}

static int open_on(unsigned caps)
{
    must(nb_device_open_cpu(caps, &device));
    must(nb_stream_create(device, NB_COMPUTE_F32, 2, NULL, &stream));
    must(nb_safetensors_open(ANSWER "/expected.safetensors", &expected));
    return 0;
}

static int open_reference(void **state)
{
    (void)state;
    return open_on(0);
}

static int open_best(void **state)
{
    (void)state;
    return open_on(nb_cpu_caps());
}

static int close_all(void **state)
{
    (void)state;
    nb_safetensors_close(expected);
    nb_stream_destroy(stream);
    nb_device_close(device);
    return 0;
}

/* A tensor of the answer, with leading dimensions of 1 dropped, on the device. */
static nb_tensor answer(const char *name)
{
    const nb_stored *t = nb_safetensors_find(expected, name);
    int64_t shape[NB_MAX_RANK];
    int rank = 0;
    if (!t) fail_msg("no %s in the answer", name);
    for (int i = 0; i < t->rank; i++)
        if (rank || t->shape[i] != 1 || i == t->rank - 1) shape[rank++] = t->shape[i];
    nb_tensor copy = nb_stream_tensor(stream, NB_DTYPE_F32, rank, shape);
    assert_int_equal(t->dtype, NB_DTYPE_F32);
    nb_stream_upload(stream, copy, t->data);
    return copy;
}

/* Within 1e-4 of the expected values' range. */
static void assert_close(const char *what, nb_tensor got, nb_tensor want)
{
    must(nb_stream_sync(stream));
    int64_t n = nb_tensor_count(want);
    const float *g = nb_tensor_f32(got), *w = nb_tensor_f32(want);
    double error = 0, low = INFINITY, high = -INFINITY;
    assert_int_equal(nb_tensor_count(got), n);
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(g[i]));
        error = fmax(error, fabs((double)g[i] - (double)w[i]));
        low = fmin(low, (double)w[i]);
        high = fmax(high, (double)w[i]);
    }
    printf("%-24s %.1e of its range\n", what, error / (high - low));
    assert_true(high > low && error <= 1e-4 * (high - low));
}

static void load(const char *component, json_t **config, nb_checkpoint **checkpoint)
{
    char path[256];
    snprintf(path, sizeof path, MODEL "/%s", component);
    must(nb_checkpoint_open(path, checkpoint));
    snprintf(path, sizeof path, MODEL "/%s/config.json", component);
    must(nb_json_load(path, config));
}

/* The ids of case.json, padded. */
static void read_ids(const char *key, int32_t *ids, int64_t n, int32_t padding)
{
    json_t *root;
    must(nb_json_load(ANSWER "/case.json", &root));
    const json_t *array = json_object_get(root, key);
    for (int64_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(array, (size_t)i);
        ids[i] = id ? (int32_t)json_integer_value(id) : padding;
    }
    json_decref(root);
}

static void test_t5(void **state)
{
    json_t *json;
    nb_checkpoint *checkpoint;
    nb_t5_config config;
    nb_t5 *m;
    int32_t ids[512];
    (void)state;
    load("text_encoder_2", &json, &checkpoint);
    must(nb_t5_config_read("config.json", json, &config));
    must(nb_t5_open(checkpoint, &config, device, &m));
    nb_tensor want = answer("prompt_embeds");
    int64_t n = want.shape[0];
    assert_in_range(n, 1, 512);
    read_ids("t5_ids", ids, n, 0);
    nb_tensor states = nb_stream_tensor(stream, NB_DTYPE_F32, 2, want.shape);
    nb_t5_encode(m, stream, states, ids, n);
    assert_close("T5 states", states, want);
    nb_t5_close(m);
    nb_checkpoint_close(checkpoint);
    json_decref(json);
}

static void test_clip(void **state)
{
    json_t *json;
    nb_checkpoint *checkpoint;
    nb_clip_config config;
    nb_clip *m;
    int32_t ids[128];
    (void)state;
    load("text_encoder", &json, &checkpoint);
    must(nb_clip_config_read("config.json", json, &config));
    must(nb_clip_open(checkpoint, &config, device, &m));
    nb_tensor want = answer("pooled_prompt_embeds");
    assert_in_range(config.max_positions, 1, 128);
    read_ids("clip_ids", ids, config.max_positions, 0);
    nb_tensor pooled = nb_stream_tensor(stream, NB_DTYPE_F32, 1, want.shape);
    nb_clip_encode(m, stream, pooled, ids, config.max_positions);
    assert_close("CLIP pooled", pooled, want);
    nb_clip_close(m);
    nb_checkpoint_close(checkpoint);
    json_decref(json);
}

static void test_flux(void **state)
{
    json_t *json;
    nb_checkpoint *checkpoint;
    nb_flux_config config;
    nb_flux *m;
    nb_flux_run *run;
    float times[STEPS];
    (void)state;
    load("transformer", &json, &checkpoint);
    must(nb_flux_config_read("config.json", json, &config));
    must(nb_flux_open(checkpoint, &config, device, &m));
    nb_tensor sigmas = answer("sigmas");
    assert_int_equal(sigmas.shape[0], STEPS + 1);
    for (int i = 0; i < STEPS; i++) times[i] = nb_tensor_f32(sigmas)[i] * 1000.0f / 1000.0f;
    nb_tensor pooled = answer("pooled_prompt_embeds");
    nb_flux_inputs in = {.text = answer("prompt_embeds"),
                         .pooled = pooled,
                         .guidance = 3.5f,
                         .rows = SIDE,
                         .columns = SIDE,
                         .times = times,
                         .n_steps = STEPS};
    must(nb_flux_begin(m, stream, &in, &run));
    for (int i = 0; i < STEPS; i++) {
        char name[32];
        snprintf(name, sizeof name, "velocity.%d", i);
        nb_tensor want = answer(name);
        nb_tensor velocity = nb_stream_tensor(stream, NB_DTYPE_F32, 2, want.shape);
        snprintf(name, sizeof name, "latents.%d", i);
        nb_flux_step(run, stream, i, velocity, answer(name));
        assert_close("FLUX velocity", velocity, want);
    }
    nb_flux_end(run);
    nb_flux_close(m);
    nb_checkpoint_close(checkpoint);
    json_decref(json);
}

/* [S_i, 4c] tokens of 2x2 latents to [c, 2 SIDE, 2 SIDE]. */
static nb_tensor unpack(nb_tensor tokens)
{
    int64_t channels = tokens.shape[1] / 4, side = 2 * SIDE;
    nb_tensor z = nb_stream_tensor(stream, NB_DTYPE_F32, 3, NB_SHAPE(channels, side, side));
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < side; y++)
            for (int64_t x = 0; x < side; x++) {
                int64_t token = y / 2 * SIDE + x / 2, part = 4 * c + 2 * (y % 2) + x % 2;
                nb_tensor_f32(z)[(c * side + y) * side + x] =
                    nb_tensor_f32(tokens)[token * 4 * channels + part];
            }
    return z;
}

static void test_vae(void **state)
{
    json_t *json;
    nb_checkpoint *checkpoint;
    nb_vae_config config;
    nb_vae *m;
    (void)state;
    load("vae", &json, &checkpoint);
    must(nb_vae_config_read("config.json", json, &config));
    must(nb_vae_open(checkpoint, &config, device, &m));
    nb_tensor want = answer("image");
    nb_tensor z = unpack(answer("latents.3"));
    nb_tensor image = nb_stream_tensor(stream, NB_DTYPE_F32, 3, want.shape);
    nb_vae_decode(m, stream, image, z);
    must(nb_stream_sync(stream));
    for (int64_t i = 0; i < nb_tensor_count(image); i++)
        nb_tensor_f32(image)[i] = fminf(fmaxf(nb_tensor_f32(image)[i] * 0.5f + 0.5f, 0), 1);
    assert_close("VAE image", image, want);
    nb_vae_close(m);
    nb_checkpoint_close(checkpoint);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest reference[] = {
        cmocka_unit_test(test_t5), cmocka_unit_test(test_clip), cmocka_unit_test(test_flux),
        cmocka_unit_test(test_vae)};
    int failed = cmocka_run_group_tests_name("reference", reference, open_reference, close_all);
    return failed +
           cmocka_run_group_tests_name("every capability", reference, open_best, close_all);
}
