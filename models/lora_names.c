#include "models/lora_names.h"

#include <stdio.h>
#include <string.h>

enum { MAX_NUMBERS = 2 };

/* --- what a tensor is of its module --- */

static const struct suffix {
    const char *text;
    nb_lora_role role;
    const char *kind;
    nb_lora_part part;
} suffixes[] = {
    {".lora_A.weight", NB_LORA_DOWN, NULL, 0},
    {".lora_B.weight", NB_LORA_UP, NULL, 0},
    {".lora_A.default.weight", NB_LORA_DOWN, NULL, 0}, /* the adapter's name left in it */
    {".lora_B.default.weight", NB_LORA_UP, NULL, 0},
    {".lora_A.default_0.weight", NB_LORA_DOWN, NULL, 0},
    {".lora_B.default_0.weight", NB_LORA_UP, NULL, 0},
    {".lora_down.weight", NB_LORA_DOWN, NULL, 0},
    {".lora_up.weight", NB_LORA_UP, NULL, 0},
    {".lora.down.weight", NB_LORA_DOWN, NULL, 0},
    {".lora.up.weight", NB_LORA_UP, NULL, 0},
    {".lora_linear_layer.down.weight", NB_LORA_DOWN, NULL, 0},
    {".lora_linear_layer.up.weight", NB_LORA_UP, NULL, 0},
    {".lora_B.bias", NB_LORA_UP_BIAS, NULL, 0},
    {".lora_up.bias", NB_LORA_UP_BIAS, NULL, 0},
    {".alpha", NB_LORA_ALPHA, NULL, 0},
    {".dora_scale", NB_LORA_FOREIGN, "DoRA", 0},
    {".lora_magnitude_vector", NB_LORA_FOREIGN, "DoRA", 0},
    {".lora_magnitude_vector.weight", NB_LORA_FOREIGN, "DoRA", 0},
    {".lora_mid.weight", NB_LORA_FOREIGN, "LoCon", 0},
    {".lokr_w1", NB_LORA_PART, "LoKr", NB_LORA_W1},
    {".lokr_w2", NB_LORA_PART, "LoKr", NB_LORA_W2},
    {".lokr_w1_a", NB_LORA_PART, "LoKr", NB_LORA_W1_A},
    {".lokr_w1_b", NB_LORA_PART, "LoKr", NB_LORA_W1_B},
    {".lokr_w2_a", NB_LORA_PART, "LoKr", NB_LORA_W2_A},
    {".lokr_w2_b", NB_LORA_PART, "LoKr", NB_LORA_W2_B},
    {".lokr_t2", NB_LORA_FOREIGN, "LoKr of convolutions", 0},
    {".hada_w1_a", NB_LORA_PART, "LoHa", NB_LORA_W1_A},
    {".hada_w1_b", NB_LORA_PART, "LoHa", NB_LORA_W1_B},
    {".hada_w2_a", NB_LORA_PART, "LoHa", NB_LORA_W2_A},
    {".hada_w2_b", NB_LORA_PART, "LoHa", NB_LORA_W2_B},
    {".hada_t1", NB_LORA_FOREIGN, "LoHa of convolutions", 0},
    {".hada_t2", NB_LORA_FOREIGN, "LoHa of convolutions", 0},
    {".oft_blocks", NB_LORA_FOREIGN, "OFT", 0},
    {".diff", NB_LORA_FOREIGN, "full-difference", 0},
    {".diff_b", NB_LORA_DIFF_BIAS, NULL, 0},
};

/* XLabs' are no LoRA's elsewhere. */
static const struct suffix xlabs_suffixes[] = {
    {".down.weight", NB_LORA_DOWN, NULL, 0},
    {".up.weight", NB_LORA_UP, NULL, 0},
};

/* --- what stands in front --- */

static const struct prefix {
    const char *text, *dialect;
} prefixes[] = {
    {"lora_unet_", "kohya"},
    {"lora_te_", "kohya"},
    {"lora_te1_", "kohya"},
    {"lora_te2_", "kohya"},
    {"lora_te3_", "kohya"},
    {"lora_transformer_", "OneTrainer"},
    {"lycoris_", "LyCORIS"},
    {"base_model.model.", "PEFT"},
    {"model.diffusion_model.", "ComfyUI"},
    {"diffusion_model.", "ComfyUI"},
    {"text_encoders.clip_l.transformer.", "ComfyUI"},
    {"text_encoders.t5xxl.transformer.", "ComfyUI"},
    {"transformer.", "diffusers"},
    {"text_encoder_2.", "diffusers"},
    {"text_encoder.", "diffusers"},
};

