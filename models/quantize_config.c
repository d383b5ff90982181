/*
 * What configurations say about a quantisation, key for key as modelopt 0.47 and
 * compressed-tensors 0.20 write it, for loaders tell by it how to read the weights.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "models/quantize_job.h"

static nb_status short_of_memory(const char *path)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
}

/* Modules with a weight matrix, by name. */
struct layers {
    json_t *kept;   /* it stays as it is */
    json_t *unseen; /* it is converted, and no scale of its inputs is known */
    int64_t n_seen; /* one is */
};

/* In compressed-tensors' list tables have no place, which are no linear layers. */
static nb_status list_layers(const nb_quantize_job *job, const nb_quantize_input *in,
                             struct layers *layers)
{
    int tables = job->args->target.dialect == NB_FP4_MODELOPT;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(in->c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(in->c, i);
        char module[NB_MODULE_BYTES];
        nb_quant_source source;
        nb_quantize_fate fate;
        if (!nb_quant_module_of(t, module)) continue;
        NB_TRY(nb_quantize_decide(job, in, t, &fate, &source));
        int converted = fate == NB_FATE_CONVERT;
        int seen = converted && nb_quantize_input_amax(job, &source) > 0;
        layers->n_seen += seen;
        if (seen || (!converted && !tables && nb_quantize_is_table(module))) continue;
        json_t *list = converted ? layers->unseen : layers->kept;
        if (json_array_append_new(list, json_string(module)) != 0)
            return short_of_memory(nb_checkpoint_path(in->c));
    }
    return NB_OK;
}

/* ---- modelopt ---- */

static const char *modelopt_algorithm(nb_quant_format format)
{
    static const char *const names[NB_QUANT_FORMAT_COUNT] = {"NVFP4", "MXFP4", "FP8", "", ""};
    return names[format];
}

static json_t *modelopt_producer(void)
{
    return json_pack("{s:s, s:s}", "name", "modelopt", "version", "0.47.0");
}

static json_t *modelopt_numbers(nb_quant_format format)
{
    if (format == NB_QUANT_FP8)
        return json_pack("{s:b, s:i, s:s}", "dynamic", 0, "num_bits", 8, "type", "float");
    return json_pack("{s:b, s:i, s:s, s:i}", "dynamic", 0, "num_bits", 4, "type", "float",
                     "group_size", (int)nb_quant_multiple(format));
}

/* The block of config.json. */
static json_t *modelopt_block(nb_quant_format format, json_t *kept)
{
    return json_pack("{s:{s:{s:o, s:o, s:[s]}}, s:O, s:s, s:o, s:s}", "config_groups",
                     "group_0", "input_activations", modelopt_numbers(format), "weights",
                     modelopt_numbers(format), "targets", "Linear", "ignore", kept,
                     "quant_algo", modelopt_algorithm(format), "producer", modelopt_producer(),
                     "quant_method", "modelopt");
}

/* hf_quant_config.json */
static json_t *modelopt_file(nb_quant_format format, json_t *kept)
{
    json_t *quantization = json_pack("{s:s, s:n}", "quant_algo", modelopt_algorithm(format),
                                     "kv_cache_quant_algo");
    if (quantization && format != NB_QUANT_FP8)
        json_object_set_new(quantization, "group_size",
                            json_integer((json_int_t)nb_quant_multiple(format)));
    if (quantization) json_object_set(quantization, "exclude_modules", kept);
    return json_pack("{s:o, s:o}", "producer", modelopt_producer(), "quantization",
                     quantization);
}

/* ---- compressed-tensors ---- */

static json_t *compressed_weights(nb_quant_format format)
{
    if (format == NB_QUANT_FP8)
        return json_pack("{s:b, s:n, s:i, s:s, s:b, s:s}", "dynamic", 0, "group_size",
                         "num_bits", 8, "strategy", "tensor", "symmetric", 1, "type", "float");
    int is_nvfp4 = format == NB_QUANT_NVFP4;
    return json_pack("{s:b, s:i, s:i, s:s, s:s, s:b, s:s}", "dynamic", 0, "group_size",
                     (int)nb_quant_multiple(format), "num_bits", 4, "scale_dtype",
                     is_nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8", "strategy",
                     is_nvfp4 ? "tensor_group" : "group", "symmetric", 1, "type", "float");
}

/* Inputs whose scale is in the file; block scales of NVFP4 are found at run time. */
static json_t *compressed_inputs(nb_quant_format format)
{
    if (format == NB_QUANT_FP8)
        return json_pack("{s:b, s:n, s:i, s:s, s:s, s:b, s:s}", "dynamic", 0, "group_size",
                         "num_bits", 8, "observer", "static_minmax", "strategy", "tensor",
                         "symmetric", 1, "type", "float");
    return json_pack("{s:s, s:i, s:i, s:s, s:s, s:s, s:b, s:s}", "dynamic", "local",
                     "group_size", (int)nb_quant_multiple(format), "num_bits", 4, "observer",
                     "static_minmax", "scale_dtype", "torch.float8_e4m3fn", "strategy",
                     "tensor_group", "symmetric", 1, "type", "float");
}

