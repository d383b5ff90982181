/*
 * One checkpoint: a plan first - what becomes of each tensor, and so the header of the output -
 * then tensor by tensor. What a tensor took is given back before the next: the stream's arena
 * is rewound, and the pages of the mapping are let go, so that a checkpoint of any size passes
 * through the memory of its largest matrix.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/base/file.h"
#include "kernels/base/folder.h"
#include "models/quantize_job.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* ---- decisions ---- */

static int expands(const nb_quantize_job *job)
{
    nb_quant_format format = job->args->target.format;
    return format == NB_QUANT_F32 || format == NB_QUANT_BF16;
}

nb_status nb_quantize_decide(nb_quantize_job *job, const nb_checkpoint *c,
                             nb_quantize_scope scope, const nb_stored *t, int *converts,
                             nb_quant_source *source)
{
    char module[NB_MODULE_BYTES];
    *converts = 0;
    if (nb_name_ends_with(t->name, ".qweight"))
        return nb_fail(NB_E_DATA,
                       "%s: tensor %.300s: 4 bits in nunchaku's order cannot be converted yet",
                       t->file, t->name);
    if (!nb_quant_module_of(t, module)) return NB_OK;
    /* Whatever is quantised is expanded, whoever chose it. */
    if (!nb_quantize_chooses(job->args, expands(job) ? NB_SCOPE_FILE : scope, module))
        return NB_OK;
    NB_TRY(nb_quant_source_find(c, t, job->s->device, job->s->arena, source));
    *converts = expands(job) ? source->kind != NB_SOURCE_PLAIN
                             : source->k % nb_quant_multiple(job->args->target.format) == 0;
    return NB_OK;
}

/* The weight of a module, under either of its names. */
static const nb_stored *weight_of(const nb_checkpoint *c, const char *module)
{
    char name[NB_MODULE_BYTES + 16];
    snprintf(name, sizeof name, "%s.weight", module);
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (t) return t;
    snprintf(name, sizeof name, "%s.weight_packed", module);
    return nb_checkpoint_find(c, name);
}

/* Is `t` a scale of a matrix that gets new ones? */
static nb_status is_replaced(nb_quantize_job *job, const nb_checkpoint *c,
                             nb_quantize_scope scope, const nb_stored *t, int *out)
{
    char module[NB_MODULE_BYTES];
    nb_quant_source source;
    *out = 0;
    if (!nb_quant_is_part(t, module)) return NB_OK;
    const nb_stored *weight = weight_of(c, module);
    return weight ? nb_quantize_decide(job, c, scope, weight, out, &source) : NB_OK;
}

/* ---- the plan of one output file ---- */

struct step {
    const nb_stored *tensor;
    enum { COPY, CONVERT, DROP } what;
    int64_t first; /* output */
};

struct plan {
    nb_quantize_job *job;
    const nb_checkpoint *c;
    nb_quantize_scope scope;
    nb_arena *arena; /* of names */
    struct step *steps;
    int64_t n_steps;
    nb_stored *outputs;
    int64_t n_outputs;
    json_t *layers;        /* comfy's notes: name -> {"format"} */
    const char **metadata; /* pairs, NULL at their end */
};

static nb_status short_of_memory(const struct plan *p)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", nb_checkpoint_path(p->c));
}

static nb_status add_copy(struct plan *p, struct step *step)
{
    const nb_stored *t = step->tensor;
    if (nb_dtype_elements(t->dtype) > 1)
        return nb_fail(NB_E_DATA,
                       TENSOR_FORMAT "%s cannot be kept: safetensors has no such type", t->file,
                       t->name, nb_dtype_name(t->dtype));
    step->what = COPY;
    step->first = p->n_outputs;
    p->outputs[p->n_outputs++] = *step->tensor;
    return NB_OK;
}

static nb_status add_part(struct plan *p, const char *module, const nb_quant_part *part)
{
    nb_stored *t = &p->outputs[p->n_outputs];
    size_t bytes = strlen(module) + strlen(part->suffix) + 1;
    char *name = nb_arena_alloc(p->arena, bytes);
    if (!name) return NB_E_SYSTEM;
    snprintf(name, bytes, "%s%s", module, part->suffix);
    *t = (nb_stored){.name = name, .dtype = part->dtype, .rank = part->rank};
    memcpy(t->shape, part->shape, sizeof part->shape);
    t->bytes = (size_t)nb_quant_part_bytes(part);
    p->n_outputs++;
    return NB_OK;
}

