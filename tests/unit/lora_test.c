/*
 * LoRA files of a few numbers against models of a few numbers: each branch is expanded to the
 * difference that it makes to its matrix, up * down, and that is compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "models/bind.h"
#include "models/lora.h"
#include "models/lora_names.h"
#include "tests/unit/scratch.h"

enum { D = 2, MAX_NUMBERS = 64 };

static struct fixture {
    nb_checkpoint *model;
    nb_loras *loras;
    nb_arena *arena;
} fixture;

/* 1, 2, 3 ... and zeros, for whatever is only looked at. */
static float numbers[MAX_NUMBERS];

#define S(...)       ((const int64_t[]){__VA_ARGS__})
#define T(name, ...) f32(name, (int)(sizeof S(__VA_ARGS__) / 8), S(__VA_ARGS__), numbers)
#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define Q            "transformer_blocks.0.attn.to_q"
#define MLP          "single_transformer_blocks.0.proj_mlp"

static nb_stored f32(const char *name, int rank, const int64_t *shape, const float *data)
{
    nb_stored t = {.name = name, .dtype = NB_DTYPE_F32, .rank = rank, .data = data};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    t.bytes = (size_t)nb_stored_count(&t) * sizeof(float);
    return t;
}

static void write_file(void **state, const char *name, const nb_stored *tensors, int n,
                       const char *const *metadata)
{
    assert_ok(nb_safetensors_write(scratch_path(state, name), tensors, n, metadata));
}

/* A width of 2; q, k, v of 2 rows and an MLP of 4. */
static int setup(void **state)
{
    fixture = (struct fixture){.model = NULL};
    if (scratch_setup(state)) return -1;
    for (int i = 0; i < MAX_NUMBERS; i++) numbers[i] = (float)(i + 1);
    const nb_stored model[] = {
        T(Q ".weight", D, D),
        T(Q ".bias", D),
        T("transformer_blocks.0.attn.to_k.weight", D, D),
        T("transformer_blocks.0.attn.to_v.weight", D, D),
        T("single_transformer_blocks.0.attn.to_q.weight", D, D),
        T("single_transformer_blocks.0.attn.to_k.weight", D, D),
        T("single_transformer_blocks.0.attn.to_v.weight", D, D),
        T(MLP ".weight", 4, D),
        T("norm_out.linear.weight", 4, D),
        T("text_model.encoder.layers.0.mlp.fc1.weight", 3, D),
        T("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 3, D),
    };
    write_file(state, "model.safetensors", model, COUNT(model), NULL);
    assert_ok(nb_checkpoint_open(scratch_path(state, "model.safetensors"), &fixture.model));
    return nb_arena_create(&fixture.arena);
}

static int teardown(void **state)
{
    nb_loras_close(fixture.loras);
    nb_checkpoint_close(fixture.model);
    nb_arena_destroy(fixture.arena);
    return scratch_teardown(state);
}

static nb_status open_files(void **state, const char *const *names, const double *weights,
                            int n, int lenient)
{
    const nb_lora_options options = {.lenient = lenient, .compute = NB_COMPUTE_F32};
    const nb_checkpoint *models[] = {fixture.model};
    nb_lora_use uses[4];
    for (int i = 0; i < n; i++)
        uses[i] = (nb_lora_use){scratch_path(state, names[i]), weights[i]};
    nb_loras_close(fixture.loras);
    fixture.loras = NULL;
    return nb_loras_open(uses, n, &options, models, 1, &fixture.loras);
}

static nb_status open_one(void **state, const nb_stored *tensors, int n,
                          const char *const *metadata, int lenient)
{
    write_file(state, "lora.safetensors", tensors, n, metadata);
    return open_files(state, (const char *const[]){"lora.safetensors"}, (const double[]){1}, 1,
                      lenient);
}

#define OPEN(tensors) open_one(state, tensors, COUNT(tensors), NULL, 0)

/* The branch of `module`, a matrix of n x k. */
static nb_low_rank branch_of(const char *module, int64_t n, int64_t k, float *bias)
{
    nb_weight w = {.n = n, .k = k, .scale = 1};
    assert_ok(nb_loras_apply(fixture.loras, module, fixture.arena, &w, bias));
    return w.low_rank;
}

static void assert_difference(const char *module, int64_t n, int64_t k, const double *wanted)
{
    nb_low_rank b = branch_of(module, n, k, NULL);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            double sum = 0;
            for (int64_t r = 0; r < b.rank; r++)
                sum += (double)nb_load_f32(b.dtype, b.up, i * b.rank + r) *
                       nb_load_f32(b.dtype, b.down, r * k + j);
            if (fabs(sum - wanted[i * k + j]) > 1e-6)
                fail_msg("%s [%d][%d]: wanted %g, found %g", module, (int)i, (int)j,
                         wanted[i * k + j], sum);
        }
}

