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
#include "kernels/base/log.h"
#include "models/quantize_job.h"

#define TENSOR_FORMAT "%s: tensor %.300s: "

/* ---- decisions ---- */

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

/* Is `t` something beside a matrix that does not stay as it is? */
static nb_status is_replaced(const nb_quantize_job *job, const nb_quantize_input *in,
                             const nb_stored *t, int *out)
{
    char module[NB_MODULE_BYTES];
    nb_quant_source source;
    nb_quantize_fate fate = NB_FATE_COPY;
    *out = 0;
    if (!nb_quant_is_part(t, module)) return NB_OK;
    const nb_stored *weight = weight_of(in->c, module);
    if (weight) NB_TRY(nb_quantize_decide(job, in, weight, &fate, &source));
    *out = fate != NB_FATE_COPY;
    return NB_OK;
}

/* ---- the plan of one output file ---- */

struct step {
    const nb_stored *tensor;
    enum { COPY, CONVERT, BLOCKS, DROP } what; /* BLOCKS: of GGUF, in no matrix */
    nb_quant_target target;                    /* of CONVERT and BLOCKS */
    int64_t first;                             /* output */
};

struct plan {
    nb_quantize_job *job;
    const nb_quantize_input *in;
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
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", nb_checkpoint_path(p->in->c));
}

static void add_copy(struct plan *p, struct step *step)
{
    step->what = COPY;
    step->first = p->n_outputs;
    p->outputs[p->n_outputs++] = *step->tensor;
}

