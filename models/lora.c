/*
 * A file is read in one pass: its keys are sorted so that what belongs to one module lies side
 * by side, each module is looked up in the models, and each matrix that it means gets a term.
 */
#include "models/lora.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "models/lora_terms.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* A tensor of a file with what its name says. */
struct entry {
    const nb_stored *t;
    nb_lora_key key;
};

/* A file while it is read. */
struct reader {
    nb_loras *l;
    const nb_lora_options *options;
    const nb_checkpoint *const *models;
    int n_models;
    const nb_checkpoint *file;
    double weight;
    json_t *config;
    struct entry *entries;
    int64_t n;
    int64_t n_unknown, n_found; /* tensors that mean nothing; terms made */
    const char *first_unknown;
};

/* The tensors of one module; each may be absent. */
struct module {
    const struct entry *down, *up, *alpha, *bias, *foreign, *diff_bias;
    const struct entry *parts[NB_LORA_N_PARTS];
};

static nb_status no_memory(const char *path)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory for a LoRA", path);
}

/* --- what means nothing --- */

static nb_status unknown(struct reader *r, const struct entry *e)
{
    if (!r->first_unknown) r->first_unknown = e->t->name;
    r->n_unknown++;
    if (r->options->lenient) return NB_OK;
    if (e->key.role == NB_LORA_FOREIGN)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "part of a %s adapter, which cannot be applied",
                       e->t->file, e->t->name, e->key.kind);
    return nb_fail(NB_E_DATA,
                   TENSOR_FORMAT "means nothing to this model; --lora-lenient leaves it out",
                   e->t->file, e->t->name);
}

/* --- terms --- */

nb_status nb_lora_matrix_shape(const nb_stored *t, int64_t *rows, int64_t *columns)
{
    int rank = t->rank;
    if (t->dtype != NB_DTYPE_F32 && t->dtype != NB_DTYPE_F16 && t->dtype != NB_DTYPE_BF16)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted F32, F16 or BF16, found %s", t->file,
                       t->name, nb_dtype_name(t->dtype));
    while (rank > 2 && t->shape[rank - 1] == 1) rank--;
    if (rank != 2 || nb_stored_count(t) == 0) {
        char found[NB_SHAPE_TEXT_BYTES];
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted a matrix, found %s", t->file, t->name,
                       nb_shape_text(t->rank, t->shape, found));
    }
    *rows = t->shape[0];
    *columns = t->shape[1];
    return NB_OK;
}

/* The rows of a model's matrix, told by its bias where that has one: those of packed types may
 * be padded. 0 if no model has it; *root is what stands before its name there. */
static int64_t rows_in_models(const struct reader *r, const char *name, const char **root)
{
    static const char *const roots[] = {"", "text_model."};
    for (int i = 0; i < r->n_models; i++)
        for (size_t k = 0; k < sizeof roots / sizeof *roots; k++) {
            char full[NB_LORA_NAME_BYTES + 32];
            snprintf(full, sizeof full, "%s%s.weight", roots[k], name);
            const nb_stored *w = nb_checkpoint_find_matrix(r->models[i], full);
            snprintf(full, sizeof full, "%s%s.bias", roots[k], name);
            const nb_stored *bias = nb_checkpoint_find(r->models[i], full);
            if (!w || w->rank < 1) continue;
            *root = roots[k];
            return bias && bias->rank == 1 ? bias->shape[0] : w->shape[0];
        }
    return 0;
}

static nb_status add_term(struct reader *r, const char *root, const char *name,
                          nb_lora_term term)
{
    nb_loras *l = r->l;
    if (l->n_terms == l->capacity) {
        int64_t capacity = l->capacity ? 2 * l->capacity : 256;
        nb_lora_term *terms = realloc(l->terms, (size_t)capacity * sizeof *terms);
        if (!terms) return no_memory(nb_checkpoint_path(r->file));
        l->terms = terms;
        l->capacity = capacity;
    }
    size_t bytes = strlen(root) + strlen(name) + 1;
    char *copy = nb_arena_alloc(l->arena, bytes);
    if (!copy) return NB_E_SYSTEM;
    snprintf(copy, bytes, "%s%s", root, name);
    term.module = copy;
    l->terms[l->n_terms++] = term;
    r->n_found++;
    return NB_OK;
}

static nb_status wrong_rows(const nb_stored *up, int64_t rows, int64_t rank)
{
    char want[NB_SHAPE_TEXT_BYTES], found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted %s, found %s", up->file, up->name,
                   nb_shape_text(2, (const int64_t[]){rows, rank}, want),
                   nb_shape_text(up->rank, up->shape, found));
}

