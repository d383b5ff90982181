/*
 * BFL's names against diffusers': what becomes of every byte of small fused tensors, and all
 * names of whole files against those that diffusers wrote for the same architecture.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/canonical.h"
#include "tests/unit/items.h"

static nb_status open_items(void **state, const struct item *items, int n, nb_checkpoint **out)
{
    const char *path = scratch_path(state, "b.safetensors");
    write_items(path, items, n);
    return nb_canonical_open(path, out);
}

/* The tensor has so many rows and holds these bytes, a for 0, b for 1 ... */
static void assert_bytes(const nb_checkpoint *c, const char *name, int64_t rows,
                         const char *bytes)
{
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (!t) fail_msg("no tensor %s", name);
    assert_int_equal(t->rank ? t->shape[0] : NONE, rows);
    assert_int_equal(t->bytes, strlen(bytes));
    assert_int_equal(nb_stored_count(t), t->bytes);
    for (size_t i = 0; i < t->bytes; i++)
        if (((const char *)t->data)[i] + 'a' != bytes[i])
            fail_msg("%s: wanted %s, found %c at %zu", name, bytes,
                     ((const char *)t->data)[i] + 'a', i);
}

static void cuts_q_k_and_v(void **state)
{
    static const struct item items[] = {
        {"double_blocks.12.img_attn.qkv.weight", 6, 2},
        {"double_blocks.12.img_attn.qkv.bias", 6, NONE},
        {"double_blocks.12.img_attn.qkv.scale_weight", NONE, NONE},
        {"double_blocks.12.txt_attn.qkv.weight", 3, 1},
        {"double_blocks.12.txt_attn.qkv.weight_scale", 3, 1},
    };
    nb_checkpoint *c;
    assert_ok(open_items(state, items, N(items), &c));
    assert_int_equal(nb_checkpoint_n_tensors(c), 15);
    assert_bytes(c, "transformer_blocks.12.attn.to_q.weight", 2, "abcd");
    assert_bytes(c, "transformer_blocks.12.attn.to_k.weight", 2, "efgh");
    assert_bytes(c, "transformer_blocks.12.attn.to_v.weight", 2, "ijkl");
    assert_bytes(c, "transformer_blocks.12.attn.to_q.bias", 2, "mn");
    assert_bytes(c, "transformer_blocks.12.attn.to_v.bias", 2, "qr");
    assert_bytes(c, "transformer_blocks.12.attn.to_q.scale_weight", NONE, "s");
    assert_bytes(c, "transformer_blocks.12.attn.to_k.scale_weight", NONE, "s");
    assert_bytes(c, "transformer_blocks.12.attn.add_q_proj.weight", 1, "t");
    assert_bytes(c, "transformer_blocks.12.attn.add_v_proj.weight", 1, "v");
    assert_bytes(c, "transformer_blocks.12.attn.add_k_proj.weight_scale", 1, "x");
    nb_checkpoint_close(c);
}

static void cuts_linear1(void **state)
{
    static const struct item items[] = {
        {"model.diffusion_model.single_blocks.3.linear1.weight", 11, 2},
        {"model.diffusion_model.single_blocks.3.linear1.bias", 11, NONE},
        {"model.diffusion_model.single_blocks.3.linear2.weight", 2, 7},
    };
    nb_checkpoint *c;
    assert_ok(open_items(state, items, N(items), &c));
    assert_int_equal(nb_checkpoint_n_tensors(c), 9);
    assert_bytes(c, "single_transformer_blocks.3.attn.to_q.weight", 2, "abcd");
    assert_bytes(c, "single_transformer_blocks.3.attn.to_v.weight", 2, "ijkl");
    assert_bytes(c, "single_transformer_blocks.3.proj_mlp.weight", 5, "mnopqrstuv");
    assert_bytes(c, "single_transformer_blocks.3.attn.to_k.bias", 2, "yz");
    assert_int_equal(
        nb_checkpoint_find(c, "single_transformer_blocks.3.proj_out.weight")->bytes, 14);
    nb_checkpoint_close(c);
}

static void cuts_scales_of_blocks(void **state)
{
    static const struct item items[] = {
        {"double_blocks.0.img_attn.qkv.weight_scale_inv", 6, 2},
        {"double_blocks.0.img_attn.qkv.weight", 768, 1},
    };
    nb_checkpoint *c;
    assert_ok(open_items(state, items, N(items), &c));
    assert_bytes(c, "transformer_blocks.0.attn.to_q.weight_scale_inv", 2, "abcd");
    assert_bytes(c, "transformer_blocks.0.attn.to_v.weight_scale_inv", 2, "ijkl");
    nb_checkpoint_close(c);
}