/* down (1, 2), up (1, 2): up * down is 1 2, 2 4. */
static void test_dialects(void **state)
{
    static const struct {
        const char *down, *up, *dialect;
    } files[] = {
        {"transformer." Q ".lora_A.weight", "transformer." Q ".lora_B.weight", "diffusers"},
        {Q ".lora_A.default.weight", Q ".lora_B.default.weight", "diffusers"},
        {"transformer." Q ".lora.down.weight", "transformer." Q ".lora.up.weight", "diffusers"},
        {"base_model.model." Q ".lora_A.weight", "base_model.model." Q ".lora_B.weight",
         "PEFT"},
        {"lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight",
         "lora_transformer_transformer_blocks_0_attn_to_q.lora_up.weight", "OneTrainer"},
        {"lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight",
         "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight", "kohya"},
    };
    for (int i = 0; i < COUNT(files); i++) {
        nb_lora_summary summary;
        const nb_stored t[] = {T(files[i].down, 1, D), T(files[i].up, D, 1)};
        assert_ok(OPEN(t));
        assert_difference(Q, D, D, (const double[]){1, 2, 2, 4});
        assert_true(nb_lora_summarise(nb_loras_file(fixture.loras, 0), &summary));
        assert_string_equal(summary.dialect, files[i].dialect);
        assert_string_equal(summary.family, "FLUX.1");
        assert_int_equal(summary.n_modules, 1);
        assert_int_equal(summary.largest_rank, 1);
        assert_int_equal(summary.n_unknown, 0);
    }
}

/* Rows 1 ... 6 of `up` go to q, k and v; of linear1 four more to the MLP. */
static void test_fused(void **state)
{
    static const char *const stems[] = {"lora_unet_double_blocks_0_img_attn_qkv",
                                        "diffusion_model.double_blocks.0.img_attn.qkv",
                                        "double_blocks.0.img_attn.qkv"};
    char down[80], up[80];
    for (int i = 0; i < COUNT(stems); i++) {
        snprintf(down, sizeof down, "%s.lora_down.weight", stems[i]);
        snprintf(up, sizeof up, "%s.lora_up.weight", stems[i]);
        const nb_stored t[] = {T(down, 1, D), T(up, 6, 1)};
        assert_ok(OPEN(t));
        assert_difference(Q, D, D, (const double[]){1, 2, 2, 4});
        assert_difference("transformer_blocks.0.attn.to_v", D, D,
                          (const double[]){5, 10, 6, 12});
    }
    const nb_stored xlabs[] = {T("double_blocks.0.processor.qkv_lora1.down.weight", 1, D),
                               T("double_blocks.0.processor.qkv_lora1.up.weight", 6, 1)};
    assert_ok(OPEN(xlabs));
    assert_difference("transformer_blocks.0.attn.to_k", D, D, (const double[]){3, 6, 4, 8});
    const nb_stored linear1[] = {T("single_blocks.0.linear1.lora_A.weight", 1, D),
                                 T("single_blocks.0.linear1.lora_B.weight", 10, 1)};
    assert_ok(OPEN(linear1));
    assert_difference("single_transformer_blocks.0.attn.to_k", D, D,
                      (const double[]){3, 6, 4, 8});
    assert_difference(MLP, 4, D, (const double[]){7, 14, 8, 16, 9, 18, 10, 20});
}

static void test_final_layer_swaps(void **state)
{
    const nb_stored t[] = {T("final_layer.adaLN_modulation.1.lora_A.weight", 1, D),
                           T("final_layer.adaLN_modulation.1.lora_B.weight", 4, 1)};
    assert_ok(OPEN(t));
    assert_difference("norm_out.linear", 4, D, (const double[]){3, 6, 4, 8, 1, 2, 2, 4});
}