static nb_status check_bias(const nb_stored *bias, int64_t rows)
{
    char found[NB_SHAPE_TEXT_BYTES];
    int is_float = bias->dtype == NB_DTYPE_F32 || bias->dtype == NB_DTYPE_F16 ||
                   bias->dtype == NB_DTYPE_BF16;
    if (is_float && bias->rank == 1 && bias->shape[0] == rows) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "wanted F32, F16 or BF16 [%lld], found %s %s",
                   bias->file, bias->name, (long long)rows, nb_dtype_name(bias->dtype),
                   nb_shape_text(bias->rank, bias->shape, found));
}

/* The target's matrices in the models: their rows and roots; 0 if one is not there. */
static int find_pieces(const struct reader *r, const nb_lora_target *target,
                       int64_t rows[NB_CANONICAL_PIECES],
                       const char *roots[NB_CANONICAL_PIECES])
{
    for (int i = 0; i < target->n; i++)
        if (!(rows[i] = rows_in_models(r, target->names[i], &roots[i]))) return 0;
    return target->n > 0;
}

/* The matrices that a module means. */
struct place {
    nb_lora_target target;
    int64_t rows[NB_CANONICAL_PIECES], all_rows;
    const char *roots[NB_CANONICAL_PIECES];
};

/* A term for each matrix; what belongs to all of them is in `term`. */
static nb_status add_terms(struct reader *r, const struct place *p, nb_lora_term term)
{
    term.first_row = p->target.cut == NB_CUT_SWAP ? p->all_rows / 2 : 0;
    for (int i = 0; i < p->target.n; i++) {
        term.n_rows = p->rows[i];
        NB_TRY(add_term(r, p->roots[i], p->target.names[i], term));
        term.first_row += p->rows[i];
    }
    return NB_OK;
}

static nb_status add_pair(struct reader *r, const struct module *m, const struct place *p)
{
    const nb_stored *down = m->down->t, *up = m->up->t, *bias = m->bias ? m->bias->t : NULL;
    int64_t rank, k, n, up_rank;
    double scale;
    NB_TRY(nb_lora_matrix_shape(down, &rank, &k));
    NB_TRY(nb_lora_matrix_shape(up, &n, &up_rank));
    if (n != p->all_rows || up_rank != rank) return wrong_rows(up, p->all_rows, rank);
    if (bias) NB_TRY(check_bias(bias, p->all_rows));
    NB_TRY(nb_lora_scale(r->file, r->config, m->alpha ? m->alpha->t : NULL, down->name,
                         &m->down->key, rank, &scale));
    return add_terms(r, p,
                     (nb_lora_term){.factors = {{up, down, n, k, rank}},
                                    .some = down,
                                    .rows = n,
                                    .columns = k,
                                    .rank = rank,
                                    .bias = bias,
                                    .scale = r->weight * scale});
}

/* Which of them the file means cannot be told. */
static nb_status second_adapter(const struct entry *e)
{
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "part of a %s adapter beside another one",
                   e->t->file, e->t->name, e->key.kind);
}

/* A branch costs what two matrices of its rank do: of half the matrix's it is none any more. */
static nb_status high_rank(struct reader *r, const struct entry *some, int64_t rank,
                           int64_t side)
{
    if (r->options->lenient) return unknown(r, some);
    return nb_fail(NB_E_DATA,
                   TENSOR_FORMAT "part of a %s adapter of rank %lld, which cannot be applied: "
                                 "wanted less than half of the matrix's, %lld",
                   some->t->file, some->t->name, some->key.kind, (long long)rank,
                   (long long)side);
}

/* The smallest side of the matrices, which no rank goes beyond. */
static int64_t smallest_side(const struct place *p, int64_t columns)
{
    int64_t side = columns;
    for (int i = 0; i < p->target.n; i++)
        if (p->rows[i] < side) side = p->rows[i];
    return side;
}

static nb_status add_product(struct reader *r, const struct module *m, const struct entry *some,
                             const struct place *p)
{
    const nb_stored *parts[NB_LORA_N_PARTS] = {NULL};
    nb_lora_term term = {.module = NULL};
    int64_t divisor;
    double scale = 1;
    for (int i = 0; i < NB_LORA_N_PARTS; i++) {
        const struct entry *e = m->parts[i];
        if (e && strcmp(e->key.kind, some->key.kind) != 0) return second_adapter(e);
        parts[i] = e ? e->t : NULL;
    }
    NB_TRY(nb_lora_product(some->key.kind, parts, &term, &divisor));
    if (term.rows != p->all_rows)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "its %s adapter has %lld rows, wanted %lld",
                       some->t->file, some->t->name, some->key.kind, (long long)term.rows,
                       (long long)p->all_rows);
    int64_t side = smallest_side(p, term.columns);
    if (term.rank >= (side + 1) / 2) return high_rank(r, some, term.rank, side);
    if (m->alpha && divisor)
        NB_TRY(nb_lora_scale(r->file, NULL, m->alpha->t, some->t->name, &some->key, divisor,
                             &scale));
    term.scale = r->weight * scale;
    return add_terms(r, p, term);
}

