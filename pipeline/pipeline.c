/*
 * Opening reads model_index.json and every config, and T5's headers for the type of its
 * weights; nothing is mapped in that is not looked at. Where a part's files lie is in `weights`
 * and `tokenizers` alone, so that single files can take the place of the published folders.
 */
#include "pipeline/pipeline.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "models/canonical.h"
#include "models/shapes.h"

enum { CLIP_IDS, T5_IDS, N_TOKENIZERS, DEFAULT_LATENTS = 128, DEFAULT_CLIP_LENGTH = 77 };

struct nb_pipeline {
    const nb_device *device;
    char *directory, *name;
    nb_pipeline_info info;
    char *weights[NB_PART_COUNT];
    char *tokenizer_paths[N_TOKENIZERS];
    nb_checkpoint *checkpoints[NB_PART_COUNT];
    char digests[NB_PART_COUNT][65]; /* "" until asked for */
    nb_clip *clip;
    nb_t5 *t5;
    nb_flux *flux;
    nb_vae *vae;
    nb_tokenizer *tokenizers[N_TOKENIZERS];
    nb_loras *loras; /* NULL: none */
    nb_pipeline_lora *lora_infos;
};

/* What model_index.json must say of a component; NULL-terminated alternatives. */
struct component {
    const char *key;
    const char *classes[4];
};

static const struct component components[] = {
    {"scheduler", {"FlowMatchEulerDiscreteScheduler"}},
    {"text_encoder", {"CLIPTextModel"}},
    {"text_encoder_2", {"T5EncoderModel"}},
    {"tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}},
    {"tokenizer_2", {"T5TokenizerFast", "T5Tokenizer"}},
    {"transformer", {"FluxTransformer2DModel"}},
    {"vae", {"AutoencoderKL"}},
};

/* Readers of configs have one shape but for the type of what they fill in. */
static nb_status read_flux(const char *path, const json_t *json, nb_pipeline_info *info)
{
    return nb_flux_config_read(path, json, &info->flux);
}

static nb_status read_t5(const char *path, const json_t *json, nb_pipeline_info *info)
{
    return nb_t5_config_read(path, json, &info->t5);
}

static nb_status read_clip(const char *path, const json_t *json, nb_pipeline_info *info)
{
    return nb_clip_config_read(path, json, &info->clip);
}

static nb_status read_vae(const char *path, const json_t *json, nb_pipeline_info *info)
{
    return nb_vae_config_read(path, json, &info->vae);
}

static nb_status read_schedule(const char *path, const json_t *json, nb_pipeline_info *info)
{
    return nb_schedule_config_read(path, json, &info->schedule);
}

typedef nb_status read_fn(const char *path, const json_t *json, nb_pipeline_info *info);

static const struct part {
    const char *name, *folder;
    nb_component_kind kind;
    read_fn *read;
} parts[NB_PART_COUNT] = {
    [NB_PART_CLIP] = {"clip", "text_encoder", NB_KIND_CLIP, read_clip},
    [NB_PART_T5] = {"t5", "text_encoder_2", NB_KIND_T5, read_t5},
    [NB_PART_FLUX] = {"transformer", "transformer", NB_KIND_FLUX, read_flux},
    [NB_PART_VAE] = {"vae", "vae", NB_KIND_VAE, read_vae},
};

const char *nb_part_name(nb_part part)
{
    return parts[part].name;
}

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory while a pipeline is opened");
}

int nb_pipeline_is_one(const char *path)
{
    char *index = nb_path_join(path, "model_index.json");
    int is_one = index && nb_file_exists(index);
    free(index);
    return is_one;
}

/* ---- model_index.json ---------------------------------------------------------------------
 */

static nb_status check_component(const char *path, const json_t *index,
                                 const struct component *c)
{
    const json_t *pair = json_object_get(index, c->key);
    const char *class = json_string_value(json_array_get(pair, 1));
    if (!class)
        return nb_fail(NB_E_DATA, "%s: %s: wanted [library, class], found none", path, c->key);
    for (int i = 0; c->classes[i]; i++)
        if (strcmp(class, c->classes[i]) == 0) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: %s: wanted %s, found %s", path, c->key, c->classes[0],
                   class);
}

static nb_status check_classes(const char *path, const json_t *index)
{
    const char *class;
    NB_TRY(nb_json_get_string(path, index, "_class_name", "", &class));
    if (strcmp(class, "FluxPipeline") != 0)
        return nb_fail(NB_E_DATA, "%s: _class_name: wanted FluxPipeline, found %s", path,
                       *class ? class : "none");
    for (size_t i = 0; i < sizeof components / sizeof *components; i++)
        NB_TRY(check_component(path, index, &components[i]));
    return NB_OK;
}

