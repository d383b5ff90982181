/*
 * A table of rules maps the beginning of a name; what follows it (.weight, .bias, a scale)
 * stays. A rule with several results cuts the rows.
 */
#include "models/canonical.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/nunchaku.h"
#include "models/packed.h"

enum { NAME_BYTES = 512, MAX_PIECES = NB_CANONICAL_PIECES, MAX_NUMBERS = 2, SCALE_BLOCK = 128 };

#define TENSOR_FORMAT "%s: tensor %.300s: "

#define WHOLE      NB_CUT_WHOLE
#define THIRDS     NB_CUT_THIRDS
#define THREE_REST NB_CUT_THREE_REST
#define SWAP       NB_CUT_SWAP

#define DOUBLE "double_blocks.#."
#define BLOCK  "transformer_blocks.#."
#define SINGLE "single_blocks.#."
#define ALONE  "single_transformer_blocks.#."
#define EMBED  "time_text_embed."
#define ENC    "enc.blk.#."
#define ATTN   "encoder.block.#.layer.0."
#define FF     "encoder.block.#.layer.1."

const nb_canonical_rule nb_canonical_rules[] = {
    {"img_in", WHOLE, {"x_embedder"}},
    {"txt_in", WHOLE, {"context_embedder"}},
    {"time_in.in_layer", WHOLE, {EMBED "timestep_embedder.linear_1"}},
    {"time_in.out_layer", WHOLE, {EMBED "timestep_embedder.linear_2"}},
    {"guidance_in.in_layer", WHOLE, {EMBED "guidance_embedder.linear_1"}},
    {"guidance_in.out_layer", WHOLE, {EMBED "guidance_embedder.linear_2"}},
    {"vector_in.in_layer", WHOLE, {EMBED "text_embedder.linear_1"}},
    {"vector_in.out_layer", WHOLE, {EMBED "text_embedder.linear_2"}},
    {DOUBLE "img_mod.lin", WHOLE, {BLOCK "norm1.linear"}},
    {DOUBLE "txt_mod.lin", WHOLE, {BLOCK "norm1_context.linear"}},
    {DOUBLE "img_attn.qkv", THIRDS, {BLOCK "attn.to_q", BLOCK "attn.to_k", BLOCK "attn.to_v"}},
    {DOUBLE "txt_attn.qkv",
     THIRDS,
     {BLOCK "attn.add_q_proj", BLOCK "attn.add_k_proj", BLOCK "attn.add_v_proj"}},
    {DOUBLE "img_attn.norm.query_norm.scale", WHOLE, {BLOCK "attn.norm_q.weight"}},
    {DOUBLE "img_attn.norm.key_norm.scale", WHOLE, {BLOCK "attn.norm_k.weight"}},
    {DOUBLE "txt_attn.norm.query_norm.scale", WHOLE, {BLOCK "attn.norm_added_q.weight"}},
    {DOUBLE "txt_attn.norm.key_norm.scale", WHOLE, {BLOCK "attn.norm_added_k.weight"}},
    {DOUBLE "img_attn.proj", WHOLE, {BLOCK "attn.to_out.0"}},
    {DOUBLE "txt_attn.proj", WHOLE, {BLOCK "attn.to_add_out"}},
    {DOUBLE "img_mlp.0", WHOLE, {BLOCK "ff.net.0.proj"}},
    {DOUBLE "img_mlp.2", WHOLE, {BLOCK "ff.net.2"}},
    {DOUBLE "txt_mlp.0", WHOLE, {BLOCK "ff_context.net.0.proj"}},
    {DOUBLE "txt_mlp.2", WHOLE, {BLOCK "ff_context.net.2"}},
    {SINGLE "modulation.lin", WHOLE, {ALONE "norm.linear"}},
    {SINGLE "linear1",
     THREE_REST,
     {ALONE "attn.to_q", ALONE "attn.to_k", ALONE "attn.to_v", ALONE "proj_mlp"}},
    {SINGLE "linear2", WHOLE, {ALONE "proj_out"}},
    {SINGLE "norm.query_norm.scale", WHOLE, {ALONE "attn.norm_q.weight"}},
    {SINGLE "norm.key_norm.scale", WHOLE, {ALONE "attn.norm_k.weight"}},
    {"final_layer.linear", WHOLE, {"proj_out"}},
    {"final_layer.adaLN_modulation.1", SWAP, {"norm_out.linear"}},

    {"token_embd", WHOLE, {"shared"}},
    {"enc.output_norm", WHOLE, {"encoder.final_layer_norm"}},
    {ENC "attn_norm", WHOLE, {ATTN "layer_norm"}},
    {ENC "attn_q", WHOLE, {ATTN "SelfAttention.q"}},
    {ENC "attn_k", WHOLE, {ATTN "SelfAttention.k"}},
    {ENC "attn_v", WHOLE, {ATTN "SelfAttention.v"}},
    {ENC "attn_o", WHOLE, {ATTN "SelfAttention.o"}},
    {ENC "attn_rel_b", WHOLE, {ATTN "SelfAttention.relative_attention_bias"}},
    {ENC "ffn_norm", WHOLE, {FF "layer_norm"}},
    {ENC "ffn_gate", WHOLE, {FF "DenseReluDense.wi_0"}},
    {ENC "ffn_up", WHOLE, {FF "DenseReluDense.wi_1"}},
    {ENC "ffn_down", WHOLE, {FF "DenseReluDense.wo"}},

    {"decoder.up.#.block.#.nin_shortcut",
     WHOLE,
     {"decoder.up_blocks.~.resnets.#.conv_shortcut"}},
    {"decoder.up.#.block.#", WHOLE, {"decoder.up_blocks.~.resnets.#"}},
    {"decoder.up.#.upsample.conv", WHOLE, {"decoder.up_blocks.~.upsamplers.0.conv"}},
    {"encoder.down.#.block.#.nin_shortcut",
     WHOLE,
     {"encoder.down_blocks.#.resnets.#.conv_shortcut"}},
    {"encoder.down.#.block.#", WHOLE, {"encoder.down_blocks.#.resnets.#"}},
    {"encoder.down.#.downsample.conv", WHOLE, {"encoder.down_blocks.#.downsamplers.0.conv"}},
#define MIDDLE(side)                                                                           \
    {side ".mid.block_1.nin_shortcut", WHOLE, {side ".mid_block.resnets.0.conv_shortcut"}},    \
        {side ".mid.block_1", WHOLE, {side ".mid_block.resnets.0"}},                           \
        {side ".mid.block_2", WHOLE, {side ".mid_block.resnets.1"}},                           \
        {side ".mid.attn_1.norm", WHOLE, {side ".mid_block.attentions.0.group_norm"}},         \
        {side ".mid.attn_1.q", WHOLE, {side ".mid_block.attentions.0.to_q"}},                  \
        {side ".mid.attn_1.k", WHOLE, {side ".mid_block.attentions.0.to_k"}},                  \
        {side ".mid.attn_1.v", WHOLE, {side ".mid_block.attentions.0.to_v"}},                  \
        {side ".mid.attn_1.proj_out", WHOLE, {side ".mid_block.attentions.0.to_out.0"}},       \
        {side ".norm_out", WHOLE, {side ".conv_norm_out"}},
    MIDDLE("encoder") MIDDLE("decoder")
#undef MIDDLE
        {NULL, WHOLE, {NULL}},
};

