/*
 * Names are walked twice: once to see how many blocks there are and what stays as it is
 * (add_other), then block by block through the tables of modules below, each of which becomes
 * one or several matrices (add_module, add_modulation).
 */
#include "models/nunchaku.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"
#include "models/nunchaku_matrix.h"

enum { NAME_BYTES = NB_NUNCHAKU_NAME_BYTES, MAX_PARTS = 3 };

#define TENSOR_FORMAT "%s: tensor %.300s: "
#define DOUBLE        "transformer_blocks."
#define SINGLE        "single_transformer_blocks."

/* Sizes are multiples of the width. */
struct module {
    const char *from, *second; /* `second`: further columns */
    int rows, columns, second_columns;
    int gelu, second_gelu; /* the columns come from a GELU */
    const char *to[MAX_PARTS];
};

#define PARTS(...) .to = {__VA_ARGS__}

static const struct module double_modules[] = {
    {"qkv_proj", .rows = 3, .columns = 1, PARTS("attn.to_q", "attn.to_k", "attn.to_v")},
    {"qkv_proj_context", .rows = 3, .columns = 1,
     PARTS("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")},
    {"out_proj", .rows = 1, .columns = 1, PARTS("attn.to_out.0")},
    {"out_proj_context", .rows = 1, .columns = 1, PARTS("attn.to_add_out")},
    {"mlp_fc1", .rows = 4, .columns = 1, PARTS("ff.net.0.proj")},
    {"mlp_fc2", .rows = 1, .columns = 4, .gelu = 1, PARTS("ff.net.2")},
    {"mlp_context_fc1", .rows = 4, .columns = 1, PARTS("ff_context.net.0.proj")},
    {"mlp_context_fc2", .rows = 1, .columns = 4, .gelu = 1, PARTS("ff_context.net.2")},
};

static const struct module single_modules[] = {
    {"qkv_proj", .rows = 3, .columns = 1, PARTS("attn.to_q", "attn.to_k", "attn.to_v")},
    {"mlp_fc1", .rows = 4, .columns = 1, PARTS("proj_mlp")},
    {"out_proj", "mlp_fc2", .rows = 1, .columns = 1, .second_columns = 4, .second_gelu = 1,
     PARTS("proj_out")},
};

/* Vectors of a head that only have another name. */
static const char *const head_norms[] = {"norm_q.weight", "norm_k.weight",
                                         "norm_added_q.weight", "norm_added_k.weight"};

#define N(array) (sizeof(array) / sizeof *(array))

struct view {
    nb_nunchaku_view to;
    int64_t width;
    int n_double, n_single, has_branches;
    int is_outline;   /* matrices are only announced */
    const char *only; /* modules that are made, and nothing else; NULL: all of them */
};

/* --- names --- */

/* What follows "PREFIX.number." in a name, NULL if it does not begin so. */
static const char *in_block(const char *name, const char *prefix, int *number)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0) return NULL;
    size_t digits = strspn(name + n, "0123456789");
    if (digits < 1 || digits > 4 || name[n + digits] != '.') return NULL;
    *number = (int)strtol(name + n, NULL, 10);
    return name + n + digits + 1;
}

int nb_nunchaku_is_one(const nb_checkpoint *c)
{
    int number;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const char *name = nb_checkpoint_tensor(c, i)->name;
        if (nb_name_ends_with(name, ".qweight") &&
            (in_block(name, DOUBLE, &number) || in_block(name, SINGLE, &number)))
            return 1;
    }
    return 0;
}

/* --- blocks --- */

static int is_wanted(const struct view *v, const char *module)
{
    size_t n = v->only ? strlen(v->only) : 0;
    return !n || (strncmp(module, v->only, n) == 0 && (!module[n] || module[n] == '.'));
}