static nb_status read_index(const char *directory)
{
    char *path = nb_path_join(directory, "model_index.json");
    json_t *index;
    if (!path) return no_memory();
    nb_status status = nb_json_load_object(path, &index);
    if (!status) {
        status = check_classes(path, index);
        json_decref(index);
    }
    free(path);
    return status;
}

/* ---- configs ------------------------------------------------------------------------------
 */

static nb_status open_checkpoint(nb_pipeline *p, nb_part part)
{
    if (p->checkpoints[part]) return NB_OK;
    NB_TRY(nb_canonical_open_part(p->weights[part], parts[part].kind, &p->checkpoints[part]));
    nb_checkpoint_set_loras(p->checkpoints[part], p->loras);
    return NB_OK;
}

static nb_status read_config(const char *directory, const char *file, read_fn *read,
                             nb_pipeline_info *info)
{
    char *path = nb_path_join(directory, file);
    json_t *json;
    if (!path) return no_memory();
    nb_status status = nb_json_load_object(path, &json);
    if (!status) {
        status = read(path, json, info);
        json_decref(json);
    }
    free(path);
    return status;
}

static nb_status read_shapes(nb_pipeline *p, nb_part part)
{
    json_t *json;
    NB_TRY(open_checkpoint(p, part));
    NB_TRY(nb_config_from_shapes(p->checkpoints[part], parts[part].kind, &json));
    nb_status status = parts[part].read(p->weights[part], json, &p->info);
    json_decref(json);
    return status;
}

/* FLUX.1 dev and schnell have each one schedule, whatever file their weights come in. */
static nb_schedule_config published_schedule(int guidance)
{
    return (nb_schedule_config){
        .n_train = 1000,
        .shift = guidance ? 3.0 : 1.0,
        .dynamic = guidance,
        .base_tokens = 256,
        .max_tokens = 4096,
        .base_shift = 0.5,
        .max_shift = 1.15,
    };
}

/* What one component gives, another one takes. */
static nb_status check_widths(const char *directory, const nb_pipeline_info *info)
{
    const struct {
        const char *wanted_by, *given_by;
        int64_t wanted, given;
    } widths[] = {
        {"transformer: joint_attention_dim", "text_encoder_2: d_model", info->flux.text_dim,
         info->t5.d_model},
        {"transformer: pooled_projection_dim", "text_encoder: hidden_size",
         info->flux.pooled_dim, info->clip.d_model},
        {"transformer: in_channels", "vae: latent_channels times 4", info->flux.in_channels,
         4 * info->vae.latent_channels},
        {"transformer: in_channels", "transformer: out_channels", info->flux.in_channels,
         info->flux.out_channels},
        {"a picture's channels", "vae: out_channels", 3, info->vae.out_channels},
    };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i].wanted != widths[i].given)
            return nb_fail(NB_E_DATA, "%s: %s is %lld, but %s is %lld", directory,
                           widths[i].wanted_by, (long long)widths[i].wanted, widths[i].given_by,
                           (long long)widths[i].given);
    return NB_OK;
}

static nb_status read_configs(nb_pipeline *p, const nb_pipeline_paths *paths)
{
    for (int i = 0; i < NB_PART_COUNT; i++)
        if (paths->parts[i] && !nb_file_is_directory(paths->parts[i]))
            NB_TRY(read_shapes(p, (nb_part)i));
        else
            NB_TRY(read_config(p->weights[i], "config.json", parts[i].read, &p->info));
    if (paths->directory)
        NB_TRY(read_config(paths->directory, "scheduler/scheduler_config.json", read_schedule,
                           &p->info));
    else
        p->info.schedule = published_schedule(p->info.flux.guidance);
    return check_widths(p->directory, &p->info);
}

/* ---- defaults -----------------------------------------------------------------------------
 */

static nb_status open_tokenizer(nb_pipeline *p, int which)
{
    if (p->tokenizers[which]) return NB_OK;
    const char *folder = p->tokenizer_paths[which];
    return which == T5_IDS ? nb_tokenizer_open_t5(folder, &p->tokenizers[which])
                           : nb_tokenizer_open(folder, &p->tokenizers[which]);
}

/* FluxPipeline draws the noise in the type of T5's weights: here the type of most of their
 * bytes. Of types that torch cannot draw (FP8), what such files are run in: BF16. */