const nb_canonical_prefix nb_canonical_prefixes[] = {
    {"model.diffusion_model.", NB_KIND_FLUX},
    {"diffusion_model.", NB_KIND_FLUX},
    {"first_stage_model.", NB_KIND_VAE},
    {"vae.", NB_KIND_VAE},
    {"text_encoders.clip_l.transformer.", NB_KIND_CLIP},
    {"text_encoders.t5xxl.transformer.", NB_KIND_T5},
    {NULL, NB_KIND_UNKNOWN},
};

/* NULL if the name has none. */
static const nb_canonical_prefix *prefix_of(const char *name)
{
    const nb_canonical_prefix *p = nb_canonical_prefixes;
    while (p->text && strncmp(name, p->text, strlen(p->text)) != 0) p++;
    return p->text ? p : NULL;
}

/* A mark of the whole part keeps its prefix: two parts may have one. */
static const char *without_prefix(const char *name)
{
    const nb_canonical_prefix *p = prefix_of(name);
    const char *rest = p ? name + strlen(p->text) : name;
    return strcmp(rest, "scaled_fp8") == 0 ? name : rest;
}

static int is_of_part(const char *name, nb_component_kind kind)
{
    const nb_canonical_prefix *p = prefix_of(name);
    return kind == NB_KIND_UNKNOWN || !p || p->kind == kind;
}