static int begins_with(const char *name, const char *text)
{
    return strncmp(name, text, strlen(text)) == 0;
}

static const struct prefix *prefix_of(const char *name)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (begins_with(name, prefixes[i].text)) return &prefixes[i];
    return NULL;
}

/* There may be several; the first one tells the dialect. */
static const char *without_prefixes(const char *name, const char **dialect)
{
    *dialect = NULL;
    for (const struct prefix *p; (p = prefix_of(name));) {
        name += strlen(p->text);
        if (!*dialect) *dialect = p->dialect;
    }
    return name;
}

/* The longest of the suffixes that the name has, into the key. */
static void find_suffix(const struct suffix *list, size_t n, const char *name, nb_lora_key *key)
{
    size_t bytes = strlen(name);
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(list[i].text);
        if (!nb_name_ends_with(name, list[i].text) || length == bytes) continue;
        if (key->role != NB_LORA_NONE && bytes - length > key->stem_bytes) continue;
        key->role = list[i].role;
        key->kind = list[i].kind;
        key->part = list[i].part;
        key->stem_bytes = bytes - length;
    }
}

nb_lora_key nb_lora_key_of(const char *name)
{
    nb_lora_key key = {.role = NB_LORA_NONE};
    int is_xlabs = strstr(name, ".processor.") != NULL;
    find_suffix(suffixes, sizeof suffixes / sizeof *suffixes, name, &key);
    if (is_xlabs)
        find_suffix(xlabs_suffixes, sizeof xlabs_suffixes / sizeof *xlabs_suffixes, name, &key);
    if (key.role == NB_LORA_NONE) return key;
    key.module = without_prefixes(name, &key.dialect);
    if ((size_t)(key.module - name) >= key.stem_bytes) key.role = NB_LORA_NONE;
    int is_bfl =
        begins_with(key.module, "double_blocks") || begins_with(key.module, "single_blocks");
    if (is_xlabs) key.dialect = "XLabs";
    if (!key.dialect) key.dialect = is_bfl ? "BFL" : "diffusers";
    return key;
}

/* --- modules --- */

#define DOUBLE "double_blocks.#.processor."
#define BLOCK  "transformer_blocks.#.attn."
#define SINGLE "single_blocks.#.processor."
#define ALONE  "single_transformer_blocks.#."

static const nb_canonical_rule xlabs_rules[] = {
    {DOUBLE "qkv_lora1", NB_CUT_THIRDS, {BLOCK "to_q", BLOCK "to_k", BLOCK "to_v"}},
    {DOUBLE "qkv_lora2",
     NB_CUT_THIRDS,
     {BLOCK "add_q_proj", BLOCK "add_k_proj", BLOCK "add_v_proj"}},
    {DOUBLE "proj_lora1", NB_CUT_WHOLE, {BLOCK "to_out.0"}},
    {DOUBLE "proj_lora2", NB_CUT_WHOLE, {BLOCK "to_add_out"}},
    {SINGLE "qkv_lora",
     NB_CUT_THIRDS,
     {ALONE "attn.to_q", ALONE "attn.to_k", ALONE "attn.to_v"}},
    {SINGLE "proj_lora", NB_CUT_WHOLE, {ALONE "proj_out"}},
    {NULL, NB_CUT_WHOLE, {NULL}},
};

/* Text encoders, whose names are the same in all files but for "text_model.". */
static const char *const encoder_modules[] = {
    "encoder.layers.#.self_attn.q_proj",
    "encoder.layers.#.self_attn.k_proj",
    "encoder.layers.#.self_attn.v_proj",
    "encoder.layers.#.self_attn.out_proj",
    "encoder.layers.#.mlp.fc1",
    "encoder.layers.#.mlp.fc2",
    "encoder.block.#.layer.0.SelfAttention.q",
    "encoder.block.#.layer.0.SelfAttention.k",
    "encoder.block.#.layer.0.SelfAttention.v",
    "encoder.block.#.layer.0.SelfAttention.o",
    "encoder.block.#.layer.1.DenseReluDense.wi",
    "encoder.block.#.layer.1.DenseReluDense.wi_0",
    "encoder.block.#.layer.1.DenseReluDense.wi_1",
    "encoder.block.#.layer.1.DenseReluDense.wo",
};

