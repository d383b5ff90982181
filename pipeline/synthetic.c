#include "pipeline/synthetic.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/folder.h"
#include "kernels/base/json.h"
#include "pipeline/synthetic_words.h"

/* The spec that a folder was written from. */
static const char SPEC_FILE[] = "synthetic.json";

static const char *const format_names[NB_QUANT_FORMAT_COUNT] = {
    [NB_QUANT_NVFP4] = "nvfp4", [NB_QUANT_MXFP4] = "mxfp4", [NB_QUANT_FP8] = "fp8",
    [NB_QUANT_F32] = "f32",     [NB_QUANT_BF16] = "bf16",
};

static const struct part {
    const char *folder, *file;
} parts[NB_PART_COUNT] = {
    [NB_PART_CLIP] = {"text_encoder", "model.safetensors"},
    [NB_PART_T5] = {"text_encoder_2", "model.safetensors"},
    [NB_PART_FLUX] = {"transformer", "diffusion_pytorch_model.safetensors"},
    [NB_PART_VAE] = {"vae", "diffusion_pytorch_model.safetensors"},
};

static int is_full(const nb_synthetic_spec *spec, nb_part part)
{
    return (spec->parts >> part) & 1;
}

/* ---- configurations, published and in miniature ---- */

static int64_t clip_vocab(const nb_synthetic_spec *spec)
{
    return is_full(spec, NB_PART_CLIP) ? 49408 : NB_CLIP_LEAST_VOCAB;
}

/* Of the tokenizer; the model has some rows more. */
static int64_t t5_vocab(const nb_synthetic_spec *spec)
{
    return is_full(spec, NB_PART_T5) ? 32100 : NB_T5_LEAST_VOCAB;
}

static json_t *clip_config(const nb_synthetic_spec *spec)
{
    int full = is_full(spec, NB_PART_CLIP);
    int64_t vocab = clip_vocab(spec);
    return json_pack("{s:[s], s:i, s:i, s:i, s:i, s:i, s:I, s:s, s:f, s:I}", "architectures",
                     "CLIPTextModel", "hidden_size", 768, "intermediate_size", full ? 3072 : 64,
                     "num_hidden_layers", full ? 12 : 1, "num_attention_heads", 12,
                     "max_position_embeddings", 77, "vocab_size", (json_int_t)vocab,
                     "hidden_act", "quick_gelu", "layer_norm_eps", 1e-5, "eos_token_id",
                     (json_int_t)(vocab - 1));
}

static json_t *t5_config(const nb_synthetic_spec *spec)
{
    int full = is_full(spec, NB_PART_T5);
    return json_pack("{s:[s], s:i, s:i, s:i, s:i, s:i, s:I, s:i, s:i, s:f, s:s, s:s, s:b}",
                     "architectures", "T5EncoderModel", "d_model", 4096, "d_ff",
                     full ? 10240 : 64, "d_kv", 64, "num_heads", full ? 64 : 1, "num_layers",
                     full ? 24 : 1, "vocab_size", (json_int_t)t5_vocab(spec) + 28,
                     "relative_attention_num_buckets", 32, "relative_attention_max_distance",
                     128, "layer_norm_epsilon", 1e-6, "feed_forward_proj", "gated-gelu",
                     "dense_act_fn", "gelu_new", "is_gated_act", 1);
}

static json_t *flux_config(const nb_synthetic_spec *spec)
{
    int full = is_full(spec, NB_PART_FLUX);
    return json_pack("{s:s, s:i, s:I, s:I, s:i, s:i, s:i, s:i, s:[i, i, i], s:b, s:i}",
                     "_class_name", "FluxTransformer2DModel", "in_channels", 64, "num_layers",
                     full ? (json_int_t)spec->n_double : 1, "num_single_layers",
                     full ? (json_int_t)spec->n_single : 0, "num_attention_heads",
                     full ? 24 : 1, "attention_head_dim", 128, "joint_attention_dim", 4096,
                     "pooled_projection_dim", 768, "axes_dims_rope", 16, 56, 56,
                     "guidance_embeds", spec->guidance, "patch_size", 1);
}