static void test_text_encoders(void **state)
{
    const nb_stored t[] = {
        T("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1, D),
        T("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", 3, 1),
        T("text_encoder_2.encoder.block.0.layer.1.DenseReluDense.wi_0.lora_A.weight", 1, D),
        T("text_encoder_2.encoder.block.0.layer.1.DenseReluDense.wi_0.lora_B.weight", 3, 1),
    };
    const double wanted[] = {1, 2, 2, 4, 3, 6};
    assert_ok(OPEN(t));
    assert_difference("text_model.encoder.layers.0.mlp.fc1", 3, D, wanted);
    assert_difference("encoder.block.0.layer.1.DenseReluDense.wi_0", 3, D, wanted);
}

/* alpha 3 of rank 1 triples; in the header by pattern, field, or the root of the rank. */
static void test_alpha(void **state)
{
    const float alpha = 3, half = 0.5f;
    const nb_stored t[] = {
        T(Q ".lora_A.weight", 1, D),
        T(Q ".lora_B.weight", D, 1),
        f32(Q ".alpha", 0, NULL, &alpha),
    };
    assert_ok(OPEN(t));
    assert_difference(Q, D, D, (const double[]){3, 6, 6, 12});
    nb_stored scalar = f32(Q ".alpha", 1, S(1), &half);
    const nb_stored other[] = {t[0], t[1], scalar};
    assert_ok(OPEN(other));
    assert_difference(Q, D, D, (const double[]){0.5, 1, 1, 2});

    static const struct {
        const char *config;
        double scale;
    } headers[] = {
        {"{\"lora_alpha\": 2}", 0.5},
        {"{\"transformer.lora_alpha\": 2, \"transformer.r\": 4}", 0.5},
        {"{\"transformer.lora_alpha\": 2, \"transformer.use_rslora\": true}", 1},
        {"{\"transformer.lora_alpha\": 2, \"transformer.alpha_pattern\": {\"attn.to_q\": 8}}",
         2},
        {"{\"transformer.lora_alpha\": 2, \"transformer.alpha_pattern\": {\"to_k\": 8}}", 0.5},
        {"{\"transformer.lora_alpha\": 2, \"transformer.alpha_pattern\": {\"^to_q\": 8}}", 0.5},
        {"{}", 1},
    };
    const nb_stored four[] = {T("transformer." Q ".lora_A.weight", 4, D),
                              T("transformer." Q ".lora_B.weight", D, 4)};
    for (int i = 0; i < COUNT(headers); i++) {
        const char *const metadata[] = {"lora_adapter_metadata", headers[i].config, NULL};
        double s = headers[i].scale;
        assert_ok(open_one(state, four, 2, metadata, 0));
        assert_difference(Q, D, D, (const double[]){50 * s, 60 * s, 114 * s, 140 * s});
    }
}

static void test_several_files_add_up(void **state)
{
    const nb_stored a[] = {T(Q ".lora_A.weight", 1, D), T(Q ".lora_B.weight", D, 1)};
    const nb_stored b[] = {T("double_blocks.0.img_attn.qkv.lora_A.weight", 2, D),
                           T("double_blocks.0.img_attn.qkv.lora_B.weight", 6, 2)};
    write_file(state, "a.safetensors", a, 2, NULL);
    write_file(state, "b.safetensors", b, 2, NULL);
    assert_ok(open_files(state, (const char *const[]){"a.safetensors", "b.safetensors"},
                         (const double[]){2, -1}, 2, 0));
    assert_int_equal(branch_of(Q, D, D, NULL).rank, 3);
    assert_difference(Q, D, D, (const double[]){2 - 7, 4 - 10, 4 - 15, 8 - 22});
    assert_int_equal(nb_loras_n_terms(fixture.loras), 4);
}

/* SVDQuant's own branch stays, LoRA's comes behind it; BF16 but at F32. */
static void test_branch_of_the_weight_stays(void **state)
{
    const float down[] = {1, 1}, up[] = {10, 20};
    const nb_stored t[] = {T(Q ".lora_A.weight", 1, D), T(Q ".lora_B.weight", D, 1)};
    nb_weight w = {.n = D, .k = D, .scale = 1};
    w.low_rank = (nb_low_rank){.down = down, .up = up, .dtype = NB_DTYPE_F32, .rank = 1};
    assert_ok(OPEN(t));
    assert_ok(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL));
    assert_int_equal(w.low_rank.rank, 2);
    assert_true(nb_load_f32(w.low_rank.dtype, w.low_rank.up, 2) == 20);
    assert_true(nb_load_f32(w.low_rank.dtype, w.low_rank.up, 3) == 2);
    assert_true(nb_load_f32(w.low_rank.dtype, w.low_rank.down, 3) == 2);

    const nb_lora_options bf16 = {.compute = NB_COMPUTE_BF16};
    const nb_lora_use use = {scratch_path(state, "lora.safetensors"), 1.0 / 3.0};
    const nb_checkpoint *models[] = {fixture.model};
    nb_loras_close(fixture.loras);
    fixture.loras = NULL;
    assert_ok(nb_loras_open(&use, 1, &bf16, models, 1, &fixture.loras));
    nb_low_rank b = branch_of(Q, D, D, NULL);
    assert_int_equal(b.dtype, NB_DTYPE_BF16);
    assert_true(nb_load_f32(b.dtype, b.up, 0) == nb_round_bf16(1.0f / 3.0f));
}