static nb_noise_dtype noise_of(const nb_checkpoint *t5)
{
    size_t bytes[NB_DTYPE_COUNT] = {0}, most = 0;
    nb_dtype dtype = NB_DTYPE_BF16;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(t5); i++) {
        const nb_stored *t = nb_checkpoint_tensor(t5, i);
        bytes[t->dtype] += t->bytes;
        if (bytes[t->dtype] <= most) continue;
        most = bytes[t->dtype];
        dtype = t->dtype;
    }
    if (dtype == NB_DTYPE_F32) return NB_NOISE_F32;
    return dtype == NB_DTYPE_F16 ? NB_NOISE_F16 : NB_NOISE_BF16;
}

/* 128 latents a side, as FluxPipeline; a VAE that was trained on smaller pictures than these
 * says so in sample_size, and so does a small model's tokenizer_2 in model_max_length. */
static nb_status set_defaults(nb_pipeline *p)
{
    nb_pipeline_info *info = &p->info;
    int64_t factor = nb_vae_config_factor(&info->vae), side = DEFAULT_LATENTS * factor;
    info->pixels_per_token = 2 * factor;
    if (info->vae.sample_size > 0 && info->vae.sample_size < side) side = info->vae.sample_size;
    side = side / info->pixels_per_token * info->pixels_per_token;
    if (side < info->pixels_per_token) side = info->pixels_per_token;
    info->default_width = info->default_height = side;
    info->default_steps = info->flux.guidance ? 28 : 4;
    NB_TRY(open_tokenizer(p, T5_IDS));
    int64_t most = nb_tokenizer_max_length(p->tokenizers[T5_IDS]);
    info->default_t5_length = info->flux.guidance ? NB_MAX_T5_LENGTH : NB_MAX_T5_LENGTH / 2;
    if (most > 0 && most < info->default_t5_length) info->default_t5_length = most;
    NB_TRY(open_checkpoint(p, NB_PART_T5));
    info->default_noise = noise_of(p->checkpoints[NB_PART_T5]);
    return NB_OK;
}

/* A path's last part, without the ending of a weights file. */
static char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *name = strdup(slash && slash[1] ? slash + 1 : path);
    char *ending = name ? strstr(name, ".safetensors") : NULL;
    if (name && !ending && nb_name_ends_with(name, ".gguf")) ending = strrchr(name, '.');
    if (ending && ending != name) *ending = 0;
    return name;
}

/* "org/name" of a snapshot in the Hugging Face cache, .../models--org--name/snapshots/COMMIT;
 * NULL if `path` is none (or memory is short). */
static char *cached_name(const char *path)
{
    static const char mark[] = "/models--";
    const char *start = strstr(path, mark), *end = start ? strstr(start, "/snapshots/") : NULL;
    if (!end) return NULL;
    start += sizeof mark - 1;
    char *name = strndup(start, (size_t)(end - start));
    char *dashes = name ? strstr(name, "--") : NULL;
    if (dashes) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    return name;
}

/* Files are taken by their own name: in the cache they are links to blobs. */
static char *model_name(const char *path)
{
    char *real = nb_file_is_directory(path) ? realpath(path, NULL) : NULL;
    if (!real) return last_part(path);
    char *name = cached_name(real);
    if (!name) name = last_part(real);
    free(real);
    return name;
}

/* A copy of the folder that a file is in. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
}

static nb_status set_weights(nb_pipeline *p, const nb_pipeline_paths *paths)
{
    for (int i = 0; i < NB_PART_COUNT; i++) {
        if (!paths->parts[i] && !paths->directory)
            return nb_fail(NB_E_USAGE,
                           "%s: wanted a file, or a pipeline's directory, found none",
                           parts[i].name);
        p->weights[i] = paths->parts[i] ? strdup(paths->parts[i])
                                        : nb_path_join(paths->directory, parts[i].folder);
        if (!p->weights[i]) return no_memory();
    }
    return NB_OK;
}

static nb_status set_paths(nb_pipeline *p, const nb_pipeline_paths *paths)
{
    const char *flux = paths->parts[NB_PART_FLUX];
    NB_TRY(set_weights(p, paths));
    p->directory = paths->directory ? strdup(paths->directory) : folder_of(flux);
    p->name = model_name(flux ? flux : paths->directory);
    if (!p->directory || !p->name) return no_memory();
    const char *tokenizers = paths->tokenizers ? paths->tokenizers : p->directory;
    p->tokenizer_paths[CLIP_IDS] = nb_path_join(tokenizers, "tokenizer");
    p->tokenizer_paths[T5_IDS] = nb_path_join(tokenizers, "tokenizer_2");
    if (!p->tokenizer_paths[CLIP_IDS] || !p->tokenizer_paths[T5_IDS]) return no_memory();
    p->info.directory = p->directory;
    p->info.name = p->name;
    return NB_OK;
}

/* A file in a directory's place holds whatever part is not given on its own. */
static nb_pipeline_paths without_file(const nb_pipeline_paths *paths)
{
    nb_pipeline_paths of_parts = *paths;
    const char *file = paths->directory;
    if (!file || !nb_file_exists(file) || nb_file_is_directory(file)) return of_parts;
    for (int i = 0; i < NB_PART_COUNT; i++)
        if (!of_parts.parts[i]) of_parts.parts[i] = file;
    of_parts.directory = NULL;
    return of_parts;
}