/* Module `like` [n, k] and its bias, without data. */
static nb_status announce(struct view *v, const nb_stored *like, int64_t n, int64_t k,
                          const char *module)
{
    char name[NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s.weight", module);
    NB_TRY(nb_nunchaku_add(&v->to, like, name, NB_DTYPE_F32, 2, (const int64_t[]){n, k}, NULL));
    snprintf(name, sizeof name, "%s.bias", module);
    return nb_nunchaku_add(&v->to, like, name, NB_DTYPE_F32, 1, &n, NULL);
}

static nb_status find_layers(const struct view *v, const char *block,
                             const struct module *module, nb_nunchaku_matrix *m)
{
    const nb_checkpoint *c = v->to.checkpoint;
    char name[NAME_BYTES];
    int64_t rows = module->rows * v->width;
    m->n_layers = module->second ? 2 : 1;
    snprintf(name, sizeof name, "%s.%s", block, module->from);
    NB_TRY(nb_nunchaku_find_layer(c, name, rows, module->columns * v->width, module->gelu,
                                  v->has_branches, &m->layers[0]));
    if (module->second) {
        snprintf(name, sizeof name, "%s.%s", block, module->second);
        NB_TRY(nb_nunchaku_find_layer(c, name, rows, module->second_columns * v->width,
                                      module->second_gelu, v->has_branches, &m->layers[1]));
    }
    for (int s = 0; s < m->n_layers; s++) m->k += m->layers[s].k;
    return NB_OK;
}

static nb_status add_module(struct view *v, const char *block, const struct module *module)
{
    char name[NAME_BYTES];
    nb_nunchaku_matrix m = {.n_layers = 0};
    int64_t n_parts = 0;
    while (n_parts < MAX_PARTS && module->to[n_parts]) n_parts++;
    m.n = module->rows * v->width / n_parts;
    for (int64_t i = 0; i < n_parts; i++, m.first += m.n) {
        snprintf(name, sizeof name, "%s.%s", block, module->to[i]);
        if (!is_wanted(v, name)) continue;
        if (!m.n_layers) NB_TRY(find_layers(v, block, module, &m));
        if (v->is_outline)
            NB_TRY(announce(v, m.layers->codes, m.n, m.k, name));
        else
            NB_TRY(nb_nunchaku_add_matrix(&v->to, &m, name));
    }
    return NB_OK;
}

/* A modulation may also be left as diffusers has it. */
static nb_status add_modulation(struct view *v, const char *block, const char *module,
                                int chunks)
{
    nb_nunchaku_modulation m;
    char name[NAME_BYTES], plain[NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s.%s", block, module);
    snprintf(plain, sizeof plain, "%s.weight", name);
    if (!is_wanted(v, name) || nb_checkpoint_find(v->to.checkpoint, plain)) return NB_OK;
    NB_TRY(nb_nunchaku_find_modulation(v->to.checkpoint, name, chunks, v->width, &m));
    if (v->is_outline) return announce(v, m.codes, m.n, m.k, name);
    return nb_nunchaku_add_modulation(&v->to, &m, name);
}

static nb_status add_blocks(struct view *v)
{
    char block[64];
    for (int i = 0; i < v->n_double; i++) {
        snprintf(block, sizeof block, DOUBLE "%d", i);
        for (size_t j = 0; j < N(double_modules); j++)
            NB_TRY(add_module(v, block, &double_modules[j]));
        NB_TRY(add_modulation(v, block, "norm1.linear", 6));
        NB_TRY(add_modulation(v, block, "norm1_context.linear", 6));
    }
    for (int i = 0; i < v->n_single; i++) {
        snprintf(block, sizeof block, SINGLE "%d", i);
        for (size_t j = 0; j < N(single_modules); j++)
            NB_TRY(add_module(v, block, &single_modules[j]));
        NB_TRY(add_modulation(v, block, "norm.linear", 3));
    }
    return NB_OK;
}

/* --- all others --- */

/* Is it a part of a module that becomes another tensor? */
static int is_part(const struct view *v, const char *name)
{
    char codes[NAME_BYTES];
    const char *dot = strrchr(name, '.');
    if (!dot || dot - name > NAME_BYTES - 16) return 0;
    snprintf(codes, sizeof codes, "%.*s.qweight", (int)(dot - name), name);
    return nb_checkpoint_find(v->to.checkpoint, codes) != NULL;
}

static int is_head_norm(const char *rest)
{
    for (size_t i = 0; i < N(head_norms); i++)
        if (strcmp(rest, head_norms[i]) == 0) return 1;
    return 0;
}

static nb_status add_other(struct view *v, const nb_stored *t)
{
    char name[NAME_BYTES];
    int number = 0;
    const char *rest = in_block(t->name, DOUBLE, &number);
    if (rest && number >= v->n_double) v->n_double = number + 1;
    if (!rest && (rest = in_block(t->name, SINGLE, &number)) && number >= v->n_single)
        v->n_single = number + 1;
    if (v->only || (rest && is_part(v, t->name))) return NB_OK;
    if (!rest || !is_head_norm(rest)) {
        v->to.tensors[v->to.n++] = t;
        return NB_OK;
    }
    snprintf(name, sizeof name, "%.*sattn.%s", (int)(rest - t->name), t->name, rest);
    return nb_nunchaku_add(&v->to, t, name, t->dtype, t->rank, t->shape, t->data);
}

/* --- the header's config --- */

nb_status nb_nunchaku_config(const nb_checkpoint *c, json_t **out)
{
    *out = NULL;
    for (int i = 0; i < nb_checkpoint_n_files(c) && !*out; i++) {
        const nb_container *file = nb_checkpoint_file(c, i);
        const char *text = nb_container_metadata(file, "config");
        if (text && (nb_container_metadata(file, "quantization_config") ||
                     nb_container_metadata(file, "model_class")))
            NB_TRY(nb_json_parse(nb_container_path(file), text, strlen(text), out));
    }
    if (*out && !json_is_object(*out)) {
        json_decref(*out);
        return nb_fail(NB_E_DATA, "%s: config in its header: wanted an object",
                       nb_checkpoint_source(c));
    }
    return NB_OK;
}

/* What the config says of sizes must be so; it need not say anything. */
static nb_status check_sizes(const struct view *v, const json_t *config)
{
    const char *path = nb_checkpoint_source(v->to.checkpoint);
    int64_t heads, size, n_double, n_single;
    NB_TRY(nb_json_get_int(path, config, "num_attention_heads", 0, 1, 1 << 10, &heads));
    NB_TRY(nb_json_get_int(path, config, "attention_head_dim", 0, 1, 1 << 12, &size));
    NB_TRY(nb_json_get_int(path, config, "num_layers", v->n_double, 0, 1 << 12, &n_double));
    NB_TRY(
        nb_json_get_int(path, config, "num_single_layers", v->n_single, 0, 1 << 12, &n_single));
    if (heads && size && heads * size != v->width)
        return nb_fail(NB_E_DATA,
                       "%s: config in its header: %lld heads of %lld do not make the width of "
                       "x_embedder, %lld",
                       path, (long long)heads, (long long)size, (long long)v->width);
    if (n_double == v->n_double && n_single == v->n_single) return NB_OK;
    return nb_fail(NB_E_DATA,
                   "%s: config in its header: wanted %lld double and %lld single blocks, found "
                   "%d and %d",
                   path, (long long)n_double, (long long)n_single, v->n_double, v->n_single);
}

static nb_status check_config(const struct view *v)
{
    json_t *config;
    NB_TRY(nb_nunchaku_config(v->to.checkpoint, &config));
    nb_status status = config ? check_sizes(v, config) : NB_OK;
    json_decref(config);
    return status;
}

/* --- the view --- */

static nb_status find_width(struct view *v)
{
    static const char name[] = "x_embedder.weight";
    const nb_stored *t = nb_checkpoint_find(v->to.checkpoint, name);
    if (!t)
        return nb_fail(NB_E_DATA, "%s: tensor %s is missing",
                       nb_checkpoint_source(v->to.checkpoint), name);
    if (t->rank != 2 || t->shape[0] < 1 || t->shape[0] > 1 << 17)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted a matrix of the model's width", t->file,
                       t->name);
    v->width = t->shape[0];
    return NB_OK;
}

static int has_branches(const nb_checkpoint *c)
{
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++)
        if (nb_name_ends_with(nb_checkpoint_tensor(c, i)->name, ".lora_down")) return 1;
    return 0;
}

