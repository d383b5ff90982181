/*
 * Components are told by tensors that only they have (the table `signs`), under every prefix
 * that files in the wild put in front of them; what is shown of a component is then counted
 * from its tensors' names and shapes.
 */
#include "models/inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "models/bind.h"
#include "models/canonical.h"
#include "models/lora.h"
#include "models/packed.h"

enum { NAME_BYTES = 256 };

static const struct sign {
    nb_component_kind kind;
    const char *layout;
    const char *markers[2]; /* both are there */
} signs[] = {
    {NB_KIND_FLUX,
     "diffusers",
     {"time_text_embed.text_embedder.linear_1.bias", "transformer_blocks.0.norm1.linear.bias"}},
    {NB_KIND_FLUX,
     "BFL",
     {"vector_in.in_layer.bias", "double_blocks.0.img_attn.norm.key_norm.scale"}},
    {NB_KIND_CLIP,
     "transformers",
     {"text_model.embeddings.position_embedding.weight",
      "text_model.encoder.layers.0.mlp.fc1.weight"}},
    {NB_KIND_CLIP,
     "transformers",
     {"embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"}},
    {NB_KIND_T5,
     "transformers",
     {"encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight"}},
    {NB_KIND_T5, "llama.cpp", {"enc.blk.0.attn_q.weight", "enc.output_norm.weight"}},
    {NB_KIND_VAE, "diffusers", {"decoder.conv_in.weight", "decoder.conv_norm_out.weight"}},
    {NB_KIND_VAE, "BFL", {"decoder.conv_in.weight", "decoder.norm_out.weight"}},
};

const char *nb_component_kind_text(nb_component_kind kind)
{
    static const char *const texts[NB_KIND_COUNT] = {
        "unknown", "FLUX.1 transformer", "CLIP text encoder", "T5 encoder", "autoencoder",
        "LoRA",    "no weights"};
    return texts[kind];
}

/* --- tensors of a component --- */

static const nb_stored *find(const nb_component *c, const char *name)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s", c->prefix, name);
    return nb_checkpoint_find_matrix(c->checkpoint, full);
}

static int is_matrix(const nb_stored *t)
{
    return t->rank == 2 && (nb_name_ends_with(t->name, ".weight") ||
                            nb_name_ends_with(t->name, ".weight_packed"));
}

/* A matrix of 4-bit codes with all that belongs to it? */
static int is_packed(const nb_component *c, const nb_stored *t, nb_packed *p)
{
    return is_matrix(t) && t->dtype == NB_DTYPE_U8 &&
           nb_packed_find(c->checkpoint, t, 0, p) == NB_OK;
}

/* Size of dimension `dim` of a tensor, 0 if it has none. */
static long long size_of(const nb_component *c, const char *name, int dim)
{
    const nb_stored *t = find(c, name);
    nb_packed packed;
    long long codes = t && dim == 1 && is_packed(c, t, &packed) ? 2 : 1; /* in a byte */
    return t && dim < t->rank ? codes * (long long)t->shape[dim] : 0;
}

/* How many of before0after, before1after ... there are. */
static int count_blocks(const nb_component *c, const char *before, const char *after)
{
    char name[NAME_BYTES];
    int n = 0;
    do snprintf(name, sizeof name, "%s%d%s", before, n, after);
    while (find(c, name) && ++n);
    return n;
}

int nb_component_owns(const nb_component *component, const nb_stored *t)
{
    return strncmp(t->name, component->prefix, strlen(component->prefix)) == 0;
}

