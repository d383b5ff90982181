#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/inspect.h"
#include "tests/unit/items.h"

static const nb_component *component(const nb_inspection *in, const char *name)
{
    for (int i = 0; i < in->n_components; i++)
        if (strcmp(in->components[i].name, name) == 0) return &in->components[i];
    fail_msg("no component %s", name);
    return NULL;
}

static void tells_a_pipeline(void **state)
{
    (void)state;
    nb_inspection *in;
    assert_ok(nb_inspect("golden/flux/models/dev", &in));
    assert_string_equal(in->form, "pipeline");
    assert_string_equal(in->family, "FLUX.1 dev");
    assert_int_equal(in->n_components, 7);
    const nb_component *c = component(in, "transformer");
    assert_int_equal(c->kind, NB_KIND_FLUX);
    assert_string_equal(c->class_name, "FluxTransformer2DModel");
    assert_string_equal(c->layout, "diffusers");
    assert_string_equal(c->detail, "2 double and 2 single blocks, width 48");
    assert_string_equal(c->quantization, "none");
    assert_int_equal(c->n_tensors, 112);
    assert_int_equal(c->n_parameters, 285376);
    assert_int_equal(c->dtypes[NB_DTYPE_F32].tensors, 112);
    assert_int_equal(c->dtypes[NB_DTYPE_F32].elements, 285376);
    assert_int_equal(c->dtypes[NB_DTYPE_F32].bytes, c->bytes);
    assert_int_equal(component(in, "text_encoder")->kind, NB_KIND_CLIP);
    assert_string_equal(component(in, "text_encoder_2")->detail, "2 layers, width 40");
    assert_string_equal(component(in, "vae")->detail, "16 latent channels");
    assert_int_equal(component(in, "tokenizer_2")->kind, NB_KIND_NO_WEIGHTS);
    assert_null(component(in, "tokenizer_2")->checkpoint);
    nb_inspection_destroy(in);
}

static void tells_fp8(void **state)
{
    (void)state;
    static const struct {
        const char *model, *family, *quantization;
        long long parameters;
    } cases[] = {
        {"schnell", "FLUX.1 schnell", "none", 191104},
        {"fp8", "FLUX.1 dev", "FP8, plain cast", 1013952},
        {"fp8-scale-weight", "FLUX.1 schnell", "FP8, scaled", 191104},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        nb_inspection *in;
        snprintf(path, sizeof path, "golden/flux/models/%s/transformer", cases[i].model);
        assert_ok(nb_inspect(path, &in));
        assert_string_equal(in->form, "component");
        assert_string_equal(in->family, cases[i].family);
        assert_int_equal(in->n_components, 1);
        assert_string_equal(in->components[0].class_name, "FluxTransformer2DModel");
        assert_string_equal(in->components[0].quantization, cases[i].quantization);
        assert_int_equal(in->components[0].n_parameters, cases[i].parameters);
        nb_inspection_destroy(in);
    }
}