static nb_status open_into(nb_pipeline *p, const nb_pipeline_paths *given)
{
    const nb_pipeline_paths paths = without_file(given);
    NB_TRY(set_paths(p, &paths));
    if (paths.directory) NB_TRY(read_index(paths.directory));
    NB_TRY(read_configs(p, &paths));
    return set_defaults(p);
}

nb_status nb_pipeline_open_paths(const nb_pipeline_paths *paths, const nb_device *device,
                                 nb_pipeline **out)
{
    nb_pipeline *p = calloc(1, sizeof *p);
    if (!p) return no_memory();
    p->device = device;
    nb_status status = open_into(p, paths);
    if (status) {
        nb_pipeline_close(p);
        return status;
    }
    *out = p;
    return NB_OK;
}

nb_status nb_pipeline_open(const char *directory, const nb_device *device, nb_pipeline **out)
{
    const nb_pipeline_paths paths = {.directory = directory};
    return nb_pipeline_open_paths(&paths, device, out);
}

void nb_pipeline_close(nb_pipeline *p)
{
    if (!p) return;
    for (int i = 0; i < NB_PART_COUNT; i++) {
        nb_pipeline_release(p, (nb_part)i);
        free(p->weights[i]);
    }
    for (int i = 0; i < N_TOKENIZERS; i++) {
        nb_tokenizer_close(p->tokenizers[i]);
        free(p->tokenizer_paths[i]);
    }
    nb_loras_close(p->loras);
    for (int i = 0; i < p->info.n_loras; i++) {
        free(p->lora_infos[i].path);
        free(p->lora_infos[i].name);
    }
    free(p->lora_infos);
    free(p->directory);
    free(p->name);
    free(p);
}

const nb_pipeline_info *nb_pipeline_get_info(const nb_pipeline *p)
{
    return &p->info;
}

const char *nb_pipeline_weights(const nb_pipeline *p, nb_part part)
{
    return p->weights[part];
}

/* ---- LoRA ---------------------------------------------------------------------------------
 */

static nb_status describe_loras(nb_pipeline *p, const nb_lora_use *uses, int n)
{
    p->lora_infos = calloc((size_t)n + 1, sizeof *p->lora_infos);
    if (!p->lora_infos) return no_memory();
    p->info.loras = p->lora_infos;
    for (int i = 0; i < n; i++) {
        nb_pipeline_lora *lora = &p->lora_infos[i];
        p->info.n_loras++;
        lora->weight = uses[i].weight;
        lora->path = strdup(uses[i].path);
        lora->name = last_part(uses[i].path);
        if (!lora->path || !lora->name) return no_memory();
        nb_checkpoint_digest(nb_loras_file(p->loras, i), lora->digest);
    }
    return NB_OK;
}

nb_status nb_pipeline_set_loras(nb_pipeline *p, const nb_lora_use *uses, int n,
                                const nb_lora_options *options)
{
    static const nb_part with_lora[] = {NB_PART_FLUX, NB_PART_CLIP, NB_PART_T5};
    enum { N_MODELS = sizeof with_lora / sizeof *with_lora };
    const nb_checkpoint *models[N_MODELS];
    assert(!p->loras && !p->clip && !p->t5 && !p->flux);
    for (int i = 0; i < N_MODELS; i++) {
        NB_TRY(open_checkpoint(p, with_lora[i]));
        models[i] = p->checkpoints[with_lora[i]];
    }
    NB_TRY(nb_loras_open(uses, n, options, models, N_MODELS, &p->loras));
    for (int i = 0; i < N_MODELS; i++)
        nb_checkpoint_set_loras(p->checkpoints[with_lora[i]], p->loras);
    return describe_loras(p, uses, n);
}