/* Tensors of a block type that are no matrices: there is nothing to choose. */
static void add_blocks(struct plan *p, struct step *step)
{
    nb_stored t = *step->tensor;
    step->target.format =
        p->job->args->target.format == NB_QUANT_F32 ? NB_QUANT_F32 : NB_QUANT_BF16;
    t.dtype = step->target.format == NB_QUANT_F32 ? NB_DTYPE_F32 : NB_DTYPE_BF16;
    t.bytes = (size_t)nb_stored_count(&t) * nb_dtype_bytes(t.dtype);
    step->what = BLOCKS;
    step->first = p->n_outputs;
    p->outputs[p->n_outputs++] = t;
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

/* A layer that wants unrounded inputs goes on wanting them. */
static json_t *layer_note(const char *format, int exact_inputs)
{
    if (!exact_inputs) return json_pack("{s:s}", "format", format);
    return json_pack("{s:s, s:b}", "format", format, "full_precision_matrix_mult", 1);
}

static nb_status note_layer(struct plan *p, const nb_quant_source *source,
                            const nb_quant_target *target)
{
    static const char *const formats[NB_QUANT_FORMAT_COUNT] = {
        [NB_QUANT_NVFP4] = "nvfp4", [NB_QUANT_FP8] = "float8_e4m3fn"};
    const char *format = target->dialect == NB_FP4_COMFY ? formats[target->format] : NULL;
    json_object_del(p->layers, source->module);
    if (format && json_object_set_new(p->layers, source->module,
                                      layer_note(format, source->tensor->exact_inputs)) != 0)
        return short_of_memory(p);
    return NB_OK;
}

/* What can be wrong with it is said here, before the output is begun. */
static nb_status add_converted(struct plan *p, struct step *step, const nb_quant_source *source,
                               nb_quantize_fate fate)
{
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    step->target = p->job->args->target;
    if (fate == NB_FATE_EXPAND) step->target.format = NB_QUANT_BF16;
    step->target.input_amax =
        fate == NB_FATE_CONVERT ? nb_quantize_input_amax(p->job, source) : 0.0f;
    int n = nb_quant_parts(&step->target, source->n, source->k, parts);
    step->what = CONVERT;
    step->first = p->n_outputs;
    NB_TRY(nb_quant_source_check(p->job->s, source));
    for (int i = 0; i < n; i++) NB_TRY(add_part(p, source->module, &parts[i]));
    if (source->form == NB_SOURCE_ANNOUNCED) {
        nb_quant_part bias = {".bias", NB_DTYPE_F32, 1, {source->n, 0}};
        NB_TRY(add_part(p, source->module, &bias));
    }
    return note_layer(p, source, &step->target);
}

static nb_status add_step(struct plan *p, const nb_stored *t)
{
    struct step *step = &p->steps[p->n_steps++];
    nb_quant_source source;
    nb_quantize_fate fate;
    int replaced;
    step->tensor = t;
    NB_TRY(nb_quantize_decide(p->job, p->in, t, &fate, &source));
    if (fate != NB_FATE_COPY) return add_converted(p, step, &source, fate);
    NB_TRY(is_replaced(p->job, p->in, t, &replaced));
    if (replaced || !t->data) /* the bias of what was announced is made with it */
        step->what = DROP;
    else if (nb_dtype_elements(t->dtype) > 1)
        add_blocks(p, step);
    else
        add_copy(p, step);
    return NB_OK;
}

/* comfy's notes of the input are where those of the output begin, if it has any. */
static nb_status take_layers(struct plan *p, const nb_container *f)
{
    if (!nb_quantize_notes_layers(p->job, p->in)) return NB_OK;
    const char *text = nb_container_metadata(f, "_quantization_metadata");
    json_t *notes = text ? json_loads(text, 0, NULL) : NULL;
    json_t *layers = json_object_get(notes, "layers");
    int failed = json_is_object(layers) && json_object_update(p->layers, layers) != 0;
    json_decref(notes);
    return failed ? short_of_memory(p) : NB_OK;
}

/* The value as text in the arena, under a key of the header. */
static nb_status note(struct plan *p, int *n, const char *key, const json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    char *copy = text ? nb_arena_alloc(p->arena, strlen(text) + 1) : NULL;
    if (copy) memcpy(copy, text, strlen(text) + 1);
    free(text);
    if (!copy) return short_of_memory(p);
    p->metadata[(*n)++] = key;
    p->metadata[(*n)++] = copy;
    return NB_OK;
}

static nb_status note_layers(struct plan *p, int *n)
{
    json_t *notes = json_pack("{s:s, s:O}", "format_version", "1.0", "layers", p->layers);
    nb_status status = note(p, n, "_quantization_metadata", notes);
    json_decref(notes);
    return status;
}

/* Of nunchaku's notes only the model's config is still so. */
static nb_status note_config(struct plan *p, int *n)
{
    json_t *config;
    NB_TRY(nb_quantize_input_config(p->in, &config));
    nb_status status = config ? note(p, n, "config", config) : NB_OK;
    json_decref(config);
    p->metadata[(*n)++] = "model_class";
    p->metadata[(*n)++] = "FluxTransformer2DModel";
    p->metadata[(*n)++] = "format"; /* diffusers asks for it */
    p->metadata[(*n)++] = "pt";
    return status;
}

/* What the file says about itself, but for comfy's notes, which are made anew. */
static nb_status plan_metadata(struct plan *p, const nb_container *f)
{
    enum { OUR_OWN = 4 };
    int n = 0;
    size_t keys = OUR_OWN;
    for (const char *k = NULL; (k = nb_container_metadata_next(f, k));) keys++;
    p->metadata = nb_arena_alloc(p->arena, (2 * keys + 1) * sizeof *p->metadata);
    if (!p->metadata) return NB_E_SYSTEM;
    for (const char *k = NULL; !p->in->outline && (k = nb_container_metadata_next(f, k));) {
        const char *value = nb_container_metadata(f, k);
        if (!value || strcmp(k, "_quantization_metadata") == 0) continue;
        p->metadata[n++] = k;
        p->metadata[n++] = value;
    }
    if (p->in->outline) NB_TRY(note_config(p, &n));
    if (json_object_size(p->layers)) NB_TRY(note_layers(p, &n));
    p->metadata[n] = NULL;
    if (n == 0) p->metadata = NULL;
    return NB_OK;
}

static nb_status plan_alloc(struct plan *p, int64_t n)
{
    p->steps = calloc((size_t)n + 1, sizeof *p->steps);
    p->outputs = calloc((size_t)(n * NB_QUANT_MAX_PARTS) + 1, sizeof *p->outputs);
    p->layers = json_object();
    return p->steps && p->outputs && p->layers ? NB_OK : short_of_memory(p);
}

static nb_status plan_outline(struct plan *p)
{
    int64_t n = nb_checkpoint_n_tensors(p->in->c);
    NB_TRY(plan_alloc(p, n));
    for (int64_t i = 0; i < n; i++) NB_TRY(add_step(p, nb_checkpoint_tensor(p->in->c, i)));
    return plan_metadata(p, nb_checkpoint_file(p->in->files, 0));
}

/* For the files first ... first+count of the checkpoint. */
static nb_status plan_files(struct plan *p, int first, int count)
{
    int64_t n = 0;
    for (int i = first; i < first + count; i++)
        n += nb_container_n_tensors(nb_checkpoint_file(p->in->files, i));
    NB_TRY(plan_alloc(p, n));
    for (int i = first; i < first + count; i++) {
        const nb_container *f = nb_checkpoint_file(p->in->files, i);
        NB_TRY(take_layers(p, f));
        for (int64_t t = 0; t < nb_container_n_tensors(f); t++)
            NB_TRY(add_step(p, nb_container_tensor(f, t)));
    }
    return plan_metadata(p, nb_checkpoint_file(p->in->files, first));
}

static void plan_fini(struct plan *p)
{
    free(p->steps);
    free(p->outputs);
    json_decref(p->layers);
    nb_arena_destroy(p->arena);
}

/* ---- carrying it out ---- */

static void let_go(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data;
    uintptr_t end = (begin + bytes) / page * page;
    begin = (begin + page - 1) / page * page;
    /* Advice: the mapping is read again if somebody asks. */
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* What is made of a tensor that was announced may lie anywhere in the files. */
static void let_go_of(const nb_quantize_input *in, const nb_stored *t)
{
    if (t->data) let_go(t->data, t->bytes);
    for (int i = 0; !t->data && i < nb_checkpoint_n_files(in->files); i++) {
        const nb_buffer *file = nb_container_buffer(nb_checkpoint_file(in->files, i));
        let_go(nb_buffer_data(file), nb_buffer_bytes(file));
    }
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
    if (nb_quantize_expands(job) || count == 0) return NB_OK;
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
    nb_quantize_fate fate;
    nb_weight w;
    const float *bias;
    float own;
    const nb_stored *t = weight_of(p->in->c, module);
    if (!t) return NB_OK;
    NB_TRY(nb_quantize_decide(p->job, p->in, t, &fate, &source));
    if (fate != NB_FATE_CONVERT) return NB_OK;
    NB_TRY(nb_quant_source_weight(p->job->s, p->in->files, &source, &w, &bias));
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

static nb_status encode(struct plan *p, const struct step *step, const nb_weight *w, float amax,
                        const float *importance, nb_safetensors_writer *out, int *n)
{
    const void *data[NB_QUANT_MAX_PARTS] = {NULL};
    nb_quant_part parts[NB_QUANT_MAX_PARTS];
    nb_quant_encode(p->job->s, &step->target, w, amax, importance, data);
    NB_TRY(nb_stream_sync(p->job->s));
    *n = nb_quant_parts(&step->target, w->n, w->k, parts);
    for (int i = 0; i < *n; i++)
        NB_TRY(nb_safetensors_writer_put(out, step->first + i, data[i]));
    return NB_OK;
}

static nb_status convert(struct plan *p, const struct step *step, nb_safetensors_writer *out)
{
    nb_quantize_job *job = p->job;
    const nb_quantize_args *args = job->args;
    const float *importance = NULL, *bias = NULL;
    nb_quant_source source;
    nb_quantize_fate fate;
    nb_weight w;
    float amax;
    int n;
    NB_TRY(nb_quantize_decide(job, p->in, step->tensor, &fate, &source));
    NB_TRY(nb_quant_source_weight(job->s, p->in->files, &source, &w, &bias));
    NB_TRY(measure(job, step->tensor, &w, &amax));
    if (fate == NB_FATE_CONVERT) NB_TRY(measure_group(p, source.module, &amax));
    if (args->importance && fate == NB_FATE_CONVERT)
        importance = args->importance(args->calibration_arg, source.module, source.k);
    NB_TRY(encode(p, step, &w, amax, importance, out, &n));
    if (bias) NB_TRY(nb_safetensors_writer_put(out, step->first + n, bias));
    if (fate == NB_FATE_EXPAND) nb_log(NB_LOG_DEBUG, "%s is kept, as BF16", source.module);
    job->result.n_converted += fate == NB_FATE_CONVERT;
    job->result.n_expanded += fate == NB_FATE_EXPAND;
    job->result.n_input_scales += step->target.input_amax > 0;
    return NB_OK;
}

/* Rows as long as the shape says, or one if blocks run on over them. */
static nb_status expand_blocks(struct plan *p, const struct step *step,
                               nb_safetensors_writer *out)
{
    const nb_stored *t = step->tensor;
    int64_t count = nb_stored_count(t), k = t->rank ? t->shape[t->rank - 1] : count;
    int n;
    if (k % nb_dtype_elements(t->dtype)) k = count;
    nb_weight w = {.data = t->data,
                   .dtype = t->dtype,
                   .n = count / k,
                   .k = k,
                   .scale = 1.0f,
                   .device = p->job->s->device};
    NB_TRY(encode(p, step, &w, 0, NULL, out, &n));
    if (nb_quantize_expands(p->job)) {
        p->job->result.n_converted++;
        return NB_OK;
    }
    nb_log(NB_LOG_DEBUG, "%s is kept, as BF16", t->name);
    p->job->result.n_expanded++;
    return NB_OK;
}

static nb_status take_step(struct plan *p, const struct step *step, nb_safetensors_writer *out)
{
    switch (step->what) {
    case COPY:
        NB_TRY(check_finite(p->job, step->tensor));
        p->job->result.n_copied++;
        return nb_safetensors_writer_put(out, step->first, step->tensor->data);
    case CONVERT:
        return convert(p, step, out);
    case BLOCKS:
        return expand_blocks(p, step, out);
    default:
        return NB_OK;
    }
}

static nb_status carry_out(struct plan *p, nb_safetensors_writer *out)
{
    for (int64_t i = 0; i < p->n_steps; i++) {
        const nb_stored *t = p->steps[i].tensor;
        nb_arena_mark mark = nb_arena_save(p->job->s->arena);
        NB_TRY(tell(p->job, t, 0));
        nb_status status = take_step(p, &p->steps[i], out);
        nb_arena_rewind(p->job->s->arena, mark);
        NB_TRY(status);
        let_go_of(p->in, t);
        NB_TRY(tell(p->job, t, (int64_t)(p->in->share * (double)t->bytes)));
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

/* The files first ... first+count, or the outline, into one. */
static nb_status run_files(nb_quantize_job *job, const nb_quantize_input *in, int first,
                           int count, const char *path, json_t *map, int64_t *total_bytes)
{
    const char *slash = strrchr(path, '/');
    struct plan p = {.job = job, .in = in};
    int64_t bytes = 0;
    job->group[0] = 0;
    NB_TRY(nb_arena_create(&p.arena));
    nb_status status = in->outline ? plan_outline(&p) : plan_files(&p, first, count);
    if (!status) status = write_planned(&p, path);
    if (!status) status = note_outputs(&p, slash ? slash + 1 : path, map, &bytes);
    plan_fini(&p);
    *total_bytes += bytes;
    job->result.bytes_out += bytes;
    return status;
}

nb_status nb_quantize_file(nb_quantize_job *job, const nb_quantize_input *in, const char *path)
{
    int64_t bytes = 0;
    return run_files(job, in, 0, nb_checkpoint_n_files(in->files), path, NULL, &bytes);
}

/* File `i` into one of that name in the folder. */
static nb_status run_shard(nb_quantize_job *job, const nb_quantize_input *in, int i,
                           const char *name, const char *folder, json_t *map,
                           int64_t *total_bytes)
{
    char *path = nb_path_join(folder, name);
    if (!path) return nb_fail(NB_E_SYSTEM, "%s: out of memory", folder);
    nb_status status = run_files(job, in, i, 1, path, map, total_bytes);
    free(path);
    return status;
}

nb_status nb_quantize_shards(nb_quantize_job *job, const nb_quantize_input *in,
                             const char *folder, json_t *map, int64_t *total_bytes)
{
    if (in->outline)
        return run_shard(job, in, 0, "diffusion_pytorch_model.safetensors", folder, map,
                         total_bytes);
    for (int i = 0; i < nb_checkpoint_n_files(in->files); i++) {
        const char *from = nb_container_path(nb_checkpoint_file(in->files, i));
        const char *slash = strrchr(from, '/');
        NB_TRY(run_shard(job, in, i, slash ? slash + 1 : from, folder, map, total_bytes));
    }
    return NB_OK;
}