static void counts_layers_of_4_bits(void **state)
{
    static const struct {
        const char *file, *quantization;
    } cases[] = {
        {"modelopt-nvfp4", "Model-Optimizer, layers: "},
        {"comfy-nvfp4", "ComfyUI, layers: "},
        {"compressed-tensors-nvfp4", "compressed-tensors, layers: "},
        {"compressed-tensors-mxfp4", "compressed-tensors, layers: "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[96];
        nb_inspection *in;
        snprintf(path, sizeof path, "golden/fp4/%s.safetensors", cases[i].file);
        assert_ok(nb_inspect(path, &in));
        const char *text = in->components[0].quantization, *kind = strrchr(cases[i].file, '-');
        size_t n = strlen(cases[i].quantization);
        if (strncmp(text, cases[i].quantization, n) != 0 || strtol(text + n, NULL, 10) < 10 ||
            !strstr(text, strcmp(kind, "-nvfp4") == 0 ? "NVFP4" : "MXFP4") ||
            strstr(text, "unreadable"))
            fail_msg("%s: %s", path, text);
        nb_inspection_destroy(in);
    }
}

static void tells_what_is_beside_4_bits(void **state)
{
    static const struct {
        const char *path, *quantization;
        long long parameters;
    } cases[] = {
        {"golden/fp4/modelopt-awq.safetensors", "Model-Optimizer (AWQ), layers: 4 NVFP4", 0},
        {"golden/fp4/modelopt-svdquant.safetensors",
         "Model-Optimizer (SVDQuant, rank 8), layers: 4 NVFP4", 0},
        {"golden/flux/models/modelopt-svdquant/transformer",
         "Model-Optimizer (SVDQuant, rank 4), layers: 38 NVFP4, 12 plain", 285376},
        {"golden/flux/models/nunchaku/svdq-fp4_r16-flux.1-dev.safetensors",
         "nunchaku (SVDQuant, rank 16), layers: 16 NVFP4, 4 INT4, 10 plain", 1266240},
        {"golden/flux/models/nunchaku/svdq-int4-flux.1-dev",
         "nunchaku (SVDQuant, rank 32), layers: 20 INT4, 10 plain", 1266240},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nb_inspection *in;
        assert_ok(nb_inspect(cases[i].path, &in));
        const nb_component *c = &in->components[0];
        assert_string_equal(c->quantization, cases[i].quantization);
        if (cases[i].parameters) {
            assert_int_equal(c->kind, NB_KIND_FLUX);
            assert_int_equal(c->n_parameters, cases[i].parameters);
        }
        nb_inspection_destroy(in);
    }
}

/* ComfyUI's all-in-one files hold the parts under prefixes. */
static void tells_parts_of_one_file(void **state)
{
    static const struct item items[] = {
        {"model.diffusion_model.vector_in.in_layer.bias", 1, NONE},
        {"model.diffusion_model.img_in.weight", 1, 384},
        {"model.diffusion_model.guidance_in.in_layer.bias", 1, NONE},
        {"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", 1, NONE},
        {"vae.decoder.conv_in.weight", 1, 4},
        {"vae.decoder.norm_out.weight", 1, NONE},
    };
    const char *path = scratch_path(state, "all.safetensors");
    nb_inspection *in;
    write_items(path, items, N(items));
    assert_ok(nb_inspect(path, &in));
    assert_string_equal(in->form, "file");
    assert_string_equal(in->family, "FLUX.1 Fill dev");
    assert_int_equal(in->n_components, 2);
    assert_int_equal(in->components[0].kind, NB_KIND_FLUX);
    assert_string_equal(in->components[0].prefix, "model.diffusion_model.");
    assert_string_equal(in->components[0].layout, "BFL");
    assert_int_equal(in->components[0].n_tensors, 4);
    assert_int_equal(in->components[1].kind, NB_KIND_VAE);
    assert_string_equal(in->components[1].detail, "4 latent channels");
    assert_int_equal(in->components[1].n_parameters, 5);
    nb_inspection_destroy(in);
}

static void tells_what_it_does_not_know(void **state)
{
    nb_inspection *in;
    const char *path = scratch_path(state, "x.safetensors");
    write_items(path, &(struct item){"a.lora_A.weight", 1, NONE}, 1);
    assert_ok(nb_inspect(path, &in));
    assert_int_equal(in->components[0].kind, NB_KIND_LORA);
    nb_inspection_destroy(in);
    write_items(path, &(struct item){"a.weight", 1, NONE}, 1);
    assert_ok(nb_inspect(path, &in));
    assert_int_equal(in->components[0].kind, NB_KIND_UNKNOWN);
    assert_string_equal(in->family, "");
    nb_inspection_destroy(in);
    assert_fails(nb_inspect(scratch_path(state, "none"), &in), NB_E_NOINPUT, "/none");
}

static void tells_faults_of_a_pipeline(void **state)
{
    nb_inspection *in;
    const char *index = scratch_path(state, "model_index.json");
    scratch_write_text(index, "[]");
    assert_fails(nb_inspect(*state, &in), NB_E_DATA, "wanted an object, found an array");
    scratch_write_text(index, "{\"_class_name\":\"P\",\"transformer\":[\"diffusers\",\"T\"],"
                              "\"../x\":[\"a\",\"b\"],\"none\":[null,null]}");
    assert_ok(nb_inspect(*state, &in));
    assert_int_equal(in->n_components, 1);
    assert_non_null(strstr(in->components[0].problem, "/transformer"));
    nb_inspection_destroy(in);
    nb_inspection_destroy(NULL);
}

#define T(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(tells_a_pipeline),           T(tells_fp8),
        T(counts_layers_of_4_bits),    T(tells_what_is_beside_4_bits),
        T(tells_parts_of_one_file),    T(tells_what_it_does_not_know),
        T(tells_faults_of_a_pipeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