static nb_status add_diff_bias(struct reader *r, const struct module *m, const struct place *p)
{
    const nb_stored *bias = m->diff_bias->t;
    NB_TRY(check_bias(bias, p->all_rows));
    return add_terms(
        r, p,
        (nb_lora_term){.some = bias, .rows = p->all_rows, .bias = bias, .scale = r->weight});
}

/* All that the module's tensors do; `product`: one that is part of a product. */
static nb_status add_to(struct reader *r, const struct module *m, const struct entry *product,
                        const struct place *p)
{
    const struct entry *half = m->down ? m->down : m->up;
    if (half && product) return second_adapter(product);
    if (half && (!m->down || !m->up))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "the other half of the pair is missing",
                       half->t->file, half->t->name);
    if (half) NB_TRY(add_pair(r, m, p));
    if (product) NB_TRY(add_product(r, m, product, p));
    return m->diff_bias ? add_diff_bias(r, m, p) : NB_OK;
}

static nb_status all_unknown(struct reader *r, const struct module *m)
{
    const struct entry *pair[] = {m->down, m->up, m->diff_bias};
    for (int i = 0; i < 3; i++)
        if (pair[i]) NB_TRY(unknown(r, pair[i]));
    for (int i = 0; i < NB_LORA_N_PARTS; i++)
        if (m->parts[i]) NB_TRY(unknown(r, m->parts[i]));
    return NB_OK;
}

static nb_status add_module(struct reader *r, const struct module *m)
{
    struct place p = {.target = {.n = 0}};
    const struct entry *product = NULL, *some = m->down ? m->down : m->up;
    for (int i = 0; i < NB_LORA_N_PARTS && !product; i++) product = m->parts[i];
    if (!some) some = product ? product : m->diff_bias;
    if (m->foreign) NB_TRY(unknown(r, m->foreign));
    if (!some) return m->alpha || m->bias ? unknown(r, m->alpha ? m->alpha : m->bias) : NB_OK;
    size_t before = (size_t)(some->key.module - some->t->name);
    p.target = nb_lora_target_of(some->key.module, some->key.stem_bytes - before);
    if (!find_pieces(r, &p.target, p.rows, p.roots)) return all_unknown(r, m);
    for (int i = 0; i < p.target.n; i++) p.all_rows += p.rows[i];
    return add_to(r, m, product, &p);
}

/* --- a file --- */

static int compare_stems(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    size_t n = x->key.stem_bytes < y->key.stem_bytes ? x->key.stem_bytes : y->key.stem_bytes;
    int order = memcmp(x->t->name, y->t->name, n);
    if (order) return order;
    if (x->key.stem_bytes != y->key.stem_bytes)
        return x->key.stem_bytes < y->key.stem_bytes ? -1 : 1;
    return strcmp(x->t->name, y->t->name);
}

static int same_module(const struct entry *x, const struct entry *y)
{
    return x->key.stem_bytes == y->key.stem_bytes &&
           memcmp(x->t->name, y->t->name, x->key.stem_bytes) == 0;
}

/* Notes a tensor under its role; two of one role, in two spellings, are one too many. */
static nb_status note(struct module *m, const struct entry *e)
{
    const struct entry **slot = e->key.role == NB_LORA_DOWN        ? &m->down
                                : e->key.role == NB_LORA_UP        ? &m->up
                                : e->key.role == NB_LORA_ALPHA     ? &m->alpha
                                : e->key.role == NB_LORA_UP_BIAS   ? &m->bias
                                : e->key.role == NB_LORA_DIFF_BIAS ? &m->diff_bias
                                : e->key.role == NB_LORA_PART      ? &m->parts[e->key.part]
                                                                   : &m->foreign;
    if (*slot && e->key.role != NB_LORA_FOREIGN)
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "%.300s means the same", e->t->file, e->t->name,
                       (*slot)->t->name);
    *slot = e;
    return NB_OK;
}

static nb_status read_modules(struct reader *r)
{
    for (int64_t i = 0; i < r->n;) {
        struct module m = {0};
        int64_t first = i;
        for (; i < r->n && same_module(&r->entries[first], &r->entries[i]); i++)
            NB_TRY(note(&m, &r->entries[i]));
        NB_TRY(add_module(r, &m));
    }
    return NB_OK;
}