static void test_bias(void **state)
{
    float bias[D] = {10, 20};
    const nb_stored t[] = {T(Q ".lora_A.weight", 1, D), T(Q ".lora_B.weight", D, 1),
                           T(Q ".lora_B.bias", D)};
    assert_ok(OPEN(t));
    branch_of(Q, D, D, bias);
    assert_true(bias[0] == 11 && bias[1] == 22);
    nb_weight w = {.n = D, .k = D, .scale = 1};
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".lora_B.bias: the layer that it is for has no bias");
}

static void test_binder_applies(void **state)
{
    const nb_stored t[] = {T(Q ".lora_A.weight", 1, D), T(Q ".lora_B.weight", D, 1)};
    nb_binder b = {.checkpoint = fixture.model, .arena = fixture.arena};
    assert_ok(OPEN(t));
    assert_int_equal(nb_bind_layer(&b, D, D, 1, Q).w.low_rank.rank, 0);
    nb_checkpoint_set_loras(fixture.model, fixture.loras);
    assert_int_equal(nb_bind_layer(&b, D, D, 1, Q).w.low_rank.rank, 1);
    assert_int_equal(nb_bind_layer(&b, 4, D, 0, MLP).w.low_rank.rank, 0);
    assert_ok(b.status);
    nb_checkpoint_set_loras(fixture.model, NULL);
}

static void test_unknown_names(void **state)
{
    const nb_stored t[] = {
        T(Q ".lora_A.weight", 1, D),
        T(Q ".lora_B.weight", D, 1),
        T("transformer_blocks.7.attn.to_q.lora_A.weight", 1, D),
        T("transformer_blocks.7.attn.to_q.lora_B.weight", D, 1),
        T("something", 1),
    };
    assert_fails(OPEN(t), NB_E_DATA,
                 "lora.safetensors: tensor something: means nothing to this model");
    assert_fails(open_one(state, t, 4, NULL, 0), NB_E_DATA,
                 "tensor transformer_blocks.7.attn.to_q.lora_A.weight: means nothing");
    assert_ok(open_one(state, t, COUNT(t), NULL, 1));
    assert_int_equal(nb_loras_n_terms(fixture.loras), 1);
    assert_fails(open_one(state, t + 2, 3, NULL, 1), NB_E_DATA,
                 "lora.safetensors: none of its tensors means anything");
}

static void test_other_families(void **state)
{
    static const struct {
        const char *stem, *family;
    } files[] = {
        {"lora_unet_down_blocks_0_attentions_0_proj_in", "Stable Diffusion"},
        {"unet.mid_block.attentions.0.proj_in", "Stable Diffusion"},
        {"diffusion_model.joint_blocks.0.context_block.attn.qkv", "Stable Diffusion 3"},
        {"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", "FLUX.2"},
        {"diffusion_model.blocks.0.cross_attn.q", "Wan"},
        {"diffusion_model.double_blocks.0.img_attn_qkv", "HunyuanVideo"},
        {"base_model.model.model.layers.0.self_attn.q_proj", "a language model"},
    };
    char down[96], up[96], wanted[96];
    for (int i = 0; i < COUNT(files); i++) {
        snprintf(down, sizeof down, "%s.lora_down.weight", files[i].stem);
        snprintf(up, sizeof up, "%s.lora_up.weight", files[i].stem);
        snprintf(wanted, sizeof wanted, "a LoRA for %s, not for FLUX.1", files[i].family);
        const nb_stored t[] = {T(down, 1, D), T(up, D, 1)};
        assert_fails(open_one(state, t, 2, NULL, i % 2), NB_E_DATA, wanted);
    }
    const nb_stored no_lora[] = {T("a.weight", 1, D), T("mlp.down.weight", D, 1)};
    assert_fails(OPEN(no_lora), NB_E_DATA, "lora.safetensors: no LoRA");
    const nb_stored lokr[] = {T(Q ".lokr_w1", 1, D), T(Q ".lokr_w2", D, 1)};
    assert_fails(OPEN(lokr), NB_E_DATA,
                 "part of a LoKr adapter of rank 1, which cannot be applied");
}