/* --- names --- */

/* Digits of the number at `text`, 0 if there is none or it is no block's. */
static size_t number_at(const char *text, int *number)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 4) return 0;
    *number = (int)strtol(text, NULL, 10);
    return n;
}

/* What follows the rule's pattern in `name`, NULL if it does not begin with it. */
static const char *match(const char *pattern, const char *name, int numbers[MAX_NUMBERS])
{
    int n = 0;
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*name++ != *pattern) return NULL;
            continue;
        }
        assert(n < MAX_NUMBERS);
        size_t digits = number_at(name, &numbers[n++]);
        if (!digits) return NULL;
        name += digits;
    }
    return *name == '.' || !*name ? name : NULL;
}

static void expand(const char *pattern, const int numbers[MAX_NUMBERS], int n_levels,
                   const char *rest, char name[NAME_BYTES])
{
    size_t used = 0;
    int n = 0;
    for (; *pattern && used < NAME_BYTES - 8; pattern++) {
        if (*pattern == '#' || *pattern == '~') {
            int number = *pattern == '~' ? n_levels - 1 - numbers[n] : numbers[n];
            used += (size_t)snprintf(name + used, NAME_BYTES - used, "%d", number);
            n++;
        } else {
            name[used++] = *pattern;
        }
    }
    snprintf(name + used, NAME_BYTES - used, "%s", rest);
}

/* --- the view --- */

struct view {
    const nb_checkpoint *checkpoint;
    nb_arena *storage;
    const nb_stored **tensors;
    int64_t n, capacity;
    nb_component_kind kind; /* UNKNOWN: of all */
    int n_levels;           /* of BFL's decoder */
};

static nb_stored *add_tensor(struct view *v, const char *name, const nb_stored *like)
{
    if (v->n == v->capacity) return NULL;
    size_t bytes = strlen(name) + 1;
    nb_stored *t = nb_arena_alloc(v->storage, sizeof *t + bytes);
    if (!t) return NULL;
    *t = *like;
    t->name = memcpy(t + 1, name, bytes);
    v->tensors[v->n++] = t;
    return t;
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Rows begin ... end of a matrix of n_rows, of what belongs to it: the matrix, its bias, scales
 * of rows or of blocks of rows; one number belongs to all rows. */
static nb_status cut_rows(nb_stored *t, const nb_stored *whole, int64_t n_rows, int64_t begin,
                          int64_t end)
{
    int64_t unit = 0;
    if (nb_stored_count(whole) == 1) return NB_OK;
    int64_t rows = whole->rank > 0 ? whole->shape[0] : 0;
    if (rows > 0 && rows == n_rows) unit = 1;
    if (rows > 0 && whole->dtype == NB_DTYPE_U8 &&
        rows == round_up(n_rows, NB_COMFY_ROW_MULTIPLE))
        unit = 1;
    if (rows > 0 && !unit && whole->rank == 2 && rows == n_rows / SCALE_BLOCK &&
        begin % SCALE_BLOCK == 0 && end % SCALE_BLOCK == 0 && n_rows % SCALE_BLOCK == 0)
        unit = SCALE_BLOCK;
    if (!unit)
        return nb_fail(
            NB_E_DATA, TENSOR_FORMAT "rows %lld to %lld of %lld cannot be cut out of it",
            whole->file, whole->name, (long long)begin, (long long)end, (long long)n_rows);
    size_t row_bytes = whole->bytes / (size_t)rows;
    t->shape[0] = (end - begin) / unit;
    t->data = (const char *)whole->data + (size_t)(begin / unit) * row_bytes;
    t->bytes = (size_t)t->shape[0] * row_bytes;
    return NB_OK;
}

/* `whole` with its two halves exchanged, in the view's storage. */
static nb_status swap_halves(struct view *v, nb_stored *t, const nb_stored *whole,
                             int64_t n_rows)
{
    nb_stored first = *whole, second = *whole;
    if (nb_stored_count(whole) == 1) return NB_OK;
    NB_TRY(cut_rows(&first, whole, n_rows, 0, n_rows / 2));
    NB_TRY(cut_rows(&second, whole, n_rows, n_rows / 2, n_rows));
    char *data = nb_arena_alloc(v->storage, whole->bytes);
    if (!data) return NB_E_SYSTEM;
    memcpy(data, second.data, second.bytes);
    memcpy(data + second.bytes, first.data, first.bytes);
    t->shape[0] = first.shape[0] + second.shape[0];
    t->data = data;
    t->bytes = first.bytes + second.bytes;
    return NB_OK;
}

/* Rows of a matrix's scales in tiles (models/packed.h): from `first` on, around the end. */
static nb_status cut_tiles(struct view *v, nb_stored *t, const nb_packed *whole, int64_t first,
                           int64_t count)
{
    int64_t columns = whole->k / NB_NVFP4_BLOCK, rows = round_up(count, NB_TILE_ROWS);
    int64_t row_bytes = round_up(columns, NB_TILE_COLUMNS);
    const uint8_t *from = whole->scales->data;
    t->shape[0] = rows;
    t->bytes = (size_t)(rows * row_bytes);
    if (first % NB_TILE_ROWS == 0 && first + count <= whole->n) { /* whole tiles */
        t->data = from + first * row_bytes;
        return NB_OK;
    }
    uint8_t *to = nb_arena_alloc(v->storage, t->bytes);
    if (!to) return NB_E_SYSTEM;
    memset(to, 0, t->bytes);
    for (int64_t row = 0; row < count; row++)
        for (int64_t i = 0; i < columns; i++)
            to[nb_tiled_place(row, i, columns)] =
                from[nb_tiled_place((first + row) % whole->n, i, columns)];
    t->data = to;
    return NB_OK;
}

static const nb_stored *beside(const struct view *v, const char *module, size_t module_bytes,
                               const char *tail)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%.*s%s", (int)module_bytes, module, tail);
    return nb_checkpoint_find_matrix(v->checkpoint, name);
}

