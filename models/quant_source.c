#include "models/quant_source.h"

#include <stdio.h>
#include <string.h>

#include "models/bind.h"
#include "models/extras.h"
#include "models/nunchaku.h"
#include "models/packed.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* ---- names ---- */

static int take_module(const char *name, size_t bytes, char module[NB_MODULE_BYTES])
{
    if (!bytes || bytes >= NB_MODULE_BYTES) return 0;
    memcpy(module, name, bytes);
    module[bytes] = 0;
    return 1;
}

static int cut(const char *name, const char *suffix, char module[NB_MODULE_BYTES])
{
    size_t n = strlen(name), m = strlen(suffix);
    return nb_name_ends_with(name, suffix) && take_module(name, n - m, module);
}

int nb_quant_module_of(const nb_stored *t, char module[NB_MODULE_BYTES])
{
    if (t->rank != 2 || t->shape[0] < 1 || t->shape[1] < 1) return 0;
    switch (t->dtype) {
    case NB_DTYPE_U8:
        return cut(t->name, ".weight_packed", module) || cut(t->name, ".weight", module);
    case NB_DTYPE_F32:
    case NB_DTYPE_F16:
    case NB_DTYPE_BF16:
    case NB_DTYPE_F8_E4M3:
    case NB_DTYPE_F8_E5M2:
        return cut(t->name, ".weight", module);
    default:
        return nb_dtype_elements(t->dtype) > 1 && cut(t->name, ".weight", module);
    }
}

int nb_quant_is_part(const nb_stored *t, char module[NB_MODULE_BYTES])
{
    return take_module(t->name, nb_bind_part(t->name), module);
}

/* ---- forms ---- */

static nb_source_form form_of_packed(const nb_packed *p)
{
    if (p->kind != NB_SCALE_NVFP4 || p->dialect == NB_FP4_COMPRESSED_TENSORS)
        return NB_SOURCE_STORED;
    return p->dialect == NB_FP4_COMFY ? NB_SOURCE_TILED : NB_SOURCE_UNTILED;
}

static int is_f8(const nb_stored *t)
{
    return t->dtype == NB_DTYPE_F8_E4M3 || t->dtype == NB_DTYPE_F8_E5M2;
}

nb_status nb_quant_source_find(const nb_checkpoint *c, const nb_stored *t, nb_quant_source *out)
{
    nb_quant_source q = {.c = c, .tensor = t, .n = t->shape[0], .k = t->shape[1]};
    nb_packed p;
    if (!nb_quant_module_of(t, q.module))
        return nb_fail(NB_E_DATA, TENSOR_FORMAT "is no weight matrix", t->file, t->name);
    if (!t->data) {
        q.form = NB_SOURCE_ANNOUNCED;
    } else if (t->dtype == NB_DTYPE_U8) {
        NB_TRY(nb_packed_find(c, t, 0, &p));
        q.n = p.n;
        q.k = p.k;
        q.form = form_of_packed(&p);
    } else if (nb_dtype_elements(t->dtype) > 1) {
        q.form = NB_SOURCE_FOREIGN;
    } else {
        q.form = is_f8(t) || nb_extras_any(c, t) ? NB_SOURCE_STORED : NB_SOURCE_PLAIN;
    }
    *out = q;
    return NB_OK;
}

/* ---- the weight ---- */

/* models/plausible.h is asked once for a checkpoint, not for every matrix. */
static nb_status bind(nb_stream *s, const nb_checkpoint *c, const nb_stored *t, nb_weight *out)
{
    nb_binder b = {.checkpoint = c, .device = s->device, .arena = s->arena, .looked = 1};
    nb_weight w = nb_bind_stored(&b, t);
    if (!b.status) *out = w;
    return b.status;
}

nb_status nb_quant_source_check(nb_stream *s, const nb_quant_source *q)
{
    nb_weight w;
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_status status = NB_OK;
    if (q->form != NB_SOURCE_ANNOUNCED) status = bind(s, q->c, q->tensor, &w);
    nb_arena_rewind(s->arena, mark);
    return status;
}

struct expand_task {
    const nb_weight *w;
    const float *down; /* [rank, k] */
    double *sums;      /* [threads, k] */
    float *out;        /* [n, k] */
};