static nb_status add_converted(struct plan *p, struct step *step, const nb_quant_source *source)
{
    static const char *const comfy_formats[NB_QUANT_FORMAT_COUNT] = {
        [NB_QUANT_NVFP4] = "nvfp4", [NB_QUANT_FP8] = "float8_e4m3fn"};
    const nb_quant_target *target = &p->job->args->target;
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    int n = nb_quant_parts(target, source->n, source->k, parts);
    const char *format = target->dialect == NB_FP4_COMFY ? comfy_formats[target->format] : NULL;
    step->what = CONVERT;
    step->first = p->n_outputs;
    for (int i = 0; i < n; i++) NB_TRY(add_part(p, source->module, &parts[i]));
    json_object_del(p->layers, source->module);
    if (format && json_object_set_new(p->layers, source->module,
                                      json_pack("{s:s}", "format", format)) != 0)
        return short_of_memory(p);
    return NB_OK;
}

static nb_status add_step(struct plan *p, const nb_stored *t)
{
    struct step *step = &p->steps[p->n_steps++];
    nb_quant_source source;
    int converts, replaced;
    nb_arena_mark mark = nb_arena_save(p->job->s->arena);
    step->tensor = t;
    nb_status status = nb_quantize_decide(p->job, p->c, p->scope, t, &converts, &source);
    if (!status && converts) {
        status = add_converted(p, step, &source);
    } else if (!status) {
        status = is_replaced(p->job, p->c, p->scope, t, &replaced);
        step->what = DROP;
        if (!status && !replaced) status = add_copy(p, step);
    }
    nb_arena_rewind(p->job->s->arena, mark);
    return status;
}

/* comfy's notes of the input are where those of the output begin. */
static nb_status take_layers(struct plan *p, const nb_container *f)
{
    const char *text = nb_container_metadata(f, "_quantization_metadata");
    json_t *notes = text ? json_loads(text, 0, NULL) : NULL;
    json_t *layers = json_object_get(notes, "layers");
    int failed = json_is_object(layers) && json_object_update(p->layers, layers) != 0;
    json_decref(notes);
    return failed ? short_of_memory(p) : NB_OK;
}

static nb_status note_layers(struct plan *p, int *n)
{
    json_t *notes = json_pack("{s:s, s:O}", "format_version", "1.0", "layers", p->layers);
    char *text = notes ? json_dumps(notes, 0) : NULL;
    char *copy = text ? nb_arena_alloc(p->arena, strlen(text) + 1) : NULL;
    if (copy) memcpy(copy, text, strlen(text) + 1);
    free(text);
    json_decref(notes);
    if (!copy) return short_of_memory(p);
    p->metadata[(*n)++] = "_quantization_metadata";
    p->metadata[(*n)++] = copy;
    return NB_OK;
}

/* What the file says about itself, but for comfy's notes, which are made anew. */
static nb_status plan_metadata(struct plan *p, const nb_container *f)
{
    int n = 0;
    size_t keys = 0;
    for (const char *k = NULL; (k = nb_container_metadata_next(f, k));) keys++;
    p->metadata = nb_arena_alloc(p->arena, (2 * keys + 4) * sizeof *p->metadata);
    if (!p->metadata) return NB_E_SYSTEM;
    for (const char *k = NULL; (k = nb_container_metadata_next(f, k));) {
        const char *value = nb_container_metadata(f, k);
        if (!value || strcmp(k, "_quantization_metadata") == 0) continue;
        p->metadata[n++] = k;
        p->metadata[n++] = value;
    }
    if (json_object_size(p->layers)) NB_TRY(note_layers(p, &n));
    p->metadata[n] = NULL;
    if (n == 0) p->metadata = NULL;
    return NB_OK;
}

/* For the files first ... first+count of the checkpoint. */
static nb_status plan_files(struct plan *p, int first, int count)
{
    int64_t n = 0;
    for (int i = first; i < first + count; i++)
        n += nb_container_n_tensors(nb_checkpoint_file(p->c, i));
    p->steps = calloc((size_t)n + 1, sizeof *p->steps);
    p->outputs = calloc((size_t)(n * NB_QUANT_MAX_PARTS) + 1, sizeof *p->outputs);
    p->layers = json_object();
    if (!p->steps || !p->outputs || !p->layers) return short_of_memory(p);
    for (int i = first; i < first + count; i++) {
        const nb_container *f = nb_checkpoint_file(p->c, i);
        NB_TRY(take_layers(p, f));
        for (int64_t t = 0; t < nb_container_n_tensors(f); t++)
            NB_TRY(add_step(p, nb_container_tensor(f, t)));
    }
    return plan_metadata(p, nb_checkpoint_file(p->c, first));
}