static void swaps_the_final_layer(void **state)
{
    static const struct item items[] = {
        {"final_layer.adaLN_modulation.1.weight", 4, 2},
        {"final_layer.adaLN_modulation.1.bias", 4, NONE},
        {"final_layer.linear.weight", 1, 2},
    };
    nb_checkpoint *c;
    assert_ok(open_items(state, items, N(items), &c));
    assert_bytes(c, "norm_out.linear.weight", 4, "efghabcd");
    assert_bytes(c, "norm_out.linear.bias", 4, "klij");
    assert_bytes(c, "proj_out.weight", 1, "mn");
    nb_checkpoint_close(c);
}

static void counts_decoder_levels_from_the_end(void **state)
{
    static const struct item items[] = {
        {"first_stage_model.decoder.up.0.block.2.conv1.weight", 1, NONE},
        {"first_stage_model.decoder.up.2.block.0.nin_shortcut.bias", 1, NONE},
        {"first_stage_model.decoder.up.2.upsample.conv.bias", 1, NONE},
        {"first_stage_model.encoder.down.2.block.1.norm1.bias", 1, NONE},
        {"first_stage_model.decoder.mid.attn_1.norm.bias", 1, NONE},
        {"first_stage_model.decoder.norm_out.bias", 1, NONE},
        {"first_stage_model.encoder.conv_in.bias", 1, NONE},
    };
    nb_checkpoint *c;
    assert_ok(open_items(state, items, N(items), &c));
    assert_bytes(c, "decoder.up_blocks.2.resnets.2.conv1.weight", 1, "a");
    assert_bytes(c, "decoder.up_blocks.0.resnets.0.conv_shortcut.bias", 1, "b");
    assert_bytes(c, "decoder.up_blocks.0.upsamplers.0.conv.bias", 1, "c");
    assert_bytes(c, "encoder.down_blocks.2.resnets.1.norm1.bias", 1, "d");
    assert_bytes(c, "decoder.mid_block.attentions.0.group_norm.bias", 1, "e");
    assert_bytes(c, "decoder.conv_norm_out.bias", 1, "f");
    assert_bytes(c, "encoder.conv_in.bias", 1, "g");
    nb_checkpoint_close(c);
}

static void refuses_what_cannot_be_cut(void **state)
{
    static const struct {
        struct item items[2];
        int n;
        const char *sentence;
    } bad[] = {
        {{{"double_blocks.0.img_attn.qkv.weight", 4, 1}},
         1,
         "qkv.weight: cannot be cut into q"},
        {{{"double_blocks.0.img_attn.qkv.bias", 3, NONE}}, 1, "qkv.bias: cannot be cut into q"},
        {{{"double_blocks.0.img_attn.qkv.weight", NONE, NONE}}, 1, "cannot be cut into q"},
        {{{"single_blocks.0.linear1.weight", 7, 1}}, 1, "cannot be cut into q, k and v"},
        {{{"single_blocks.0.linear1.weight", 6, 1}, {"single_blocks.0.linear2.weight", 2, 1}},
         2,
         "cannot be cut into q, k and v"},
        {{{"double_blocks.0.img_attn.qkv.weight", 3, 1},
          {"double_blocks.0.img_attn.qkv.bias", 6, NONE}},
         2,
         "qkv.bias: rows 0 to 1 of 3 cannot be cut out of it"},
        {{{"final_layer.adaLN_modulation.1.bias", 2, NONE}}, 1, "cannot be cut out of it"},
        {{{"final_layer.adaLN_modulation.1.weight", 0, 2}}, 1, "cannot be cut out of it"},
        {{{"double_blocks.0.img_attn.qkv.weight", 0, 2}}, 1, "cannot be cut into q, k and v"},
        {{{"single_blocks.0.linear1.weight", 7, 1},
          {"single_blocks.0.linear2.weight", INT64_MAX / 2, 0}},
         2,
         "cannot be cut into q, k and v"},
        {{{"img_in.weight", 1, NONE}, {"x_embedder.weight", 1, NONE}},
         2,
         "tensor x_embedder.weight is also in"},
    };
    for (int i = 0; i < N(bad); i++) {
        nb_checkpoint *c = NULL;
        assert_fails(open_items(state, bad[i].items, bad[i].n, &c), NB_E_DATA, bad[i].sentence);
        assert_null(c);
    }
}