/* Rows of a module's matrix, 0 if there is none; packed ones may be padded, which only a bias
 * tells. */
static int64_t rows_of(const struct view *v, const char *module, size_t module_bytes)
{
    const nb_stored *t = beside(v, module, module_bytes, ".weight");
    const nb_stored *bias = beside(v, module, module_bytes, ".bias");
    if (!t || t->rank < 1) return 0;
    if (t->dtype == NB_DTYPE_U8 && bias && bias->rank == 1 &&
        round_up(bias->shape[0], NB_COMFY_ROW_MULTIPLE) == t->shape[0])
        return bias->shape[0];
    return t->shape[0];
}

/* How high the parts of a fused matrix are: ends[i] is where part i ends. 0 if it cannot be. */
static int find_cuts(const struct view *v, const nb_canonical_rule *rule, const char *module,
                     size_t module_bytes, int64_t ends[MAX_PIECES])
{
    static const char linear1[] = "linear1";
    int64_t n_rows = rows_of(v, module, module_bytes), part = n_rows / 3;
    int exact = n_rows > 0 && n_rows % 3 == 0;
    if (rule->cut == THREE_REST) {
        char linear2[NAME_BYTES];
        int n = snprintf(linear2, sizeof linear2, "%.*slinear2",
                         (int)(module_bytes - strlen(linear1)), module);
        part = rows_of(v, linear2, (size_t)n);
        exact = part > 0 && part <= (n_rows - 1) / 3;
    }
    if (!exact) return 0;
    for (int i = 0; i < 3; i++) ends[i] = (i + 1) * part;
    ends[3] = n_rows;
    return 1;
}

static nb_status cannot_cut(const nb_stored *t)
{
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "cannot be cut into q, k and v", t->file, t->name);
}

static nb_status no_memory(const struct view *v)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", nb_checkpoint_path(v->checkpoint));
}

