/*
 * nunchaku's files: orders against those of golden/make_nunchaku.py and of the instructions
 * they are made for, what tensors become, and what is refused.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "models/canonical.h"
#include "models/nunchaku.h"
#include "models/nunchaku_order.h"
#include "tests/unit/scratch.h"

#define FP4  "golden/flux/models/nunchaku/svdq-fp4_r16-flux.1-dev.safetensors"
#define INT4 "golden/flux/models/nunchaku/svdq-int4-flux.1-dev"

/* --- orders --- */

static const nb_stored *tensor(const nb_checkpoint *c, const char *name)
{
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (!t) fail_msg("no tensor %s", name);
    return t;
}

static const uint16_t *halves(const nb_checkpoint *c, const char *name)
{
    return tensor(c, name)->data;
}

static void compare_rows(const nb_checkpoint *c)
{
    const nb_stored *codes = tensor(c, "layer.qweight"), *scales = tensor(c, "layer.wscales");
    const uint8_t *wanted = tensor(c, "plain.codes")->data;
    const uint8_t *wanted_scales = tensor(c, "plain.scales")->data;
    const uint8_t *awq = tensor(c, "plain.awq")->data;
    int64_t n = codes->shape[0], k = 2 * codes->shape[1];
    uint8_t row[256];
    assert_true(n == 256 && k == 128);
    for (int64_t i = 0; i < n; i++) {
        nb_nunchaku_codes(codes->data, k, i, k, row);
        assert_memory_equal(row, wanted + i * k / 2, k / 2);
        nb_nunchaku_scales(scales->data, k, i, k / 16, row);
        assert_memory_equal(row, wanted_scales + i * k / 16, k / 16);
        for (int64_t k0 = 0; k0 < k; k0 += 32) {
            nb_nunchaku_awq_codes(tensor(c, "mod.qweight")->data, k, i, k0, row);
            assert_memory_equal(row, awq + i * k + k0, 32);
        }
    }
}

static void puts_in_order(void **state)
{
    enum { ROWS = 256, COLUMNS = 128, RANK = 32, GROUPS = 2 };
    nb_checkpoint *c;
    (void)state;
    assert_ok(nb_checkpoint_open("golden/fp4/nunchaku.safetensors", &c));
    compare_rows(c);
    const uint16_t *bias = halves(c, "layer.bias"), *groups = halves(c, "layer.groups");
    const uint16_t *up = halves(c, "layer.lora_up"), *down = halves(c, "layer.lora_down");
    for (int64_t i = 0; i < ROWS; i++) {
        assert_int_equal(bias[nb_nunchaku_vector_place(i)], halves(c, "plain.bias")[i]);
        for (int64_t g = 0; g < GROUPS; g++)
            assert_int_equal(groups[nb_nunchaku_group_place(i, g, GROUPS)],
                             halves(c, "plain.groups")[i * GROUPS + g]);
        for (int64_t r = 0; r < RANK; r++)
            assert_int_equal(up[nb_nunchaku_up_place(i, r, RANK)],
                             halves(c, "plain.lora_up")[i * RANK + r]);
    }
    for (int64_t r = 0; r < RANK; r++)
        for (int64_t i = 0; i < COLUMNS; i++)
            assert_int_equal(down[nb_nunchaku_down_place(r, i, RANK)],
                             halves(c, "plain.lora_down")[r * COLUMNS + i]);
    nb_checkpoint_close(c);
}

/* PTX ISA, B fragment of mma.m16n8k64 with elements of 4 bits: lane holds column lane / 4 of B,
 * a row of W, and in its i-th register rows 32 i + 8 (lane % 4) ... of B. A lane loads four
 * registers at once, of two products. */