/* What belongs to a quantised matrix and is no parameter of the model. */
static int is_scale(const char *name)
{
    static const char *const suffixes[] = {"scaled_fp8",   ".wscales",   ".wzeros",
                                           ".wtscale",     ".wcscales",  ".smooth",
                                           ".smooth_orig", ".lora_down", ".lora_up"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (nb_name_ends_with(name, suffixes[i])) return 1;
    return nb_bind_part(name) != 0;
}

/* --- quantised layers --- */

enum {
    LAYER_NVFP4,
    LAYER_MXFP4,
    LAYER_INT4,
    LAYER_FP8,
    LAYER_PLAIN,
    LAYER_UNKNOWN,
    N_LAYER_KINDS
};

struct layers {
    int64_t n[N_LAYER_KINDS];
    int64_t n_blocks[NB_DTYPE_COUNT]; /* of GGUF's types */
    const char *dialect;              /* of the 4-bit ones */
    int64_t rank;                     /* of their branches, 0: none */
    int is_scaled;                    /* x is, before some of them */
};

/* X.part beside X.weight or X.qweight. */
static const nb_stored *beside(const nb_component *c, const nb_stored *t, const char *part)
{
    char name[NAME_BYTES];
    int stem = (int)(strrchr(t->name, '.') - t->name);
    snprintf(name, sizeof name, "%.*s.%s", stem, t->name, part);
    return nb_checkpoint_find(c->checkpoint, name);
}

/* nunchaku's codes (models/nunchaku_layer.h) in an integer. */
static int codes_of_nunchaku(const nb_stored *t)
{
    if (t->rank != 2 || !nb_name_ends_with(t->name, ".qweight")) return 0;
    return t->dtype == NB_DTYPE_I32 ? 8 : t->dtype == NB_DTYPE_I8 ? 2 : 0;
}

static void count_nunchaku(const nb_component *c, const nb_stored *t, struct layers *layers)
{
    const nb_stored *scales = beside(c, t, "wscales"), *down = beside(c, t, "lora_down");
    layers->dialect = "nunchaku";
    if (down && down->rank == 2) layers->rank = down->shape[1];
    layers->n[!scales                             ? LAYER_UNKNOWN
              : scales->dtype == NB_DTYPE_F8_E4M3 ? LAYER_NVFP4
                                                  : LAYER_INT4]++;
}

static void count_layer(const nb_component *c, const nb_stored *t, struct layers *layers)
{
    static const char *const dialects[NB_FP4_RULE_COUNT] = {
        [NB_FP4_MODELOPT] = "Model-Optimizer",
        [NB_FP4_COMPRESSED_TENSORS] = "compressed-tensors",
        [NB_FP4_COMFY] = "ComfyUI"};
    nb_packed p;
    if (codes_of_nunchaku(t)) count_nunchaku(c, t, layers);
    if (!is_matrix(t)) return;
    if (t->dtype == NB_DTYPE_F8_E4M3 || t->dtype == NB_DTYPE_F8_E5M2) {
        layers->n[LAYER_FP8]++;
    } else if (nb_dtype_elements(t->dtype) > 1) {
        layers->n_blocks[t->dtype]++;
    } else if (t->dtype != NB_DTYPE_U8) {
        layers->n[LAYER_PLAIN]++;
    } else if (is_packed(c, t, &p)) {
        layers->n[p.kind == NB_SCALE_MXFP4 ? LAYER_MXFP4 : LAYER_NVFP4]++;
        layers->dialect = dialects[p.dialect];
        const nb_stored *down = beside(c, t, "svdquant_lora_a");
        if (down && down->rank == 2) layers->rank = down->shape[0];
        layers->is_scaled |= beside(c, t, "pre_quant_scale") != NULL;
    } else {
        layers->n[LAYER_UNKNOWN]++;
    }
}

static void describe_layers(nb_component *c, const struct layers *layers)
{
    static const char *const kinds[N_LAYER_KINDS] = {"NVFP4", "MXFP4", "INT4",
                                                     "FP8",   "plain", "unreadable"};
    char method[48] = "";
    size_t size = sizeof c->quantization;
    if (layers->rank)
        snprintf(method, sizeof method, " (SVDQuant, rank %lld)", (long long)layers->rank);
    else if (layers->is_scaled)
        snprintf(method, sizeof method, " (AWQ)");
    size_t used =
        (size_t)snprintf(c->quantization, size, "%s%s, layers:", layers->dialect, method);
    const char *separator = " ";
    for (int i = 0; i < NB_DTYPE_COUNT && used < size; i++) {
        if (!layers->n_blocks[i]) continue;
        used += (size_t)snprintf(c->quantization + used, size - used, "%s%lld %s", separator,
                                 (long long)layers->n_blocks[i], nb_dtype_name((nb_dtype)i));
        separator = ", ";
    }
    for (int i = 0; i < N_LAYER_KINDS && used < size; i++) {
        if (!layers->n[i]) continue;
        used += (size_t)snprintf(c->quantization + used, size - used, "%s%lld %s", separator,
                                 (long long)layers->n[i], kinds[i]);
        separator = ", ";
    }
}

static void count_tensors(nb_component *c)
{
    struct layers layers = {.dialect = NULL};
    nb_packed packed;
    int64_t n = nb_checkpoint_n_tensors(c->checkpoint);
    int scaled = 0;
    for (int64_t i = 0; i < n; i++) {
        const nb_stored *t = nb_checkpoint_tensor(c->checkpoint, i);
        if (!nb_component_owns(c, t)) continue;
        int64_t elements = nb_stored_count(t);
        nb_dtype_use *use = &c->dtypes[t->dtype];
        use->tensors++;
        use->elements += elements;
        use->bytes += t->bytes;
        c->n_tensors++;
        c->bytes += t->bytes;
        if (is_scale(t->name))
            scaled = 1;
        else if (codes_of_nunchaku(t))
            c->n_parameters += elements * codes_of_nunchaku(t);
        else
            c->n_parameters += is_packed(c, t, &packed) ? packed.n * packed.k : elements;
        count_layer(c, t, &layers);
    }
    int64_t f8 = c->dtypes[NB_DTYPE_F8_E4M3].elements + c->dtypes[NB_DTYPE_F8_E5M2].elements;
    int64_t integers = c->dtypes[NB_DTYPE_U8].elements + c->dtypes[NB_DTYPE_I8].elements;
    const char *text = integers ? "of an unknown kind"
                       : !f8    ? "none"
                       : scaled ? "FP8, scaled"
                                : "FP8, plain cast";
    snprintf(c->quantization, sizeof c->quantization, "%s", text);
    for (int i = 0; i < NB_DTYPE_COUNT && !layers.dialect; i++)
        if (layers.n_blocks[i]) layers.dialect = "GGUF";
    if (layers.dialect) describe_layers(c, &layers);
}

/* --- what a component is --- */

static void describe_flux(nb_component *c)
{
    int bfl = strcmp(c->layout, "BFL") == 0;
    const char *in = bfl ? "img_in" : "x_embedder";
    char name[32];
    snprintf(name, sizeof name, "%s.weight", in);
    long long channels = size_of(c, name, 1);
    snprintf(name, sizeof name, "%s.bias", in);
    long long width = size_of(c, name, 0);
    int guided = find(c, bfl ? "guidance_in.in_layer.bias"
                             : "time_text_embed.guidance_embedder.linear_1.bias") != NULL;
    int n_double = bfl ? count_blocks(c, "double_blocks.", ".img_mod.lin.bias")
                       : count_blocks(c, "transformer_blocks.", ".norm1.linear.bias");
    int n_single = bfl ? count_blocks(c, "single_blocks.", ".modulation.lin.bias")
                       : count_blocks(c, "single_transformer_blocks.", ".norm.linear.bias");
    const char *family = !guided           ? "FLUX.1 schnell"
                         : channels == 128 ? "FLUX.1 dev with control (Canny, Depth)"
                         : channels == 384 ? "FLUX.1 Fill dev"
                                           : "FLUX.1 dev";
    snprintf(c->family, sizeof c->family, "%s", family);
    snprintf(c->detail, sizeof c->detail, "%d double and %d single blocks, width %lld",
             n_double, n_single, width);
}

static void describe_text(nb_component *c)
{
    int n = 0;
    long long width = 0;
    if (c->kind == NB_KIND_T5 && strcmp(c->layout, "llama.cpp") == 0) {
        n = count_blocks(c, "enc.blk.", ".attn_norm.weight");
        width = size_of(c, "enc.output_norm.weight", 0);
    } else if (c->kind == NB_KIND_T5) {
        n = count_blocks(c, "encoder.block.", ".layer.0.layer_norm.weight");
        width = size_of(c, "encoder.final_layer_norm.weight", 0);
    } else if (find(c, "text_model.final_layer_norm.weight")) {
        n = count_blocks(c, "text_model.encoder.layers.", ".layer_norm1.weight");
        width = size_of(c, "text_model.final_layer_norm.weight", 0);
    } else {
        n = count_blocks(c, "encoder.layers.", ".layer_norm1.weight");
        width = size_of(c, "final_layer_norm.weight", 0);
    }
    snprintf(c->detail, sizeof c->detail, "%d layers, width %lld", n, width);
}

static void describe_lora(nb_component *c)
{
    nb_lora_summary s;
    char ranks[48];
    if (!nb_lora_summarise(c->checkpoint, &s)) return;
    c->layout = s.dialect;
    snprintf(c->family, sizeof c->family, "%s", s.family);
    snprintf(ranks, sizeof ranks, "%lld", (long long)s.least_rank);
    if (s.largest_rank != s.least_rank)
        snprintf(ranks, sizeof ranks, "%lld to %lld", (long long)s.least_rank,
                 (long long)s.largest_rank);
    if (s.foreign)
        snprintf(c->detail, sizeof c->detail, "a %s adapter, which cannot be applied",
                 s.foreign);
    else
        snprintf(c->detail, sizeof c->detail, "%lld layers, rank %s", (long long)s.n_modules,
                 ranks);
}

static void describe(nb_component *c)
{
    if (c->kind == NB_KIND_LORA) describe_lora(c);
    if (c->kind == NB_KIND_FLUX) describe_flux(c);
    if (c->kind == NB_KIND_CLIP || c->kind == NB_KIND_T5) describe_text(c);
    if (c->kind == NB_KIND_VAE)
        snprintf(c->detail, sizeof c->detail, "%lld latent channels",
                 size_of(c, "decoder.conv_in.weight", 1));
    count_tensors(c);
}

static int has_sign(const nb_component *c, const struct sign *sign)
{
    return find(c, sign->markers[0]) && find(c, sign->markers[1]);
}

static int is_lora(const nb_checkpoint *checkpoint)
{
    nb_lora_summary summary;
    return nb_lora_summarise(checkpoint, &summary);
}

/* --- the inspection --- */

static nb_status short_of_memory(const nb_inspection *in)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", in->path);
}