static void plan_fini(struct plan *p)
{
    free(p->steps);
    free(p->outputs);
    json_decref(p->layers);
    nb_arena_destroy(p->arena);
}

/* ---- carrying it out ---- */

static void let_go(const nb_stored *t)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)t->data;
    uintptr_t end = (begin + t->bytes) / page * page;
    begin = (begin + page - 1) / page * page;
    /* Advice: the mapping is read again if somebody asks. */
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static nb_status tell(nb_quantize_job *job, const nb_stored *t, int64_t bytes)
{
    nb_quantize_progress progress = {.file = t->file, .tensor = t->name};
    const atomic_int *stop = job->s->stop;
    job->bytes_done += bytes;
    progress.bytes = job->bytes_done;
    progress.of = job->bytes_of;
    if (job->args->progress) job->args->progress(job->args->progress_arg, &progress);
    if (stop && atomic_load(stop)) return nb_fail(NB_E_STOPPED, "stopped before the end");
    return NB_OK;
}

/* The largest magnitude of `w`, which is made of `t`; E_DATA if there is none. */
static nb_status measure(nb_quantize_job *job, const nb_stored *t, const nb_weight *w,
                         float *amax)
{
    *amax = nb_weight_amax(job->s, w);
    NB_TRY(nb_stream_sync(job->s));
    if (isfinite(*amax)) return NB_OK;
    return nb_fail(NB_E_DATA, TENSOR_FORMAT "holds a NaN or an infinity", t->file, t->name);
}

/* A model with a NaN in what is only copied is broken too: better to hear it now. */
static nb_status check_finite(nb_quantize_job *job, const nb_stored *t)
{
    int64_t n = t->rank > 1 ? t->shape[0] : 1, count = nb_stored_count(t);
    float amax;
    if (expands(job) || count == 0) return NB_OK;
    if (t->dtype != NB_DTYPE_F32 && t->dtype != NB_DTYPE_F16 && t->dtype != NB_DTYPE_BF16)
        return NB_OK;
    nb_weight w = {.data = t->data,
                   .dtype = t->dtype,
                   .n = n,
                   .k = count / n,
                   .scale = 1.0f,
                   .device = job->s->device};
    return measure(job, t, &w, &amax);
}

static nb_status measure_member(struct plan *p, const char *module, float *amax)
{
    nb_quant_source source;
    int converts;
    float own;
    const nb_stored *t = weight_of(p->c, module);
    if (!t) return NB_OK;
    NB_TRY(nb_quantize_decide(p->job, p->c, p->scope, t, &converts, &source));
    if (!converts) return NB_OK;
    nb_weight w = nb_quant_source_weight(p->job->s, &source);
    NB_TRY(measure(p->job, t, &w, &own));
    if (own > *amax) *amax = own;
    return NB_OK;
}

/* Raises *amax to the largest of all that are fused with the module. */
static nb_status measure_group(struct plan *p, const char *module, float *amax)
{
    nb_quantize_job *job = p->job;
    char member[NB_MODULE_BYTES + 32], group[sizeof job->group];
    size_t bytes;
    const char *const *names = nb_quantize_group(module, &bytes);
    if (!job->shares || !names) return NB_OK;
    snprintf(group, sizeof group, "%.*s%s", (int)bytes, module, names[0]);
    if (strcmp(group, job->group) != 0) {
        for (; *names; names++) {
            nb_arena_mark mark = nb_arena_save(job->s->arena);
            snprintf(member, sizeof member, "%.*s%s", (int)bytes, module, *names);
            nb_status status = measure_member(p, member, amax);
            nb_arena_rewind(job->s->arena, mark);
            NB_TRY(status);
        }
        memcpy(job->group, group, sizeof group);
        job->group_amax = *amax;
    }
    *amax = job->group_amax;
    return NB_OK;
}