static void lanes_hold_what_the_product_takes(void **state)
{
    enum { LANES = 32, REGISTERS = 4, PRODUCTS = 8 };
    static uint32_t words[PRODUCTS * LANES * REGISTERS];
    uint8_t row[32];
    (void)state;
    for (uint32_t i = 0; i < sizeof words / sizeof *words; i++) words[i] = i;
    for (uint32_t p = 0; p < PRODUCTS; p++)
        for (uint32_t lane = 0; lane < LANES; lane++)
            for (uint32_t i = 0; i < REGISTERS; i++) {
                uint32_t half = i / 2, word;
                nb_nunchaku_codes(words, 64, 16 * p + 8 * half + lane / 4, 64, row);
                memcpy(&word, row + (32 * (i % 2) + 8 * (lane % 4)) / 2, sizeof word);
                assert_int_equal(word, (p * LANES + lane) * REGISTERS + i);
            }
}

/* In a C fragment of m16n8 a lane holds two neighbours, and those of the next product are 8
 * further on: 0 1 8 9 are the first lane's. */
static void vectors_follow_the_sums(void **state)
{
    static const int order[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
    (void)state;
    for (int i = 0; i < 32; i++)
        assert_int_equal(nb_nunchaku_vector_place(order[i % 16] + i / 16 * 16), i);
}

/* --- what becomes of a file --- */

static void expect(const nb_checkpoint *c, const char *name, nb_dtype dtype, int rank,
                   int64_t rows, int64_t columns)
{
    const nb_stored *t = tensor(c, name);
    if (t->dtype != dtype || t->rank != rank || (rank > 0 && t->shape[0] != rows) ||
        (rank > 1 && t->shape[1] != columns))
        fail_msg("%s is %s, rank %d [%d, %d]", name, nb_dtype_name(t->dtype), t->rank,
                 (int)t->shape[0], (int)t->shape[1]);
}

static int has(const nb_checkpoint *c, const char *name)
{
    return nb_checkpoint_find(c, name) != NULL;
}

#define TO_Q   "transformer_blocks.0.attn.to_q."
#define OUT    "transformer_blocks.0.attn.to_out.0."
#define FIRST  "single_transformer_blocks.0."
#define SECOND "single_transformer_blocks.1."

static void becomes_what_diffusers_has(void **state)
{
    nb_checkpoint *c;
    char before[65], after[65];
    (void)state;
    assert_ok(nb_checkpoint_open(FP4, &c));
    nb_checkpoint_digest(c, before);
    assert_ok(nb_canonical_rename(c));
    nb_checkpoint_digest(c, after);
    assert_string_equal(before, after);
    expect(c, TO_Q "weight", NB_DTYPE_U8, 2, 128, 64);
    expect(c, TO_Q "weight_scale", NB_DTYPE_F8_E4M3, 2, 128, 8);
    expect(c, TO_Q "weight_scale_2", NB_DTYPE_F32, 0, 0, 0);
    expect(c, TO_Q "column_scales", NB_DTYPE_F32, 1, 128, 0);
    expect(c, TO_Q "low_rank_down", NB_DTYPE_BF16, 2, 16, 128);
    expect(c, TO_Q "low_rank_up", NB_DTYPE_BF16, 2, 128, 16);
    expect(c, TO_Q "bias", NB_DTYPE_F32, 1, 128, 0);
    assert_false(has(c, OUT "column_scales")); /* smooth is 1 everywhere */
    expect(c, "transformer_blocks.0.norm1.linear.weight", NB_DTYPE_Q4_1, 2, 768, 128);
    expect(c, "transformer_blocks.0.attn.norm_added_k.weight", NB_DTYPE_BF16, 1, 64, 0);
    expect(c, FIRST "proj_out.weight", NB_DTYPE_U8, 2, 128, 320);
    expect(c, FIRST "proj_out.low_rank_down", NB_DTYPE_BF16, 2, 32, 640);
    expect(c, SECOND "proj_out.weight", NB_DTYPE_F32, 2, 128, 640); /* rows' scales differ */
    expect(c, SECOND "attn.to_k.weight", NB_DTYPE_F32, 2, 128, 128);
    expect(c, "x_embedder.weight", NB_DTYPE_BF16, 2, 128, 64);
    assert_false(has(c, "transformer_blocks.0.qkv_proj.qweight"));
    nb_checkpoint_close(c);
}

static void reads_folders_and_integers(void **state)
{
    nb_checkpoint *c;
    (void)state;
    assert_ok(nb_canonical_open(INT4, &c));
    expect(c, TO_Q "weight", NB_DTYPE_Q4_1, 2, 128, 128);
    expect(c, "transformer_blocks.0.norm1_context.linear.weight", NB_DTYPE_Q4_1, 2, 768, 128);
    expect(c, FIRST "proj_out.weight", NB_DTYPE_Q4_1, 2, 128, 640);
    expect(c, "proj_out.weight", NB_DTYPE_BF16, 2, 64, 128);
    nb_checkpoint_close(c);
}

/* --- what is refused --- */

enum { MAX_TENSORS = 256 };

/* A copy of the file: without a tensor, or with another one in its place, or with that config.
 */
static nb_status open_changed(void **state, const char *name, const nb_stored *other,
                              const char *config)
{
    nb_stored tensors[MAX_TENSORS];
    const char *metadata[] = {"config", config, "quantization_config", "{}", NULL};
    int64_t n = 0;
    nb_checkpoint *c, *changed = NULL;
    assert_ok(nb_checkpoint_open(FP4, &c));
    assert_true(nb_checkpoint_n_tensors(c) <= MAX_TENSORS);
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        int is_it = name && strcmp(t->name, name) == 0;
        if (!is_it || other) tensors[n++] = is_it ? *other : *t;
    }
    const char *path = scratch_path(state, "changed.safetensors");
    assert_ok(nb_safetensors_write(path, tensors, n, config ? metadata : NULL));
    nb_checkpoint_close(c);
    nb_status status = nb_canonical_open(path, &changed);
    nb_checkpoint_close(changed);
    return status;
}