static nb_status add_component(nb_inspection *in, const char *name, const char *class_name,
                               nb_component **out)
{
    if (in->n_components == NB_INSPECT_MAX_COMPONENTS)
        return nb_fail(NB_E_DATA, "%s: more than %d components", in->path,
                       NB_INSPECT_MAX_COMPONENTS);
    nb_component *c = &in->components[in->n_components++];
    c->layout = c->prefix = "";
    snprintf(c->quantization, sizeof c->quantization, "none");
    c->name = strdup(name);
    c->class_name = strdup(class_name);
    if (!c->name || !c->class_name) return short_of_memory(in);
    *out = c;
    return NB_OK;
}

static nb_status open_checkpoint(nb_inspection *in, const char *path, nb_checkpoint **out)
{
    nb_checkpoint *checkpoint = NULL;
    if (in->n_checkpoints == NB_INSPECT_MAX_COMPONENTS)
        return nb_fail(NB_E_DATA, "%s: too many components", in->path);
    NB_TRY(nb_checkpoint_open(path, &checkpoint));
    in->checkpoints[in->n_checkpoints++] = checkpoint;
    *out = checkpoint;
    return NB_OK;
}

static void recognise(nb_component *c)
{
    for (size_t s = 0; s < sizeof signs / sizeof *signs; s++) {
        if (!has_sign(c, &signs[s])) continue;
        c->kind = signs[s].kind;
        c->layout = signs[s].layout;
        return;
    }
    if (is_lora(c->checkpoint)) c->kind = NB_KIND_LORA;
}