/* What lies beside a matrix and is not its rows': notes, and what its input is for. */
static int is_of_all_rows(const char *rest)
{
    static const char *const tails[] = {".comfy_quant", ".weight_shape", ".pre_quant_scale",
                                        ".svdquant_lora_a"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (strcmp(rest, tails[i]) == 0) return 1;
    return 0;
}

/* Rows begin ... end of whatever belongs to a matrix of n_rows; behind n_rows it goes on at the
 * first. */
static nb_status take_rows(struct view *v, nb_stored *t, const nb_stored *whole,
                           const char *rest, int64_t n_rows, int64_t begin, int64_t end)
{
    const nb_stored *codes = NULL;
    nb_packed packed;
    if (is_of_all_rows(rest)) return NB_OK;
    if (strcmp(rest, ".weight_scale") == 0)
        codes = beside(v, whole->name, (size_t)(rest - whole->name), ".weight");
    /* What does not fit is the binder's to tell, of what is bound. */
    if (codes && codes->dtype == NB_DTYPE_U8 && whole->dtype == NB_DTYPE_F8_E4M3 &&
        nb_packed_find(v->checkpoint, codes, n_rows, &packed) == NB_OK && packed.is_tiled)
        return cut_tiles(v, t, &packed, begin, end - begin);
    if (end > n_rows) return swap_halves(v, t, whole, n_rows);
    return cut_rows(t, whole, n_rows, begin, end);
}

/* Adds what tensor `whole` becomes; `rest` is the part of its name that the rule leaves. */
static nb_status apply(struct view *v, const nb_canonical_rule *rule,
                       const int numbers[MAX_NUMBERS], const nb_stored *whole, const char *rest)
{
    size_t module_bytes = (size_t)(rest - whole->name);
    int64_t begin = 0, ends[MAX_PIECES] = {0};
    int fused = rule->cut == THIRDS || rule->cut == THREE_REST;
    if (fused && !find_cuts(v, rule, whole->name, module_bytes, ends)) return cannot_cut(whole);
    int64_t n_rows = rows_of(v, whole->name, module_bytes), half = n_rows / 2;
    for (int i = 0; i < MAX_PIECES && rule->to[i]; i++) {
        char name[NAME_BYTES];
        expand(rule->to[i], numbers, v->n_levels, rest, name);
        nb_stored *t = add_tensor(v, name, whole);
        if (!t) return no_memory(v);
        if (fused) NB_TRY(take_rows(v, t, whole, rest, n_rows, begin, ends[i]));
        if (rule->cut == SWAP)
            NB_TRY(take_rows(v, t, whole, rest, n_rows, half, half + n_rows));
        begin = ends[i];
    }
    return NB_OK;
}

static nb_status add_canonical(struct view *v, const nb_stored *t)
{
    const char *name = without_prefix(t->name);
    for (const nb_canonical_rule *rule = nb_canonical_rules; rule->from; rule++) {
        int numbers[MAX_NUMBERS] = {0};
        const char *rest = match(rule->from, name, numbers);
        if (rest) return apply(v, rule, numbers, t, rest);
    }
    return add_tensor(v, name, t) ? NB_OK : no_memory(v);
}

static int count_levels(const nb_checkpoint *c)
{
    int n = 0, numbers[MAX_NUMBERS];
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const char *name = without_prefix(nb_checkpoint_tensor(c, i)->name);
        if (match("decoder.up.#.block.#", name, numbers) && numbers[0] >= n) n = numbers[0] + 1;
    }
    return n;
}

static nb_status fill_view(struct view *v)
{
    int64_t n = nb_checkpoint_n_tensors(v->checkpoint);
    v->n_levels = count_levels(v->checkpoint);
    v->capacity = MAX_PIECES * n;
    v->tensors = malloc(((size_t)v->capacity + 1) * sizeof *v->tensors);
    if (!v->tensors) return no_memory(v);
    NB_TRY(nb_arena_create(&v->storage));
    for (int64_t i = 0; i < n; i++) {
        const nb_stored *t = nb_checkpoint_tensor(v->checkpoint, i);
        if (is_of_part(t->name, v->kind)) NB_TRY(add_canonical(v, t));
    }
    return NB_OK;
}

static nb_status rename_part(nb_checkpoint *c, nb_component_kind kind)
{
    struct view v = {.checkpoint = c, .kind = kind};
    if (nb_nunchaku_is_one(c)) return nb_nunchaku_rename(c);
    nb_status status = fill_view(&v);
    if (!status) status = nb_checkpoint_set_tensors(c, v.tensors, v.n, v.storage);
    if (status) nb_arena_destroy(v.storage);
    free(v.tensors);
    return status;
}

nb_status nb_canonical_rename(nb_checkpoint *c)
{
    return rename_part(c, NB_KIND_UNKNOWN);
}

nb_status nb_canonical_open(const char *path, nb_checkpoint **out)
{
    return nb_canonical_open_part(path, NB_KIND_UNKNOWN, out);
}

nb_status nb_canonical_open_part(const char *path, nb_component_kind kind, nb_checkpoint **out)
{
    nb_checkpoint *c = NULL;
    NB_TRY(nb_checkpoint_open(path, &c));
    nb_status status = rename_part(c, kind);
    if (status)
        nb_checkpoint_close(c);
    else
        *out = c;
    return status;
}
