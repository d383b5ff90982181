/*
 * How a run of nibble image is told: the JSON object of --json, the lines of -v.
 */
#include <string.h>
#include <sys/resource.h>

#include "cli/image.h"
#include "kernels/ops.h"

/* Most memory that the process ever held, mapped weights included. */
static json_int_t peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (json_int_t)usage.ru_maxrss * 1024 : 0;
}

static json_t *seconds_json(const nb_txt2img_result *result)
{
    json_t *seconds = json_object();
    for (int i = 0; i < NB_STAGE_COUNT; i++)
        json_object_set_new(seconds, nb_stage_name((nb_stage)i), json_real(result->seconds[i]));
    json_object_set_new(seconds, "total", json_real(result->total_seconds));
    return seconds;
}

/* A path that is not UTF-8 is null. */
static json_t *loras_json(const nb_pipeline_info *info)
{
    json_t *loras = json_array();
    for (int i = 0; i < info->n_loras; i++) {
        const nb_pipeline_lora *l = &info->loras[i];
        json_t *path = json_string(l->path);
        json_array_append_new(loras,
                              json_pack("{s:o, s:f, s:s}", "path", path ? path : json_null(),
                                        "weight", l->weight, "digest", l->digest));
    }
    return loras;
}

json_t *nb_image_json(const struct image_run *run, const nb_pipeline *pipeline,
                      const nb_stream *stream, const nb_txt2img_result *result)
{
    const nb_txt2img_request *r = &result->request;
    const nb_pipeline_info *info = nb_pipeline_get_info(pipeline);
    const char *why = r->compute_why && *r->compute_why ? r->compute_why : NULL;
    json_t *json = json_pack("{s:O, s:s, s:o, s:I, s:I, s:I, s:i, s:f, s:f}", "images",
                             run->images, "model", info->directory, "loras", loras_json(info),
                             "seed", (json_int_t)r->seed, "width", (json_int_t)r->width,
                             "height", (json_int_t)r->height, "steps", r->steps, "guidance",
                             r->guidance, "true_cfg", r->true_cfg);
    json_t *machine = json_pack(
        "{s:s, s:s, s:s?, s:i, s:s, s:s, s:I, s:I, s:o}", "device",
        nb_device_name(stream->device), "compute", nb_compute_name(stream->compute),
        "compute_why", why, "threads", stream->threads, "rng", nb_rng_name(r->rng),
        "noise_dtype", nb_noise_name(r->noise), "peak_memory_bytes", peak_bytes(),
        "arena_peak_bytes", (json_int_t)result->peak_bytes, "seconds", seconds_json(result));
    if (json && machine) json_object_update(json, machine);
    json_decref(machine);
    return json;
}

void nb_image_say_variants(nb_console *console, const nb_stream *stream)
{
    static const char *const ops[] = {"linear",   "attn",       "conv2d", "layer_norm",
                                      "rms_norm", "group_norm", "rope"};
    char line[512];
    size_t n = 0;
    for (size_t i = 0; i < NB_COUNT(ops) && n < sizeof line; i++)
        n += (size_t)snprintf(line + n, sizeof line - n, "%s%s %s", i ? ", " : "", ops[i],
                              nb_ops_variant_name(stream->device, ops[i], stream->compute));
    nb_console_say(console, NB_LOG_DEBUG, "%d thread%s; %s", stream->threads,
                   stream->threads == 1 ? "" : "s", line);
    if (stream->compute <= NB_COMPUTE_BF16) return;
    nb_console_say(
        console, NB_LOG_DEBUG,
        "%s is for quantised weights alone: linears of others, and of those whose file wants "
        "unrounded inputs, at bf16, %s; of FP8 at a8, %s",
        nb_compute_name(stream->compute),
        nb_ops_variant_name(stream->device, "linear", NB_COMPUTE_BF16),
        nb_ops_variant_name(stream->device, "linear", NB_COMPUTE_A8));
}

void nb_image_say_times(nb_console *console, const nb_txt2img_result *result)
{
    for (int i = 0; i < NB_STAGE_COUNT; i++)
        nb_console_say(console, NB_LOG_DEBUG, "%-9s %8.3f s", nb_stage_name((nb_stage)i),
                       result->seconds[i]);
    nb_console_say(console, NB_LOG_DEBUG,
                   "%-9s %8.3f s, peak %.1f MB of activations, %.1f MB in all", "total",
                   result->total_seconds, 1e-6 * (double)result->peak_bytes,
                   1e-6 * (double)peak_bytes());
}
