/*
 * Configs read off shapes against the config.json files that the reference wrote beside them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/json.h"
#include "models/canonical.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/shapes.h"
#include "models/t5.h"
#include "models/vae.h"
#include "tests/unit/items.h"

/* Every key that shapes tell has the value of config.json, where that has one. */
static void check_part(const char *model, const char *part, nb_component_kind kind,
                       const char *const *untold, int n_wanted)
{
    char folder[128], path[160];
    nb_checkpoint *c;
    json_t *found, *wanted, *value;
    const char *key;
    int n = 0;
    snprintf(folder, sizeof folder, "golden/flux/models/%s/%s", model, part);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(nb_canonical_open(folder, &c));
    assert_ok(nb_json_load(path, &wanted));
    assert_ok(nb_config_from_shapes(c, kind, &found));
    json_object_foreach(found, key, value)
    {
        const json_t *other = json_object_get(wanted, key);
        int is_untold = 0;
        for (const char *const *u = untold; *u; u++) is_untold |= strcmp(*u, key) == 0;
        if (!other || json_is_null(other) || is_untold) continue;
        if (!json_equal(value, other)) fail_msg("%s: %s differs", path, key);
        n++;
    }
    assert_int_equal(n, n_wanted);
    json_decref(found);
    json_decref(wanted);
    nb_checkpoint_close(c);
}

static void reads_configs_off_shapes(void **state)
{
    static const char *const nothing[] = {NULL};
    static const char *const clip[] = {"num_attention_heads", "eos_token_id", NULL};
    static const char *const vae[] = {"norm_num_groups", "sample_size", "scaling_factor",
                                      "shift_factor", NULL};
    static const char *const models[] = {"dev", "schnell", "f16", "fp8", "sharded"};
    (void)state;
    for (int i = 0; i < N(models); i++) {
        check_part(models[i], "transformer", NB_KIND_FLUX, nothing, 8);
        check_part(models[i], "text_encoder", NB_KIND_CLIP, clip, 5);
        check_part(models[i], "text_encoder_2", NB_KIND_T5, nothing, 8);
        check_part(models[i], "vae", NB_KIND_VAE, vae, 6);
    }
}

static nb_status read_items(void **state, const struct item *items, int n,
                            nb_component_kind kind)
{
    const char *path = scratch_path(state, "a.safetensors");
    nb_checkpoint *c;
    json_t *config = NULL;
    write_items(path, items, n);
    assert_ok(nb_checkpoint_open(path, &c));
    nb_status status = nb_config_from_shapes(c, kind, &config);
    json_decref(config);
    nb_checkpoint_close(c);
    return status;
}

static void names_what_is_missing(void **state)
{
    static const struct item none[] = {{"a", 1, NONE}},
                             empty[] = {{"embeddings.token_embedding.weight", 5, 0}},
                             flat[] = {{"decoder.conv_in.weight", 5, NONE},
                                       {"decoder.conv_out.bias", 3, NONE}};
    assert_fails(read_items(state, none, 1, NB_KIND_FLUX), NB_E_DATA,
                 "tensor x_embedder.bias is missing");
    assert_fails(read_items(state, none, 1, NB_KIND_CLIP), NB_E_DATA,
                 "tensor text_model.embeddings.token_embedding.weight is missing");
    assert_fails(read_items(state, none, 1, NB_KIND_T5), NB_E_DATA,
                 "relative_attention_bias.weight is missing");
    assert_fails(read_items(state, empty, 1, NB_KIND_CLIP), NB_E_DATA,
                 "token_embedding.weight: dimension 1 is not there or empty");
    assert_fails(read_items(state, flat, 2, NB_KIND_VAE), NB_E_DATA,
                 "conv_in.weight: dimension 1 is not there or empty");
}

#define OPEN(name, path, c, config, device)                                                    \
    do {                                                                                       \
        nb_##name##_config settings;                                                           \
        nb_##name *model;                                                                      \
        assert_ok(nb_##name##_config_read(path, config, &settings));                           \
        assert_ok(nb_##name##_open(c, &settings, device, &model));                             \
        nb_##name##_close(model);                                                              \
    } while (0)

static void open_model(const char *path, const nb_checkpoint *c, nb_component_kind kind,
                       const json_t *config, const nb_device *device)
{
    if (kind == NB_KIND_FLUX) OPEN(flux, path, c, config, device);
    if (kind == NB_KIND_CLIP) OPEN(clip, path, c, config, device);
    if (kind == NB_KIND_T5) OPEN(t5, path, c, config, device);
    if (kind == NB_KIND_VAE) OPEN(vae, path, c, config, device);
}

/* BFL's and ComfyUI's files, which come without any config: each architecture finds all that it
 * wants. */
static void opens_single_files(void **state)
{
    static const struct {
        const char *file;
        nb_component_kind kind;
    } files[] = {{"flux1-dev", NB_KIND_FLUX},
                 {"clip_l", NB_KIND_CLIP},
                 {"t5xxl", NB_KIND_T5},
                 {"ae", NB_KIND_VAE}};
    nb_device *device;
    (void)state;
    assert_ok(nb_device_open_cpu(0, &device));
    for (int i = 0; i < N(files); i++) {
        char path[128];
        nb_checkpoint *c;
        json_t *config;
        snprintf(path, sizeof path, "golden/flux/models/single/%s.safetensors", files[i].file);
        assert_ok(nb_canonical_open(path, &c));
        assert_ok(nb_config_from_shapes(c, files[i].kind, &config));
        open_model(path, c, files[i].kind, config, device);
        json_decref(config);
        nb_checkpoint_close(c);
    }
    nb_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_configs_off_shapes),
        cmocka_unit_test(opens_single_files),
        cmocka_unit_test_setup_teardown(names_what_is_missing, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