static nb_status fill_view(struct view *v)
{
    enum { MOST_OF_A_TENSOR = 12 }; /* qkv_proj, of five parts at least, becomes 3 x 7 */
    int64_t n = nb_checkpoint_n_tensors(v->to.checkpoint);
    v->to.capacity = MOST_OF_A_TENSOR * n;
    v->has_branches = has_branches(v->to.checkpoint);
    v->to.tensors = malloc(((size_t)v->to.capacity + 1) * sizeof *v->to.tensors);
    if (!v->to.tensors) return nb_nunchaku_no_memory(&v->to);
    NB_TRY(nb_arena_create(&v->to.storage));
    NB_TRY(find_width(v));
    for (int64_t i = 0; i < n; i++)
        NB_TRY(add_other(v, nb_checkpoint_tensor(v->to.checkpoint, i)));
    NB_TRY(check_config(v));
    return add_blocks(v);
}

nb_status nb_nunchaku_rename(nb_checkpoint *c)
{
    struct view v = {.to = {.checkpoint = c}};
    nb_status status = fill_view(&v);
    if (!status) status = nb_checkpoint_set_tensors(c, v.to.tensors, v.to.n, v.to.storage);
    if (status) nb_arena_destroy(v.to.storage);
    free(v.to.tensors);
    return status;
}

static nb_status derive(struct view *v, nb_checkpoint **out)
{
    nb_status status = fill_view(v);
    if (!status)
        status =
            nb_checkpoint_derive(v->to.checkpoint, v->to.tensors, v->to.n, v->to.storage, out);
    if (status) nb_arena_destroy(v->to.storage);
    free(v->to.tensors);
    return status;
}

nb_status nb_nunchaku_outline(const nb_checkpoint *c, nb_checkpoint **out)
{
    struct view v = {.to = {.checkpoint = c}, .is_outline = 1};
    return derive(&v, out);
}

nb_status nb_nunchaku_make(const nb_checkpoint *c, const char *module, nb_checkpoint **out)
{
    struct view v = {.to = {.checkpoint = c}, .only = module};
    return derive(&v, out);
}