/* A number of at most 4 digits; what follows it, or NULL. */
static const char *match_number(const char *name, const char *end, int *number)
{
    int n = 0;
    *number = 0;
    for (; name < end && *name >= '0' && *name <= '9' && n < 5; n++)
        *number = 10 * *number + (*name++ - '0');
    return n > 0 && n < 5 ? name : NULL;
}

/* Is the module what the pattern says, to its end? */
static int match(const char *pattern, const char *module, size_t bytes,
                 int numbers[MAX_NUMBERS])
{
    const char *end = module + bytes;
    int is_flat = !memchr(module, '.', bytes), n = 0;
    for (; *pattern; pattern++) {
        if (*pattern == '#') {
            if (n == MAX_NUMBERS || !(module = match_number(module, end, &numbers[n++])))
                return 0;
            continue;
        }
        if (module == end) return 0;
        if (*module != *pattern && !(is_flat && *pattern == '.' && *module == '_')) return 0;
        module++;
    }
    return module == end;
}

static void expand(const char *pattern, const int numbers[MAX_NUMBERS],
                   char name[NB_LORA_NAME_BYTES])
{
    size_t used = 0;
    int n = 0;
    for (; *pattern && used < NB_LORA_NAME_BYTES - 8; pattern++) {
        if (*pattern == '#' && n < MAX_NUMBERS)
            used +=
                (size_t)snprintf(name + used, NB_LORA_NAME_BYTES - used, "%d", numbers[n++]);
        else
            name[used++] = *pattern;
    }
    name[used] = 0;
}

/* Both names of a rule are understood: the other layout's, and each canonical one. */
static int match_rules(const nb_canonical_rule *rule, const char *module, size_t bytes,
                       nb_lora_target *out)
{
    int numbers[MAX_NUMBERS];
    for (; rule->from; rule++) {
        int is_foreign = match(rule->from, module, bytes, numbers);
        if (is_foreign) out->cut = rule->cut;
        for (int i = 0; i < NB_CANONICAL_PIECES && rule->to[i]; i++) {
            if (!is_foreign && !match(rule->to[i], module, bytes, numbers)) continue;
            expand(rule->to[i], numbers, out->names[out->n++]);
            if (!is_foreign) return 1;
        }
        if (is_foreign) return 1;
    }
    return 0;
}

nb_lora_target nb_lora_target_of(const char *module, size_t bytes)
{
    static const char root[] = "text_model";
    nb_lora_target target = {.n = 0, .cut = NB_CUT_WHOLE};
    int numbers[MAX_NUMBERS];
    if (match_rules(nb_canonical_rules, module, bytes, &target)) return target;
    if (match_rules(xlabs_rules, module, bytes, &target)) return target;
    size_t skip = sizeof root; /* with the dot or underscore behind it */
    if (bytes > skip && begins_with(module, root)) {
        module += skip;
        bytes -= skip;
    }
    for (size_t i = 0; i < sizeof encoder_modules / sizeof *encoder_modules; i++)
        if (match(encoder_modules[i], module, bytes, numbers))
            expand(encoder_modules[i], numbers, target.names[target.n++]);
    return target;
}

/* --- other models --- */

const char *nb_lora_other_family(const char *name)
{
    static const struct {
        const char *part, *family;
    } signs[] = {
        {"down_blocks", "Stable Diffusion"},
        {"up_blocks", "Stable Diffusion"},
        {"mid_block", "Stable Diffusion"},
        {"input_blocks", "Stable Diffusion"},
        {"output_blocks", "Stable Diffusion"},
        {"joint_blocks", "Stable Diffusion 3"},
        {"to_qkv_mlp_proj", "FLUX.2"},
        {"stream_modulation", "FLUX.2"},
        {"distilled_guidance_layer", "Chroma"},
        {".img_attn_qkv", "HunyuanVideo"},
        {"individual_token_refiner", "HunyuanVideo"},
        {"cross_attn", "Wan"},
        {"img_mod.1", "Qwen-Image"},
        {"img_mlp.net", "Qwen-Image"},
        {"caption_projection", "another transformer"},
        {"model.layers.", "a language model"},
        {"model_layers_", "a language model"},
    };
    nb_lora_key key = nb_lora_key_of(name);
    size_t bytes = key.role ? key.stem_bytes - (size_t)(key.module - name) : 0;
    if (bytes && nb_lora_target_of(key.module, bytes).n) return NULL;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (strstr(name, signs[i].part)) return signs[i].family;
    return NULL;
}