/* Every tensor of `path` but scales has a name that the reference's file has, and the ranks are
 * those but for trailing ones. */
static void assert_names(const char *path, const char *reference, int wanted)
{
    nb_checkpoint *c, *r;
    int n = 0;
    assert_ok(nb_canonical_open(path, &c));
    assert_ok(nb_checkpoint_open(reference, &r));
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        if (strstr(t->name, "scale")) continue;
        const nb_stored *same = nb_checkpoint_find(r, t->name);
        if (!same) fail_msg("%s: %s has no tensor of that name", t->name, reference);
        assert_true(t->rank == same->rank || t->shape[t->rank - 1] == 1);
        n++;
    }
    assert_int_equal(n, wanted);
    nb_checkpoint_close(c);
    nb_checkpoint_close(r);
}

#define MODELS "golden/flux/models/"

static void maps_whole_files(void **state)
{
    (void)state;
    assert_names(MODELS "single/flux1-dev.safetensors", MODELS "fp8/transformer", 66);
    assert_names(MODELS "single/ae.safetensors", MODELS "schnell/vae", 134);
}

static void leaves_canonical_names(void **state)
{
    (void)state;
    static const char *const parts[] = {"transformer", "vae", "text_encoder", "text_encoder_2"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char path[128], before[65], after[65];
        nb_checkpoint *c;
        snprintf(path, sizeof path, "golden/flux/models/dev/%s", parts[i]);
        assert_ok(nb_checkpoint_open(path, &c));
        nb_checkpoint_digest(c, before);
        assert_ok(nb_canonical_rename(c));
        nb_checkpoint_digest(c, after);
        assert_string_equal(before, after);
        nb_checkpoint_close(c);
    }
}

/* Pictures carry it from renamed checkpoints, `info` tells it of the file. */
static void keeps_the_digest(void **state)
{
    (void)state;
    char before[65], after[65];
    nb_checkpoint *c;
    assert_ok(nb_checkpoint_open(MODELS "single/flux1-dev.safetensors", &c));
    nb_checkpoint_digest(c, before);
    assert_ok(nb_canonical_rename(c));
    nb_checkpoint_digest(c, after);
    assert_non_null(nb_checkpoint_find(c, "norm_out.linear.weight"));
    assert_string_equal(before, after);
    nb_checkpoint_close(c);
}

/* Of an all-in-one file only what is a part's own; a mark of whole parts may be there twice. */
static void opens_one_part(void **state)
{
    static const struct item items[] = {
        {"model.diffusion_model.img_in.weight", 2, 1},
        {"model.diffusion_model.scaled_fp8", 1, NONE},
        {"text_encoders.clip_l.transformer.text_model.final_layer_norm.weight", 1, NONE},
        {"text_encoders.t5xxl.transformer.shared.weight", 1, 1},
        {"text_encoders.t5xxl.transformer.scaled_fp8", 1, NONE},
        {"vae.decoder.conv_in.bias", 1, NONE},
        {"no.part.weight", 1, NONE},
    };
    static const struct {
        nb_component_kind kind;
        int64_t n;
        const char *own;
    } parts[] = {{NB_KIND_FLUX, 3, "x_embedder.weight"},
                 {NB_KIND_CLIP, 2, "text_model.final_layer_norm.weight"},
                 {NB_KIND_T5, 3, "shared.weight"},
                 {NB_KIND_VAE, 2, "decoder.conv_in.bias"},
                 {NB_KIND_UNKNOWN, N(items), "shared.weight"}};
    const char *path = scratch_path(state, "all.safetensors");
    write_items(path, items, N(items));
    for (size_t i = 0; i < N(parts); i++) {
        nb_checkpoint *c;
        assert_ok(nb_canonical_open_part(path, parts[i].kind, &c));
        assert_int_equal(nb_checkpoint_n_tensors(c), parts[i].n);
        assert_non_null(nb_checkpoint_find(c, parts[i].own));
        assert_non_null(nb_checkpoint_find(c, "no.part.weight"));
        nb_checkpoint_close(c);
    }
}

#define T(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(cuts_q_k_and_v),
        T(cuts_linear1),
        T(cuts_scales_of_blocks),
        T(swaps_the_final_layer),
        T(counts_decoder_levels_from_the_end),
        T(refuses_what_cannot_be_cut),
        T(maps_whole_files),
        T(leaves_canonical_names),
        T(keeps_the_digest),
        T(opens_one_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
