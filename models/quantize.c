/*
 * What comes in decides what goes out: a file, a folder with one checkpoint, a pipeline of
 * them. Folders are filled under a temporary name.
 */
#include "models/quantize.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/folder.h"
#include "kernels/base/json.h"
#include "models/quantize_job.h"

static const char FILE_SUFFIX[] = ".safetensors", INDEX_SUFFIX[] = ".safetensors.index.json";

static nb_status short_of_memory(const char *path)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
}

/* Weights in any form, which do not belong beside converted ones. */
static int is_weight_file(const char *name)
{
    static const char *const suffixes[] = {".safetensors", ".index.json", ".bin",  ".pt",
                                           ".pth",         ".ckpt",       ".gguf", ".msgpack",
                                           ".h5",          ".onnx"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (nb_name_ends_with(name, suffixes[i])) return 1;
    return 0;
}

/* ---- one component ---- */

struct component {
    nb_quantize_job *job;
    const nb_quantize_input *in;
    const char *folder; /* to write to */
    json_t *map;        /* weight_map */
    int64_t total_bytes;
};

static nb_status write_index(const struct component *k, const char *from, const char *to)
{
    json_t *index;
    NB_TRY(nb_json_load_object(from, &index));
    json_t *metadata = json_object_get(index, "metadata");
    metadata = json_is_object(metadata) ? json_incref(metadata) : json_object();
    int failed = json_object_set_new(metadata, "total_size",
                                     json_integer((json_int_t)k->total_bytes)) != 0;
    json_t *out =
        failed ? NULL : json_pack("{s:O, s:O}", "metadata", metadata, "weight_map", k->map);
    nb_status status = out ? nb_quantize_write_json(to, out) : short_of_memory(to);
    json_decref(out);
    json_decref(metadata);
    json_decref(index);
    return status;
}

/* A folder may hold an index although one whole file is what was read. */
static int is_indexed(const nb_checkpoint *c)
{
    return nb_checkpoint_n_files(c) > 1 ||
           strstr(nb_container_path(nb_checkpoint_file(c, 0)), "-of-") != NULL;
}

/* They describe what was read, not what is written. */
static int is_of_quantization(const char *name)
{
    return strcmp(name, "hf_quant_config.json") == 0 || strcmp(name, "comfy_config.json") == 0;
}

static nb_status take_entry(void *arg, const char *path, const char *name)
{
    struct component *k = arg;
    nb_status status = NB_OK;
    char *to = nb_path_join(k->folder, name);
    if (!to) return short_of_memory(path);
    if (strcmp(name, "config.json") == 0)
        status = nb_quantize_config(k->job, k->in, path, k->folder);
    else if (nb_name_ends_with(name, INDEX_SUFFIX) && is_indexed(k->in->files))
        status = write_index(k, path, to);
    else if (nb_file_is_directory(path))
        status = nb_folder_copy(path, to);
    else if (!is_weight_file(name) && !is_of_quantization(name))
        status = nb_file_copy(path, to);
    free(to);
    return status;
}

/* The checkpoint in folder `from` and all that lies beside it, to folder `to`. */
static nb_status quantize_component(nb_quantize_job *job, const nb_quantize_input *in,
                                    const char *from, const char *to)
{
    struct component k = {.job = job, .in = in, .folder = to};
    k.map = json_object();
    if (!k.map) return short_of_memory(to);
    job->shares = job->args->target.dialect == NB_FP4_MODELOPT;
    nb_status status = nb_folder_make(to);
    if (!status) status = nb_quantize_shards(job, in, to, k.map, &k.total_bytes);
    if (!status) status = nb_folder_each(from, take_entry, &k);
    json_decref(k.map);
    return status;
}

/* A folder with a checkpoint: to a folder, or to a file. */
static nb_status quantize_alone(nb_quantize_job *job, const nb_quantize_input *in,
                                const char *from, const char *to)
{
    nb_folder_writer *folder;
    if (nb_name_ends_with(to, FILE_SUFFIX)) {
        job->shares = job->args->target.dialect == NB_FP4_MODELOPT;
        return nb_quantize_file(job, in, to);
    }
    NB_TRY(nb_folder_writer_open(to, &folder));
    nb_status status = quantize_component(job, in, from, nb_folder_writer_path(folder));
    if (!status) return nb_folder_writer_commit(folder);
    nb_folder_writer_abort(folder);
    return status;
}

/* ---- a pipeline ---- */

static const char *const transformer_only[] = {"transformer"};

struct pipeline {
    nb_quantize_job *job;
    const char *from, *to;
    const char *const *names; /* components to be quantised */
    int n_names;
    nb_quantize_input *inputs; /* of each */
};

static int find_component(const struct pipeline *p, const char *name)
{
    for (int i = 0; i < p->n_names; i++)
        if (strcmp(p->names[i], name) == 0) return i;
    return -1;
}

static nb_status open_components(struct pipeline *p)
{
    for (int i = 0; i < p->n_names; i++) {
        char *path = nb_path_join(p->from, p->names[i]);
        if (!path) return short_of_memory(p->from);
        nb_status status = !*p->names[i] || strchr(p->names[i], '/')
                               ? nb_fail(NB_E_USAGE, "\"%.60s\" is no component", p->names[i])
                           : nb_file_is_directory(path)
                               ? nb_quantize_input_open(path, &p->inputs[i])
                               : nb_fail(NB_E_NOINPUT, "%s: no such component", path);
        free(path);
        NB_TRY(status);
        if (find_component(p, p->names[i]) != i)
            return nb_fail(NB_E_USAGE, "component %.60s is named twice", p->names[i]);
        p->job->bytes_of += nb_quantize_input_bytes(&p->inputs[i]);
    }
    return NB_OK;
}

static nb_status take_part(void *arg, const char *path, const char *name)
{
    const struct pipeline *p = arg;
    int index = find_component(p, name);
    nb_status status = NB_OK;
    char *to = nb_path_join(p->to, name);
    if (!to) return short_of_memory(path);
    if (index >= 0)
        status = quantize_component(p->job, &p->inputs[index], path, to);
    else if (nb_file_is_directory(path))
        status = nb_folder_copy(path, to);
    else if (!is_weight_file(name))
        status = nb_file_copy(path, to);
    free(to);
    return status;
}

static nb_status fill_pipeline(struct pipeline *p, const char *to)
{
    nb_folder_writer *folder;
    NB_TRY(open_components(p));
    NB_TRY(nb_folder_writer_open(to, &folder));
    p->to = nb_folder_writer_path(folder);
    nb_status status = nb_folder_each(p->from, take_part, p);
    if (!status) return nb_folder_writer_commit(folder);
    nb_folder_writer_abort(folder);
    return status;
}

static nb_status quantize_pipeline(nb_quantize_job *job)
{
    const nb_quantize_args *a = job->args;
    struct pipeline p = {.job = job, .from = a->input};
    p.names = a->n_components ? a->components : transformer_only;
    p.n_names = a->n_components ? a->n_components : 1;
    if (nb_name_ends_with(a->output, FILE_SUFFIX))
        return nb_fail(NB_E_USAGE, "%s: a pipeline does not fit into a file; name a folder",
                       a->output);
    p.inputs = calloc((size_t)p.n_names, sizeof *p.inputs);
    if (!p.inputs) return short_of_memory(a->input);
    nb_status status = fill_pipeline(&p, a->output);
    for (int i = 0; i < p.n_names; i++) nb_quantize_input_close(&p.inputs[i]);
    free(p.inputs);
    return status;
}

/* ---- all of them ---- */

static nb_status quantize_checkpoint(nb_quantize_job *job)
{
    const char *from = job->args->input, *out = job->args->output;
    nb_quantize_input in;
    if (job->args->n_components)
        return nb_fail(NB_E_USAGE, "%s: has no components to choose from", from);
    NB_TRY(nb_quantize_input_open(from, &in));
    nb_status status;
    job->bytes_of = nb_quantize_input_bytes(&in);
    if (nb_file_is_directory(from)) {
        status = quantize_alone(job, &in, from, out);
    } else if (nb_file_is_directory(out)) {
        status = nb_fail(NB_E_CANTCREATE, "%s: is a folder, and %s a file", out, from);
    } else {
        in.scope = NB_SCOPE_FILE;
        status = nb_quantize_file(job, &in, out);
    }
    nb_quantize_input_close(&in);
    return status;
}

/* The output may not lie in the folder that is read, nor be what is read. */
static nb_status check_apart(const char *in, const char *out)
{
    char inside[PATH_MAX], outside[PATH_MAX], *folder = strdup(out), *slash;
    if (!folder) return short_of_memory(out);
    for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/'; n--) folder[n - 1] = 0;
    slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    nb_status status = NB_OK;
    if (!realpath(in, inside)) {
        status = nb_fail(NB_E_NOINPUT, "%s: no such file or folder", in);
    } else if (!realpath(slash ? folder : ".", outside)) {
        status = nb_fail(NB_E_CANTCREATE, "%s: its folder is not there", out);
    } else {
        size_t n = strlen(inside);
        if (strncmp(outside, inside, n) == 0 && (outside[n] == '/' || !outside[n]))
            status = nb_fail(NB_E_USAGE, "%s: lies in %s, which is read", out, in);
        else if (realpath(out, outside) && strcmp(inside, outside) == 0)
            status = nb_fail(NB_E_USAGE, "%s: is what is read", out);
    }
    free(folder);
    return status;
}

nb_status nb_quantize(nb_stream *s, const nb_quantize_args *args, nb_quantize_result *result)
{
    nb_quantize_job job = {.s = s, .args = args};
    const nb_quant_target *t = &args->target;
    if (t->format == NB_QUANT_MXFP4 && t->dialect == NB_FP4_COMFY)
        return nb_fail(NB_E_USAGE, "comfy has no MXFP4; take modelopt or compressed-tensors");
    if (t->format != NB_QUANT_NVFP4 && t->method != NB_FP4_MAX)
        return nb_fail(NB_E_USAGE,
                       "only NVFP4 has scales to choose by another method than max");
    NB_TRY(check_apart(args->input, args->output));
    char *index = nb_path_join(args->input, "model_index.json");
    if (!index) return short_of_memory(args->input);
    int is_pipeline = nb_file_exists(index);
    free(index);
    NB_TRY(is_pipeline ? quantize_pipeline(&job) : quantize_checkpoint(&job));
    job.result.bytes_in = job.bytes_of;
    *result = job.result;
    return NB_OK;
}