/* ---- parts --------------------------------------------------------------------------------
 */

nb_status nb_pipeline_digest(nb_pipeline *p, nb_part part, char digest[65])
{
    NB_TRY(open_checkpoint(p, part));
    if (!p->digests[part][0]) nb_checkpoint_digest(p->checkpoints[part], p->digests[part]);
    memcpy(digest, p->digests[part], sizeof p->digests[part]);
    return NB_OK;
}

nb_status nb_pipeline_clip(nb_pipeline *p, const nb_clip **out)
{
    NB_TRY(open_checkpoint(p, NB_PART_CLIP));
    if (!p->clip)
        NB_TRY(nb_clip_open(p->checkpoints[NB_PART_CLIP], &p->info.clip, p->device, &p->clip));
    *out = p->clip;
    return NB_OK;
}

nb_status nb_pipeline_t5(nb_pipeline *p, const nb_t5 **out)
{
    NB_TRY(open_checkpoint(p, NB_PART_T5));
    if (!p->t5) NB_TRY(nb_t5_open(p->checkpoints[NB_PART_T5], &p->info.t5, p->device, &p->t5));
    *out = p->t5;
    return NB_OK;
}

nb_status nb_pipeline_flux(nb_pipeline *p, const nb_flux **out)
{
    NB_TRY(open_checkpoint(p, NB_PART_FLUX));
    if (!p->flux)
        NB_TRY(nb_flux_open(p->checkpoints[NB_PART_FLUX], &p->info.flux, p->device, &p->flux));
    *out = p->flux;
    return NB_OK;
}

nb_status nb_pipeline_vae(nb_pipeline *p, const nb_vae **out)
{
    NB_TRY(open_checkpoint(p, NB_PART_VAE));
    if (!p->vae)
        NB_TRY(nb_vae_open(p->checkpoints[NB_PART_VAE], &p->info.vae, p->device, &p->vae));
    *out = p->vae;
    return NB_OK;
}

static void close_model(nb_pipeline *p, nb_part part)
{
    if (part == NB_PART_CLIP && p->clip) {
        nb_clip_close(p->clip);
        p->clip = NULL;
    } else if (part == NB_PART_T5 && p->t5) {
        nb_t5_close(p->t5);
        p->t5 = NULL;
    } else if (part == NB_PART_FLUX && p->flux) {
        nb_flux_close(p->flux);
        p->flux = NULL;
    } else if (part == NB_PART_VAE && p->vae) {
        nb_vae_close(p->vae);
        p->vae = NULL;
    }
}

void nb_pipeline_release(nb_pipeline *p, nb_part part)
{
    close_model(p, part);
    if (p->checkpoints[part]) nb_checkpoint_close(p->checkpoints[part]);
    p->checkpoints[part] = NULL;
}

const char *nb_pipeline_tensor_at(const nb_pipeline *p, const void *data)
{
    for (int part = 0; part < NB_PART_COUNT; part++) {
        const nb_checkpoint *c = p->checkpoints[part];
        for (int64_t i = 0; c && i < nb_checkpoint_n_tensors(c); i++) {
            const nb_stored *t = nb_checkpoint_tensor(c, i);
            uintptr_t offset = (uintptr_t)data - (uintptr_t)t->data;
            if (offset < t->bytes) return t->name;
        }
    }
    return NULL;
}

/* ---- prompts ------------------------------------------------------------------------------
 */

static nb_status encode(nb_pipeline *p, int which, const char *prompt, int64_t length,
                        nb_token_ids *out)
{
    NB_TRY(open_tokenizer(p, which));
    const nb_encode_args args = {.max_length = length, .pad = 1};
    nb_status status =
        nb_tokenizer_encode(p->tokenizers[which], prompt, strlen(prompt), &args, out);
    if (status) return nb_fail_context(status, "prompt");
    return NB_OK;
}

nb_status nb_pipeline_clip_ids(nb_pipeline *p, const char *prompt, nb_token_ids *out)
{
    NB_TRY(open_tokenizer(p, CLIP_IDS));
    int64_t length = nb_tokenizer_max_length(p->tokenizers[CLIP_IDS]);
    if (length <= 0) length = DEFAULT_CLIP_LENGTH;
    if (length > p->info.clip.max_positions) length = p->info.clip.max_positions;
    return encode(p, CLIP_IDS, prompt, length, out);
}

nb_status nb_pipeline_t5_ids(nb_pipeline *p, const char *prompt, int64_t length,
                             nb_token_ids *out)
{
    return encode(p, T5_IDS, prompt, length, out);
}