static const char *compressed_name(nb_quant_format format)
{
    static const char *const names[NB_QUANT_FORMAT_COUNT] = {
        "nvfp4-pack-quantized", "mxfp4-pack-quantized", "float-quantized", "", ""};
    return names[format];
}

static json_t *compressed_group(nb_quant_format format, json_t *targets, int has_inputs)
{
    return json_pack("{s:s, s:o, s:n, s:o, s:o}", "format", compressed_name(format),
                     "input_activations", has_inputs ? compressed_inputs(format) : json_null(),
                     "output_activations", "targets", targets, "weights",
                     compressed_weights(format));
}

/* Layers whose inputs calibration has not seen are a group of their own: a name counts for more
 * than the class that all have. */
static json_t *compressed_groups(nb_quant_format format, const struct layers *layers)
{
    json_t *all = json_pack("[s]", "Linear");
    if (layers->n_seen == 0 || json_array_size(layers->unseen) == 0)
        return json_pack("{s:o}", "group_0", compressed_group(format, all, layers->n_seen > 0));
    return json_pack("{s:o, s:o}", "group_0", compressed_group(format, all, 1), "group_1",
                     compressed_group(format, json_incref(layers->unseen), 0));
}

static json_t *compressed_block(nb_quant_format format, const struct layers *layers)
{
    return json_pack("{s:o, s:s, s:n, s:O, s:n, s:s, s:s, s:{}, s:{}, s:s}", "config_groups",
                     compressed_groups(format, layers), "format", compressed_name(format),
                     "global_compression_ratio", "ignore", layers->kept, "kv_cache_scheme",
                     "quant_method", "compressed-tensors", "quantization_status", "compressed",
                     "sparsity_config", "transform_config", "version", "0.20.0");
}

/* ---- files ---- */

nb_status nb_quantize_write_json(const char *path, const json_t *value)
{
    nb_file_writer *w;
    char *text = json_dumps(value, JSON_INDENT(2));
    if (!text) return short_of_memory(path);
    nb_status status = nb_file_writer_open(path, &w);
    if (!status) {
        status = nb_file_writer_write(w, text, strlen(text));
        if (!status) status = nb_file_writer_write(w, "\n", 1);
        if (status)
            nb_file_writer_abort(w);
        else
            status = nb_file_writer_commit(w);
    }
    free(text);
    return status;
}

static nb_status write_in(const char *folder, const char *name, const json_t *value)
{
    char *path = nb_path_join(folder, name);
    if (!path) return short_of_memory(folder);
    nb_status status = nb_quantize_write_json(path, value);
    free(path);
    return status;
}

/* Puts the block into the configuration; comfy and plain formats have none. */
static nb_status describe(const nb_quantize_job *job, const nb_quantize_input *in,
                          json_t *config, const struct layers *layers, const char *folder)
{
    nb_quant_format format = job->args->target.format;
    nb_fp4_rule dialect = job->args->target.dialect;
    int is_plain = format == NB_QUANT_F32 || format == NB_QUANT_BF16;
    json_object_del(config, "quantization_config");
    if (in->outline &&
        json_object_set_new(config, "_class_name", json_string("FluxTransformer2DModel")) != 0)
        return short_of_memory(folder);
    if (is_plain || dialect == NB_FP4_COMFY) return NB_OK;
    json_t *block = dialect == NB_FP4_MODELOPT ? modelopt_block(format, layers->kept)
                                               : compressed_block(format, layers);
    if (json_object_set_new(config, "quantization_config", block) != 0)
        return short_of_memory(folder);
    if (dialect != NB_FP4_MODELOPT || in->scope != NB_SCOPE_LLM) return NB_OK;
    json_t *file = modelopt_file(format, layers->kept);
    nb_status status =
        file ? write_in(folder, "hf_quant_config.json", file) : short_of_memory(folder);
    json_decref(file);
    return status;
}

nb_status nb_quantize_config(nb_quantize_job *job, const nb_quantize_input *in,
                             const char *from, const char *folder)
{
    struct layers layers = {.n_seen = 0};
    json_t *config;
    NB_TRY(nb_json_load_object(from, &config));
    nb_status status =
        json_is_object(config) ? NB_OK : nb_fail(NB_E_DATA, "%s: is not a JSON object", from);
    layers.kept = json_array();
    layers.unseen = json_array();
    if (!status && (!layers.kept || !layers.unseen)) status = short_of_memory(from);
    if (!status) status = list_layers(job, in, &layers);
    if (!status) status = describe(job, in, config, &layers, folder);
    if (!status) status = write_in(folder, "config.json", config);
    json_decref(layers.unseen);
    json_decref(layers.kept);
    json_decref(config);
    return status;
}