/* A component for each kind that is there under the prefix. */
static nb_status add_prefixed(nb_inspection *in, const char *class_name,
                              const nb_checkpoint *checkpoint, const char *prefix)
{
    nb_component probe = {.checkpoint = checkpoint, .prefix = prefix};
    for (size_t s = 0; s < sizeof signs / sizeof *signs; s++) {
        nb_component *c = NULL;
        if (!has_sign(&probe, &signs[s])) continue;
        NB_TRY(add_component(in, "", class_name, &c));
        c->checkpoint = checkpoint;
        c->prefix = prefix;
        c->kind = signs[s].kind;
        c->layout = signs[s].layout;
        describe(c);
    }
    return NB_OK;
}

/* All that one checkpoint holds: one component, or several under prefixes. */
static nb_status add_checkpoint(nb_inspection *in, const char *class_name,
                                const nb_checkpoint *checkpoint)
{
    NB_TRY(add_prefixed(in, class_name, checkpoint, ""));
    for (const nb_canonical_prefix *p = nb_canonical_prefixes; p->text; p++)
        NB_TRY(add_prefixed(in, class_name, checkpoint, p->text));
    if (in->n_components) return NB_OK;
    nb_component *c = NULL;
    NB_TRY(add_component(in, "", class_name, &c));
    c->checkpoint = checkpoint;
    if (is_lora(checkpoint)) c->kind = NB_KIND_LORA;
    describe(c);
    return NB_OK;
}