/* One rounding for all that is beside the weight: the sum is a double. */
static void expand_row(void *arg, int64_t row, int thread)
{
    const struct expand_task *t = arg;
    const nb_weight *w = t->w;
    const nb_low_rank *r = &w->low_rank;
    int64_t k = w->k;
    float *out = t->out + row * k;
    nb_weight_decode_ref(w, row, 0, k, out);
    if (!r->rank) {
        for (int64_t i = 0; w->column_scales && i < k; i++) out[i] *= w->column_scales[i];
        return;
    }
    double *sums = t->sums + thread * k;
    for (int64_t i = 0; i < k; i++)
        sums[i] = (double)out[i] * (w->column_scales ? (double)w->column_scales[i] : 1.0);
    for (int64_t j = 0; j < r->rank; j++) {
        double up = (double)nb_load_f32(r->dtype, r->up, row * r->rank + j);
        const float *down = t->down + j * k;
        for (int64_t i = 0; i < k; i++) sums[i] += up * (double)down[i];
    }
    for (int64_t i = 0; i < k; i++) out[i] = (float)sums[i];
}

static const float *expand_down(nb_stream *s, const nb_weight *w)
{
    int64_t n = w->low_rank.rank * w->k;
    float *down = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, &n));
    for (int64_t i = 0; down && i < n; i++)
        down[i] = nb_load_f32(w->low_rank.dtype, w->low_rank.down, i);
    return down;
}

/* `out` [n, k] is in the arena. */
static void expand(nb_stream *s, const nb_weight *w, float *out)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    struct expand_task t = {.w = w, .out = out};
    if (w->low_rank.rank) {
        t.down = expand_down(s, w);
        t.sums = nb_stream_tensor(s, NB_DTYPE_F64, 2, NB_SHAPE(s->threads, w->k)).data;
    }
    nb_parallel(s, w->n, expand_row, &t); /* nothing once the arena is short of memory */
    nb_arena_rewind(s->arena, mark);
}

static nb_status expand_bound(nb_stream *s, const nb_checkpoint *c, const nb_stored *t,
                              nb_weight *out)
{
    nb_weight w;
    nb_tensor values =
        nb_stream_tensor(s, NB_DTYPE_F32, 2, NB_SHAPE(out->n, out->k)); /* outlives the mark */
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_status status = bind(s, c, t, &w);
    if (!status) {
        expand(s, &w, nb_tensor_f32(values));
        out->data = values.data;
        status = nb_stream_sync(s);
    }
    nb_arena_rewind(s->arena, mark);
    return status;
}

static nb_status copy_bias(nb_stream *s, const nb_checkpoint *c, const nb_quant_source *q,
                           const float **out)
{
    char name[NB_MODULE_BYTES + 8];
    snprintf(name, sizeof name, "%s.bias", q->module);
    const nb_stored *t = nb_checkpoint_find(c, name);
    float *bias = nb_tensor_f32(nb_stream_tensor(s, NB_DTYPE_F32, 1, &q->n));
    if (!bias) return s->status;
    memcpy(bias, t->data, (size_t)q->n * sizeof *bias);
    *out = bias;
    return NB_OK;
}

static nb_status expand_announced(nb_stream *s, const nb_checkpoint *files,
                                  const nb_quant_source *q, nb_weight *out, const float **bias)
{
    nb_checkpoint *made;
    NB_TRY(nb_nunchaku_make(files, q->module, &made));
    nb_status status = copy_bias(s, made, q, bias);
    if (!status) status = expand_bound(s, made, nb_checkpoint_find(made, q->tensor->name), out);
    nb_checkpoint_close(made);
    return status;
}

nb_status nb_quant_source_weight(nb_stream *s, const nb_checkpoint *files,
                                 const nb_quant_source *q, nb_weight *out, const float **bias)
{
    nb_weight w = {
        .dtype = NB_DTYPE_F32, .n = q->n, .k = q->k, .scale = 1, .device = s->device};
    if (q->form == NB_SOURCE_PLAIN)
        NB_TRY(bind(s, q->c, q->tensor, &w));
    else if (q->form == NB_SOURCE_ANNOUNCED)
        NB_TRY(expand_announced(s, files, q, &w, bias));
    else
        NB_TRY(expand_bound(s, q->c, q->tensor, &w));
    *out = w;
    return NB_OK;
}