#define QKV "transformer_blocks.0.qkv_proj."
#define MOD "single_transformer_blocks.1.norm.linear."

static void names_what_is_missing(void **state)
{
    static const char *const names[] = {QKV "wscales",
                                        QKV "smooth",
                                        QKV "bias",
                                        QKV "lora_down",
                                        QKV "lora_up",
                                        MOD "wscales",
                                        MOD "wzeros",
                                        MOD "bias",
                                        "x_embedder.weight",
                                        "single_transformer_blocks.0.mlp_fc2.qweight",
                                        "transformer_blocks.0.mlp_context_fc2.smooth",
                                        MOD "qweight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char sentence[128];
        snprintf(sentence, sizeof sentence, "tensor %s is missing", names[i]);
        assert_fails(open_changed(state, names[i], NULL, NULL), NB_E_DATA, sentence);
    }
}

static const unsigned char nothing[1 << 16];

#define T(name_, type, rank_, n, k, bytes_)                                                    \
    {                                                                                          \
        .name = name_, .dtype = NB_DTYPE_##type, .rank = rank_, .shape = {n, k},               \
        .data = nothing, .bytes = bytes_                                                       \
    }

static void refuses_what_does_not_fit(void **state)
{
    static const struct {
        nb_stored tensor;
        const char *sentence;
    } cases[] = {
        {T(QKV "qweight", I8, 2, 256, 64, 256 * 64), "wanted [384, 64], found [256, 64]"},
        {T(QKV "qweight", I16, 2, 384, 64, 384 * 128), "wanted I8, found I16"},
        {T(QKV "wscales", F8_E4M3, 2, 384, 8, 384 * 8), "wanted [8, 384], found [384, 8]"},
        {T(QKV "wscales", F32, 2, 8, 384, 384 * 32), "wanted F8_E4M3, F16 or BF16, found F32"},
        {T(QKV "wscales", BF16, 2, 8, 384, 384 * 16), "wanted [2, 384], found [8, 384]"},
        {T(QKV "smooth", BF16, 1, 128, 0, 256), QKV "smooth: element 0 is 0"},
        {T(QKV "smooth", BF16, 1, 64, 0, 128), "wanted [128], found [64]"},
        {T(QKV "wcscales", BF16, 1, 128, 0, 256), "wanted [384], found [128]"},
        {T(QKV "lora_down", BF16, 2, 128, 8, 128 * 16), "wanted [128, 16], found [128, 8]"},
        {T(QKV "lora_up", BF16, 2, 384, 32, 384 * 64), "wanted [384, 16], found [384, 32]"},
        {T(QKV "lora_up", F16, 2, 384, 16, 384 * 32), "wanted BF16, found F16"},
        {T("transformer_blocks.0.out_proj.wtscale", F32, 1, 1, 0, 4), "the scale is 0"},
        {T("transformer_blocks.0.out_proj.wtscale", F32, 1, 2, 0, 8), "wanted one number"},
        {T(MOD "qweight", I32, 2, 96, 128, 96 * 512), "wanted [96, 64], found [96, 128]"},
        {T(MOD "qweight", I8, 2, 96, 64, 96 * 64), "wanted I32, found I8"},
        {T(MOD "wzeros", BF16, 2, 1, 384, 768), "wanted [2, 384], found [1, 384]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(open_changed(state, cases[i].tensor.name, &cases[i].tensor, NULL),
                     NB_E_DATA, cases[i].sentence);
}

static void refuses_what_is_not_finite(void **state)
{
    static unsigned char scales[8 * 384], infinite[256];
    nb_stored nan_scale = {.name = QKV "wscales",
                           .dtype = NB_DTYPE_F8_E4M3,
                           .rank = 2,
                           .shape = {8, 384},
                           .data = scales,
                           .bytes = sizeof scales};
    nb_stored smooth = {.name = QKV "smooth",
                        .dtype = NB_DTYPE_BF16,
                        .rank = 1,
                        .shape = {128},
                        .data = infinite,
                        .bytes = sizeof infinite};
    scales[77] = 0xff;
    memset(infinite, 0x7f, sizeof infinite);
    infinite[8] = 0x80, infinite[9] = 0x7f; /* element 4 */
    assert_fails(open_changed(state, nan_scale.name, &nan_scale, NULL), NB_E_DATA,
                 "element 77 is not finite");
    assert_fails(open_changed(state, smooth.name, &smooth, NULL), NB_E_DATA,
                 "element 4 is inf");
}

static void checks_the_config(void **state)
{
    static const char *const good[] = {
        "{}", "{\"num_layers\": 1, \"num_single_layers\": 2, \"num_attention_heads\": 1, "
              "\"attention_head_dim\": 128}"};
    static const struct {
        const char *config, *sentence;
    } bad[] = {
        {"{\"num_layers\": 2}", "wanted 2 double and 2 single blocks, found 1 and 2"},
        {"{\"num_attention_heads\": 24, \"attention_head_dim\": 128}",
         "24 heads of 128 do not make the width of x_embedder, 128"},
        {"{\"num_layers\": \"1\"}", "num_layers"},
        {"[]", "wanted an object"},
        {"{", "changed.safetensors"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_ok(open_changed(state, NULL, NULL, good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(open_changed(state, NULL, NULL, bad[i].config), NB_E_DATA,
                     bad[i].sentence);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(puts_in_order),
        cmocka_unit_test(lanes_hold_what_the_product_takes),
        cmocka_unit_test(vectors_follow_the_sums),
        cmocka_unit_test(becomes_what_diffusers_has),
        cmocka_unit_test(reads_folders_and_integers),
        TEST(names_what_is_missing),
        TEST(refuses_what_does_not_fit),
        TEST(refuses_what_is_not_finite),
        TEST(checks_the_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