static nb_status convert(struct plan *p, const struct step *step, nb_safetensors_writer *out)
{
    nb_quantize_job *job = p->job;
    const nb_quantize_args *args = job->args;
    const void *data[NB_QUANT_MAX_PARTS] = {NULL};
    const float *importance = NULL;
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    nb_quant_source source;
    int converts;
    float amax;
    NB_TRY(nb_quantize_decide(job, p->c, p->scope, step->tensor, &converts, &source));
    nb_weight w = nb_quant_source_weight(job->s, &source);
    NB_TRY(measure(job, step->tensor, &w, &amax));
    NB_TRY(measure_group(p, source.module, &amax));
    if (args->importance)
        importance = args->importance(args->importance_arg, source.module, source.k);
    nb_quant_encode(job->s, &args->target, &w, amax, importance, data);
    NB_TRY(nb_stream_sync(job->s));
    int n = nb_quant_parts(&args->target, source.n, source.k, parts);
    for (int i = 0; i < n; i++)
        NB_TRY(nb_safetensors_writer_put(out, step->first + i, data[i]));
    job->result.n_converted++;
    return NB_OK;
}

static nb_status carry_out(struct plan *p, nb_safetensors_writer *out)
{
    for (int64_t i = 0; i < p->n_steps; i++) {
        const struct step *step = &p->steps[i];
        nb_status status = NB_OK;
        nb_arena_mark mark = nb_arena_save(p->job->s->arena);
        NB_TRY(tell(p->job, step->tensor, 0));
        if (step->what == COPY) {
            status = check_finite(p->job, step->tensor);
            if (!status)
                status = nb_safetensors_writer_put(out, step->first, step->tensor->data);
            p->job->result.n_copied++;
        } else if (step->what == CONVERT) {
            status = convert(p, step, out);
        }
        nb_arena_rewind(p->job->s->arena, mark);
        NB_TRY(status);
        let_go(step->tensor);
        NB_TRY(tell(p->job, step->tensor, (int64_t)step->tensor->bytes));
    }
    return NB_OK;
}

static nb_status write_planned(struct plan *p, const char *path)
{
    nb_safetensors_writer *out;
    nb_folder_remove_leftovers(path);
    NB_TRY(nb_safetensors_writer_open(path, p->outputs, p->n_outputs, p->metadata, &out));
    nb_status status = carry_out(p, out);
    if (!status) return nb_safetensors_writer_commit(out);
    nb_safetensors_writer_abort(out);
    return status;
}

/* Which file holds what, for an index. */
static nb_status note_outputs(const struct plan *p, const char *file, json_t *map,
                              int64_t *total_bytes)
{
    for (int64_t i = 0; i < p->n_outputs; i++) {
        *total_bytes += (int64_t)p->outputs[i].bytes;
        if (map && json_object_set_new(map, p->outputs[i].name, json_string(file)) != 0)
            return short_of_memory(p);
    }
    return NB_OK;
}

static nb_status run_files(nb_quantize_job *job, const nb_checkpoint *c,
                           nb_quantize_scope scope, int first, int count, const char *path,
                           json_t *map, int64_t *total_bytes)
{
    const char *slash = strrchr(path, '/');
    struct plan p = {.job = job, .c = c, .scope = scope};
    int64_t bytes = 0;
    job->group[0] = 0;
    NB_TRY(nb_arena_create(&p.arena));
    nb_status status = plan_files(&p, first, count);
    if (!status) status = write_planned(&p, path);
    if (!status) status = note_outputs(&p, slash ? slash + 1 : path, map, &bytes);
    plan_fini(&p);
    *total_bytes += bytes;
    job->result.bytes_out += bytes;
    return status;
}

nb_status nb_quantize_file(nb_quantize_job *job, const nb_checkpoint *c,
                           nb_quantize_scope scope, const char *path)
{
    int64_t bytes = 0;
    return run_files(job, c, scope, 0, nb_checkpoint_n_files(c), path, NULL, &bytes);
}

nb_status nb_quantize_shards(nb_quantize_job *job, const nb_checkpoint *c,
                             nb_quantize_scope scope, const char *folder, json_t *map,
                             int64_t *total_bytes)
{
    for (int i = 0; i < nb_checkpoint_n_files(c); i++) {
        const nb_container *f = nb_checkpoint_file(c, i);
        const char *from = nb_container_path(f), *slash = strrchr(from, '/');
        char *path = nb_path_join(folder, slash ? slash + 1 : from);
        if (!path) return nb_fail(NB_E_SYSTEM, "%s: out of memory", from);
        nb_status status = run_files(job, c, scope, i, 1, path, map, total_bytes);
        free(path);
        NB_TRY(status);
    }
    return NB_OK;
}