static json_t *vae_config(const nb_synthetic_spec *spec)
{
    int full = is_full(spec, NB_PART_VAE);
    return json_pack("{s:s, s:[i, i, i, i], s:i, s:i, s:i, s:i, s:s, s:i, s:f, s:f, s:b, s:b,"
                     " s:b}",
                     "_class_name", "AutoencoderKL", "block_out_channels", full ? 128 : 32,
                     full ? 256 : 32, full ? 512 : 32, full ? 512 : 32, "layers_per_block",
                     full ? 2 : 1, "latent_channels", 16, "out_channels", 3, "norm_num_groups",
                     32, "act_fn", "silu", "sample_size", 1024, "scaling_factor", 0.3611,
                     "shift_factor", 0.1159, "use_quant_conv", 0, "use_post_quant_conv", 0,
                     "mid_block_add_attention", full);
}

static json_t *part_config(const nb_synthetic_spec *spec, nb_part part)
{
    switch (part) {
    case NB_PART_CLIP:
        return clip_config(spec);
    case NB_PART_T5:
        return t5_config(spec);
    case NB_PART_FLUX:
        return flux_config(spec);
    default:
        return vae_config(spec);
    }
}

static json_t *scheduler_config(const nb_synthetic_spec *spec)
{
    return json_pack("{s:s, s:i, s:f, s:b, s:i, s:i, s:f, s:f}", "_class_name",
                     "FlowMatchEulerDiscreteScheduler", "num_train_timesteps", 1000, "shift",
                     spec->guidance ? 3.0 : 1.0, "use_dynamic_shifting", spec->guidance,
                     "base_image_seq_len", 256, "max_image_seq_len", 4096, "base_shift", 0.5,
                     "max_shift", 1.15);
}

static json_t *model_index(void)
{
    return json_pack("{s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:[s,s]}",
                     "_class_name", "FluxPipeline", "scheduler", "diffusers",
                     "FlowMatchEulerDiscreteScheduler", "text_encoder", "transformers",
                     "CLIPTextModel", "text_encoder_2", "transformers", "T5EncoderModel",
                     "tokenizer", "transformers", "CLIPTokenizer", "tokenizer_2",
                     "transformers", "T5TokenizerFast", "transformer", "diffusers",
                     "FluxTransformer2DModel", "vae", "diffusers", "AutoencoderKL");
}

static json_t *spec_json(const nb_synthetic_spec *spec)
{
    json_t *full = json_array();
    for (int i = 0; i < NB_PART_COUNT; i++)
        if (is_full(spec, (nb_part)i))
            json_array_append_new(full, json_string(nb_part_name((nb_part)i)));
    return json_pack("{s:s, s:I, s:I, s:s, s:s, s:o}", "arch",
                     spec->guidance ? "flux-dev" : "flux-schnell", "double",
                     (json_int_t)spec->n_double, "single", (json_int_t)spec->n_single,
                     "weights", format_names[spec->weights], "text-weights",
                     format_names[spec->text_weights], "full parts", full);
}

/* ---- components ---- */

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for a synthetic pipeline");
}

/* The tensors of a part, as the component's own reader understands its configuration. */
static nb_status list_from(const nb_synthetic_spec *spec, nb_part part, const json_t *json,
                           nb_synthetic **out)
{
    static const char path[] = "synthetic";
    nb_clip_config clip;
    nb_t5_config t5;
    nb_flux_config flux;
    nb_vae_config vae;
    switch (part) {
    case NB_PART_CLIP:
        NB_TRY(nb_clip_config_read(path, json, &clip));
        return nb_synthetic_clip(&clip, spec->weights, out);
    case NB_PART_T5:
        NB_TRY(nb_t5_config_read(path, json, &t5));
        return nb_synthetic_t5(&t5, spec->text_weights, out);
    case NB_PART_FLUX:
        NB_TRY(nb_flux_config_read(path, json, &flux));
        return nb_synthetic_flux(&flux, spec->weights, out);
    default:
        NB_TRY(nb_vae_config_read(path, json, &vae));
        return nb_synthetic_vae(&vae, spec->weights, out);
    }
}

static nb_status list_part(const nb_synthetic_spec *spec, nb_part part, nb_synthetic **out)
{
    json_t *json = part_config(spec, part);
    if (!json) return no_memory();
    nb_status status = list_from(spec, part, json, out);
    json_decref(json);
    return status;
}