static void test_shapes(void **state)
{
    nb_stored down = T(Q ".lora_A.weight", 1, D), up = T(Q ".lora_B.weight", D, 1);
    nb_weight w = {.n = D, .k = D, .scale = 1};
    const nb_stored rows[] = {down, T(Q ".lora_B.weight", 3, 1)};
    assert_fails(OPEN(rows), NB_E_DATA, Q ".lora_B.weight: wanted [2, 1], found [3, 1]");
    const nb_stored rank[] = {down, T(Q ".lora_B.weight", D, 2)};
    assert_fails(OPEN(rank), NB_E_DATA, Q ".lora_B.weight: wanted [2, 1], found [2, 2]");
    const nb_stored columns[] = {T(Q ".lora_A.weight", 1, 3), up};
    assert_ok(OPEN(columns));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".lora_A.weight: wanted [1, 2], found [1, 3]");
    const nb_stored empty[] = {T(Q ".lora_A.weight", 0, D), T(Q ".lora_B.weight", D, 0)};
    assert_fails(OPEN(empty), NB_E_DATA, Q ".lora_A.weight: wanted a matrix, found [0, 2]");
    const nb_stored half[] = {down};
    assert_fails(OPEN(half), NB_E_DATA, "the other half of the pair is missing");
    const nb_stored twice[] = {down, up, T(Q ".lora_down.weight", 1, D)};
    assert_fails(OPEN(twice), NB_E_DATA, Q ".lora_A.weight means the same");
    nb_stored integers = up;
    integers.dtype = NB_DTYPE_I32;
    const nb_stored typed[] = {down, integers};
    assert_fails(OPEN(typed), NB_E_DATA, "wanted F32, F16 or BF16, found I32");
}

/* Finite in the file, and too large where they are multiplied or rounded. */
static void test_overflow(void **state)
{
    const float large[] = {1, 3.4e38f}, ten = 10;
    nb_stored down = T(Q ".lora_A.weight", 1, D),
              up = f32(Q ".lora_B.weight", 2, S(D, 1), large);
    nb_weight w = {.n = D, .k = D, .scale = 1};
    const nb_stored t[] = {down, up, f32(Q ".alpha", 0, NULL, &ten)};
    assert_ok(OPEN(t));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".lora_B.weight: element 1 times 10 is too large");
    const nb_stored bias[] = {down, T(Q ".lora_B.weight", D, 1),
                              f32(Q ".lora_B.bias", 1, S(D), large),
                              f32(Q ".alpha", 0, NULL, &ten)};
    float sum[D] = {0};
    assert_ok(OPEN(bias));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, sum), NB_E_DATA,
                 Q ".lora_B.bias: element 1 times 10 is too large");
    assert_true(sum[0] == 0 && w.low_rank.rank == 0);
}

static void test_bad_numbers(void **state)
{
    const float bad[] = {1, NAN}, infinite = INFINITY;
    nb_stored down = T(Q ".lora_A.weight", 1, D), up = T(Q ".lora_B.weight", D, 1);
    nb_weight w = {.n = D, .k = D, .scale = 1};
    const nb_stored t[] = {down, f32(Q ".lora_B.weight", 2, S(D, 1), bad)};
    assert_ok(OPEN(t));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".lora_B.weight: element 1 is not finite");
    const nb_stored alpha[] = {down, up, f32(Q ".alpha", 0, NULL, &infinite)};
    assert_fails(OPEN(alpha), NB_E_DATA, "is not finite");
    const nb_stored many[] = {down, up, T(Q ".alpha", 2)};
    assert_fails(OPEN(many), NB_E_DATA, Q ".alpha: wanted one number, found 2");
    static const struct {
        const char *config, *sentence;
    } headers[] = {
        {"[]", "lora_adapter_metadata in the header is no object"},
        {"{", "lora.safetensors: "},
        {"{\"lora_alpha\": \"x\"}", "wanted a number in the header"},
        {"{\"alpha_pattern\": {\"to_(q|k)\": 1}}", "pattern to_(q|k) in the header"},
        {"{\"use_dora\": true}", "a DoRA adapter"},
    };
    const nb_stored good[] = {down, up};
    for (int i = 0; i < COUNT(headers); i++) {
        const char *const metadata[] = {"lora_adapter_metadata", headers[i].config, NULL};
        assert_fails(open_one(state, good, 2, metadata, 0), NB_E_DATA, headers[i].sentence);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_dialects),
        TEST(test_fused),
        TEST(test_final_layer_swaps),
        TEST(test_text_encoders),
        TEST(test_alpha),
        TEST(test_several_files_add_up),
        TEST(test_branch_of_the_weight_stays),
        TEST(test_bias),
        TEST(test_binder_applies),
        TEST(test_unknown_names),
        TEST(test_other_families),
        TEST(test_shapes),
        TEST(test_overflow),
        TEST(test_bad_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