/* Other models' files, and files that are no LoRA at all. */
static nb_status check_kind(const struct reader *r)
{
    int64_t n = nb_checkpoint_n_tensors(r->file);
    const char *path = nb_checkpoint_path(r->file);
    nb_lora_summary summary;
    if (!nb_lora_summarise(r->file, &summary))
        return nb_fail(NB_E_DATA,
                       "%s: no LoRA: it holds no lora_A, lora_down or the like, but %.300s",
                       path, n ? nb_checkpoint_tensor(r->file, 0)->name : "nothing");
    for (int64_t i = 0; i < n; i++) {
        const char *name = nb_checkpoint_tensor(r->file, i)->name;
        const char *family = nb_lora_other_family(name);
        if (family)
            return nb_fail(NB_E_DATA, "%s: a LoRA for %s, not for FLUX.1 (tensor %.300s)", path,
                           family, name);
    }
    return NB_OK;
}

static nb_status read_entries(struct reader *r)
{
    int64_t n = nb_checkpoint_n_tensors(r->file);
    r->entries = calloc((size_t)n + 1, sizeof *r->entries);
    if (!r->entries) return no_memory(nb_checkpoint_path(r->file));
    for (int64_t i = 0; i < n; i++) {
        struct entry e = {.t = nb_checkpoint_tensor(r->file, i)};
        e.key = nb_lora_key_of(e.t->name);
        if (e.key.role == NB_LORA_NONE)
            NB_TRY(unknown(r, &e));
        else
            r->entries[r->n++] = e;
    }
    qsort(r->entries, (size_t)r->n, sizeof *r->entries, compare_stems);
    NB_TRY(nb_lora_config_read(r->file, &r->config));
    return read_modules(r);
}

static nb_status read_file(struct reader *r)
{
    const char *path = nb_checkpoint_path(r->file);
    NB_TRY(check_kind(r));
    nb_status status = read_entries(r);
    free(r->entries);
    json_decref(r->config);
    NB_TRY(status);
    if (!r->n_found)
        return nb_fail(NB_E_DATA, "%s: none of its tensors means anything to this model", path);
    if (r->n_unknown)
        nb_log(
            NB_LOG_WARN,
            "%s: %lld of %lld tensors mean nothing to this model and are left out; the first "
            "is %.300s",
            path, (long long)r->n_unknown, (long long)nb_checkpoint_n_tensors(r->file),
            r->first_unknown);
    return NB_OK;
}

/* --- the set --- */

static nb_status open_into(nb_loras *l, const nb_lora_use *uses, int n,
                           const nb_lora_options *options, const nb_checkpoint *const *models,
                           int n_models)
{
    l->compute = options->compute;
    l->files = calloc((size_t)n + 1, sizeof *l->files);
    if (!l->files) return no_memory(n ? uses[0].path : "");
    NB_TRY(nb_arena_create(&l->arena));
    for (; l->n_files < n; l->n_files++) {
        const nb_lora_use *use = &uses[l->n_files];
        nb_checkpoint **file = &l->files[l->n_files];
        NB_TRY(nb_checkpoint_open(use->path, file));
        struct reader r = {.l = l,
                           .options = options,
                           .models = models,
                           .n_models = n_models,
                           .file = *file,
                           .weight = use->weight};
        NB_TRY(read_file(&r));
    }
    return NB_OK;
}

nb_status nb_loras_open(const nb_lora_use *uses, int n, const nb_lora_options *options,
                        const nb_checkpoint *const *models, int n_models, nb_loras **out)
{
    nb_loras *l = calloc(1, sizeof *l);
    if (!l) return no_memory(n ? uses[0].path : "");
    nb_status status = open_into(l, uses, n, options, models, n_models);
    if (status) {
        if (l->files && l->n_files < n) nb_checkpoint_close(l->files[l->n_files]);
        nb_loras_close(l);
        return status;
    }
    *out = l;
    return NB_OK;
}

void nb_loras_close(nb_loras *l)
{
    if (!l) return;
    for (int i = 0; i < l->n_files; i++) nb_checkpoint_close(l->files[i]);
    nb_arena_destroy(l->arena);
    free(l->files);
    free(l->terms);
    free(l);
}

int nb_loras_n_files(const nb_loras *l)
{
    return l->n_files;
}

const nb_checkpoint *nb_loras_file(const nb_loras *l, int index)
{
    return l->files[index];
}

int64_t nb_loras_n_terms(const nb_loras *l)
{
    return l->n_terms;
}