nb_status nb_synthetic_part_bytes(const nb_synthetic_spec *spec, nb_part part, size_t *out)
{
    nb_synthetic *list;
    NB_TRY(list_part(spec, part, &list));
    *out = nb_synthetic_bytes(list);
    nb_synthetic_destroy(list);
    return NB_OK;
}

static nb_status write_weights(const nb_synthetic_spec *spec, nb_part part, const char *folder,
                               const nb_synthetic_watch *watch)
{
    nb_synthetic *list;
    char *path = nb_path_join(folder, parts[part].file);
    nb_status status = path ? list_part(spec, part, &list) : no_memory();
    if (!status) {
        status = nb_synthetic_write(list, path, watch);
        nb_synthetic_destroy(list);
    }
    free(path);
    return status;
}

/* ---- folders ---- */

/* A new folder in `folder` with that name, in *out, which the caller frees. */
static nb_status make_folder(const char *folder, const char *name, char **out)
{
    char *path = nb_path_join(folder, name);
    if (!path) return no_memory();
    nb_status status = nb_folder_make(path);
    if (status)
        free(path);
    else
        *out = path;
    return status;
}

static nb_status write_part(const nb_synthetic_spec *spec, nb_part part, const char *folder,
                            const nb_synthetic_watch *watch)
{
    char *path = NULL;
    NB_TRY(make_folder(folder, parts[part].folder, &path));
    nb_status status = nb_synthetic_write_json(path, "config.json", part_config(spec, part));
    if (!status) status = write_weights(spec, part, path, watch);
    free(path);
    return status;
}

static nb_status write_words(const char *folder, const char *name, int64_t vocab,
                             nb_status (*write)(const char *folder, int64_t vocab))
{
    char *path = NULL;
    NB_TRY(make_folder(folder, name, &path));
    nb_status status = write(path, vocab);
    free(path);
    return status;
}

static nb_status write_schedule(const nb_synthetic_spec *spec, const char *folder)
{
    char *path = NULL;
    NB_TRY(make_folder(folder, "scheduler", &path));
    nb_status status =
        nb_synthetic_write_json(path, "scheduler_config.json", scheduler_config(spec));
    free(path);
    return status;
}

nb_status nb_synthetic_pipeline_write(const nb_synthetic_spec *spec, const char *folder,
                                      const nb_synthetic_watch *watch)
{
    NB_TRY(write_schedule(spec, folder));
    NB_TRY(write_words(folder, "tokenizer", clip_vocab(spec), nb_synthetic_clip_words));
    NB_TRY(write_words(folder, "tokenizer_2", t5_vocab(spec), nb_synthetic_t5_words));
    for (int i = 0; i < NB_PART_COUNT; i++) NB_TRY(write_part(spec, (nb_part)i, folder, watch));
    NB_TRY(nb_synthetic_write_json(folder, SPEC_FILE, spec_json(spec)));
    return nb_synthetic_write_json(folder, "model_index.json", model_index());
}

static nb_status compare_specs(const char *path, const json_t *wanted, const json_t *found)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)wanted, key, value)
    {
        const json_t *other = json_object_get(found, key);
        if (other && json_equal(value, other)) continue;
        char *want = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        char *have = other ? json_dumps(other, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
        nb_fail(NB_E_DATA, "%s: %s: wanted %.100s, found %.100s", path, key, want ? want : "?",
                have ? have : "nothing");
        free(want);
        free(have);
        return NB_E_DATA;
    }
    return NB_OK;
}

nb_status nb_synthetic_pipeline_check(const nb_synthetic_spec *spec, const char *folder)
{
    char *path = nb_path_join(folder, SPEC_FILE);
    json_t *wanted = spec_json(spec), *found = NULL;
    nb_status status = path && wanted ? NB_OK : no_memory();
    if (!status && !nb_file_exists(path))
        status =
            nb_fail(NB_E_DATA, "%s: holds no synthetic pipeline (no %s)", folder, SPEC_FILE);
    if (!status) status = nb_json_load_object(path, &found);
    if (!status) status = compare_specs(path, wanted, found);
    json_decref(found);
    json_decref(wanted);
    free(path);
    return status;
}
