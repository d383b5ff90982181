/*
 * Pipelines on disk: directories that are not what they should be, parts from elsewhere, names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/pictures.h"

static const char *const part_names[] = {"scheduler", "text_encoder", "text_encoder_2",
                                         "tokenizer", "tokenizer_2",  "transformer",
                                         "vae"};

static void shell(const char *format, ...) NB_PRINTF(1, 2);

static void shell(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(command, sizeof command, format, args);
    va_end(args);
    assert_in_range(n, 1, sizeof command - 1);
    assert_int_equal(system(command), 0);
}

/* A copy of dev by links, called `model`; `without` is left out. */
static const char *link_model(const char *without)
{
    const char *to = in_folder("model");
    shell("rm -rf %s && mkdir %s && cp " MODELS "/dev/model_index.json %s", to, to, to);
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++)
        if (!without || strcmp(without, part_names[i]) != 0)
            shell("ln -s $PWD/" MODELS "/dev/%s %s", part_names[i], to);
    return to;
}

static void missing_parts(void **state)
{
    (void)state;
    nb_pipeline *p;
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++) {
        struct run run = {0};
        nb_txt2img_request r = small_request();
        const char *model = link_model(part_names[i]);
        assert_int_equal(run_model(&run, model, &r), NB_E_NOINPUT);
        assert_non_null(strstr(nb_error_message(), part_names[i]));
    }
    assert_int_equal(nb_pipeline_open("/nonexistent", device, &p), NB_E_NOINPUT);
    assert_non_null(strstr(nb_error_message(), "/nonexistent"));
    assert_true(nb_pipeline_is_one(MODELS "/dev"));
    assert_false(nb_pipeline_is_one(MODELS));
}

/* dev with `from` replaced by `to` in one file, which is said to be wrong by `word`. */
static void check_edited(const char *part, const char *file, const char *from, const char *to,
                         const char *word)
{
    nb_pipeline *p;
    const char *model = link_model(part);
    if (*part) shell("cp -r " MODELS "/dev/%s %s", part, model);
    shell("sed -i 's/%s/%s/' %s/%s/%s", from, to, model, part, file);
    shell("grep -q '%s' %s/%s/%s", to, model, part, file);
    assert_int_equal(nb_pipeline_open(model, device, &p), NB_E_DATA);
    if (!strstr(nb_error_message(), word))
        fail_msg("\"%s\" lacks %s", nb_error_message(), word);
}

static void wrong_directories(void **state)
{
    (void)state;
    check_edited("", "model_index.json", "\"FluxPipeline\"", "\"FluxFillPipeline\"",
                 "FluxFillPipeline");
    check_edited("", "model_index.json", "\"T5EncoderModel\"", "\"LlamaModel\"", "LlamaModel");
    check_edited("", "model_index.json", "\"AutoencoderKL\"", "7", "vae");
    check_edited("", "model_index.json", "\"scheduler\"", "\"schedule\"", "scheduler");
    check_edited("scheduler", "scheduler_config.json", "\"use_karras_sigmas\": false",
                 "\"use_karras_sigmas\": true", "use_karras_sigmas");
    check_edited("transformer", "config.json", "\"joint_attention_dim\": 40",
                 "\"joint_attention_dim\": 48", "joint_attention_dim");
    check_edited("vae", "config.json", "\"latent_channels\": 16", "\"latent_channels\": 8",
                 "latent_channels");
}

/* A part may come from elsewhere; what is missing is named. */
static void parts_of_their_own(void **state)
{
    (void)state;
    nb_pipeline *p;
    nb_pipeline_paths paths = {
        .directory = link_model("vae"),
        .parts = {[NB_PART_VAE] = MODELS "/dev/vae",
                  [NB_PART_FLUX] = MODELS "/single/flux1-dev.safetensors"},
    };
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_E_DATA);
    assert_non_null(strstr(nb_error_message(), "joint_attention_dim is 32"));
    paths.parts[NB_PART_FLUX] = NULL;
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_OK);
    assert_string_equal(nb_pipeline_get_info(p)->name, "model");
    nb_pipeline_close(p);
    paths.directory = NULL;
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_E_USAGE);
    assert_non_null(strstr(nb_error_message(), "clip"));
    paths = (nb_pipeline_paths){
        .parts = {[NB_PART_CLIP] = MODELS "/single/clip_l.safetensors",
                  [NB_PART_T5] = MODELS "/single/t5xxl.safetensors",
                  [NB_PART_FLUX] = MODELS "/single/flux1-dev.safetensors",
                  [NB_PART_VAE] = MODELS "/single/ae.safetensors"},
    };
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_OK);
    const nb_pipeline_info *info = nb_pipeline_get_info(p);
    assert_string_equal(info->name, "flux1-dev");
    assert_true(info->schedule.dynamic && info->default_steps == 28);
    nb_pipeline_close(p);
    paths.parts[NB_PART_T5] = "/nonexistent.safetensors";
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_E_NOINPUT);
    assert_non_null(strstr(nb_error_message(), "/nonexistent.safetensors"));
}

/* A snapshot in the Hugging Face cache is known by its repository's name. */
static void cached_models_have_names(void **state)
{
    (void)state;
    char path[256];
    nb_pipeline *p;
    const char *model = link_model(NULL);
    shell("mkdir -p %s/models--org--a--b/snapshots && mv %s %s/models--org--a--b/snapshots/c1",
          folder, model, folder);
    snprintf(path, sizeof path, "%s/models--org--a--b/snapshots/c1", folder);
    assert_int_equal(nb_pipeline_open(path, device, &p), NB_OK);
    assert_string_equal(nb_pipeline_get_info(p)->name, "org/a--b");
    nb_pipeline_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_parts),
        cmocka_unit_test(wrong_directories),
        cmocka_unit_test(parts_of_their_own),
        cmocka_unit_test(cached_models_have_names),
    };
    return cmocka_run_group_tests(tests, open_folder_and_device, close_folder_and_device);
}