/* "_class_name" (diffusers) or the first of "architectures" (transformers) of
 * folder/config.json, to be freed; NULL if there is none. */
static char *class_of_folder(const char *folder)
{
    json_t *config = NULL;
    char *path = nb_path_join(folder, "config.json"), *class_name = NULL;
    if (path && nb_file_exists(path) && nb_json_load_object(path, &config) == NB_OK) {
        const char *name = json_string_value(json_object_get(config, "_class_name"));
        const json_t *list = json_object_get(config, "architectures");
        if (!name) name = json_string_value(json_array_get(list, 0));
        if (name) class_name = strdup(name);
    }
    json_decref(config);
    free(path);
    return class_name;
}

static nb_status inspect_alone(nb_inspection *in)
{
    nb_checkpoint *checkpoint = NULL;
    int folder = nb_file_is_directory(in->path);
    in->form = folder ? "component" : "file";
    NB_TRY(open_checkpoint(in, in->path, &checkpoint));
    char *class_name = folder ? class_of_folder(in->path) : NULL;
    nb_status status = add_checkpoint(in, class_name ? class_name : "", checkpoint);
    free(class_name);
    return status;
}

/* --- pipelines --- */

static int has_weights(const char *class_name)
{
    static const char *const without[] = {"Tokenizer", "TokenizerFast",  "Scheduler",
                                          "Processor", "ImageProcessor", "FeatureExtractor"};
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        if (nb_name_ends_with(class_name, without[i])) return 0;
    return 1;
}

static nb_status add_part(nb_inspection *in, const char *name, const char *class_name)
{
    nb_component *c;
    nb_checkpoint *checkpoint = NULL;
    NB_TRY(add_component(in, name, class_name, &c));
    if (!has_weights(class_name)) {
        c->kind = NB_KIND_NO_WEIGHTS;
        return NB_OK;
    }
    char *path = nb_path_join(in->path, name);
    if (!path) return short_of_memory(in);
    nb_status status = open_checkpoint(in, path, &checkpoint);
    free(path);
    if (status == NB_E_SYSTEM) return status;
    if (status) {
        c->problem = strdup(nb_error_message());
        return c->problem ? NB_OK : short_of_memory(in);
    }
    c->checkpoint = checkpoint;
    recognise(c);
    describe(c);
    return NB_OK;
}

/* A component's name is a folder beside model_index.json, nothing else. */
static int is_folder_name(const char *name)
{
    return *name && *name != '_' && *name != '.' && !strchr(name, '/');
}

static nb_status add_parts(nb_inspection *in, json_t *index)
{
    const char *name;
    json_t *value;
    json_object_foreach(index, name, value)
    {
        const char *class_name = json_string_value(json_array_get(value, 1));
        if (json_array_size(value) != 2 || !class_name || !is_folder_name(name)) continue;
        NB_TRY(add_part(in, name, class_name));
    }
    if (in->n_components) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: model_index.json names no components", in->path);
}

static nb_status inspect_path(nb_inspection *in)
{
    char *path = nb_path_join(in->path, "model_index.json");
    if (!path) return short_of_memory(in);
    nb_status status;
    json_t *index = NULL;
    if (!nb_file_exists(path)) {
        status = inspect_alone(in);
    } else {
        in->form = "pipeline";
        status = nb_json_load_object(path, &index);
        if (!status) status = add_parts(in, index);
    }
    json_decref(index);
    free(path);
    return status;
}

nb_status nb_inspect(const char *path, nb_inspection **out)
{
    nb_inspection *in = calloc(1, sizeof *in);
    if (!in) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    in->path = strdup(path);
    nb_status status = in->path ? inspect_path(in) : nb_fail(NB_E_SYSTEM, "out of memory");
    if (status) {
        nb_inspection_destroy(in);
        return status;
    }
    for (int i = in->n_components - 1; i >= 0; i--)
        if (*in->components[i].family)
            memcpy(in->family, in->components[i].family, sizeof in->family);
    *out = in;
    return NB_OK;
}

void nb_inspection_destroy(nb_inspection *inspection)
{
    if (!inspection) return;
    for (int i = 0; i < inspection->n_components; i++) {
        free(inspection->components[i].name);
        free(inspection->components[i].class_name);
        free(inspection->components[i].problem);
    }
    for (int i = 0; i < inspection->n_checkpoints; i++)
        nb_checkpoint_close(inspection->checkpoints[i]);
    free(inspection->path);
    free(inspection);
}
