#include "pipeline/recipe.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

/* ---- JSON ---------------------------------------------------------------------------------
 */

static json_t *seed_json(uint64_t seed)
{
    char digits[24];
    if (seed <= INT64_MAX) return json_integer((json_int_t)seed);
    snprintf(digits, sizeof digits, "%" PRIu64, seed);
    return json_string(digits);
}

static json_t *string_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static json_t *rng_json(const nb_txt2img_request *r)
{
    if (r->rng != NB_RNG_TORCH_CUDA) return json_pack("{s:s}", "kind", nb_rng_name(r->rng));
    return json_pack("{s:s, s:i, s:i}", "kind", nb_rng_name(r->rng), "sms", r->rng_sms,
                     "sm_threads", r->rng_sm_threads);
}

static json_t *init_json(const nb_recipe_args *a)
{
    if (!a->request->init_latents) return json_null();
    return json_pack("{s:s, s:s}", "path", a->request->init_latents, "sha256", a->init_sha256);
}

static json_t *model_json(const nb_recipe_args *a)
{
    json_t *model = json_pack("{s:s}", "name", a->info->name);
    for (int i = 0; model && i < NB_PART_COUNT; i++)
        json_object_set_new(model, nb_part_name((nb_part)i), json_string(a->digests[i]));
    return model;
}

static json_t *loras_json(const nb_recipe_args *a)
{
    json_t *loras = json_array();
    for (int i = 0; i < a->info->n_loras; i++) {
        const nb_pipeline_lora *l = &a->info->loras[i];
        json_array_append_new(loras, json_pack("{s:s, s:f, s:s}", "name", l->name, "weight",
                                               l->weight, "digest", l->digest));
    }
    return loras;
}

static json_t *kernels_json(const nb_stream *s)
{
    static const char *const ops[] = {"linear", "attn", "conv2d"};
    json_t *kernels = json_object();
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        json_object_set_new(kernels, ops[i],
                            json_string(nb_ops_variant_name(s->device, ops[i], s->compute)));
    return kernels;
}

/* What was asked for. */
static void set_request(json_t *o, const nb_recipe_args *a)
{
    const nb_txt2img_request *r = a->request;
    json_object_set_new(o, "nibble", json_string(r->version));
    json_object_set_new(o, "task", json_string("txt2img"));
    json_object_set_new(o, "prompt", json_string(r->prompt));
    json_object_set_new(o, "negative_prompt", string_or_null(r->negative_prompt));
    json_object_set_new(o, "true_cfg", json_real(r->true_cfg));
    json_object_set_new(o, "width", json_integer(r->width));
    json_object_set_new(o, "height", json_integer(r->height));
    json_object_set_new(o, "steps", json_integer(r->steps));
    json_object_set_new(o, "guidance",
                        a->info->flux.guidance ? json_real(r->guidance) : json_null());
    json_object_set_new(o, "t5_length", json_integer(r->t5_length));
    json_object_set_new(o, "seed", seed_json(a->picture->seed));
    json_object_set_new(o, "draw", json_integer(a->picture->draw));
    json_object_set_new(o, "index", json_integer(a->picture->index));
    json_object_set_new(o, "batch_count", json_integer(r->batch_count));
    json_object_set_new(o, "seed_step", json_boolean(r->seed_step));
    json_object_set_new(o, "rng", rng_json(r));
    json_object_set_new(o, "noise", json_string(nb_noise_name(r->noise)));
    json_object_set_new(o, "init_latents", init_json(a));
}

/* What it was made with, and what came out. */
static void set_making(json_t *o, const nb_recipe_args *a)
{
    json_object_set_new(o, "vae_tiled", json_boolean(a->tiled));
    json_object_set_new(o, "model", model_json(a));
    json_object_set_new(o, "loras", loras_json(a));
    json_object_set_new(o, "device", json_string(nb_device_name(a->stream->device)));
    json_object_set_new(o, "compute", json_string(nb_compute_name(a->stream->compute)));
    const char *why = a->request->compute_why;
    json_object_set_new(o, "compute_why", string_or_null(why && *why ? why : NULL));
    json_object_set_new(o, "kernels", kernels_json(a->stream));
    json_object_set_new(o, "pixels", json_string(a->picture->sha256));
}

char *nb_recipe_json(const nb_recipe_args *a)
{
    json_t *o = json_object();
    if (!o) return NULL;
    set_request(o, a);
    set_making(o, a);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

/* ---- A1111 --------------------------------------------------------------------------------
 */

/* A value with a comma, a colon or a line break is quoted as in JSON, so that readers that
 * split at commas get it back whole. */
static void print_value(FILE *f, const char *key, const char *value)
{
    char *quoted = NULL;
    if (strpbrk(value, ",:\n")) {
        json_t *string = json_string(value);
        quoted = json_dumps(string, JSON_ENCODE_ANY);
        json_decref(string);
    }
    fprintf(f, ", %s: %s", key, quoted ? quoted : value);
    free(quoted);
}

/* <lora:NAME:WEIGHT> behind the prompt, and their hashes among the settings. */
static void print_lora_tags(FILE *f, const nb_pipeline_info *info)
{
    for (int i = 0; i < info->n_loras; i++)
        fprintf(f, " <lora:%s:%g>", info->loras[i].name, info->loras[i].weight);
}

static void print_lora_hashes(FILE *f, const nb_pipeline_info *info)
{
    char *text = NULL;
    size_t bytes;
    FILE *hashes = info->n_loras ? open_memstream(&text, &bytes) : NULL;
    if (!hashes) return;
    for (int i = 0; i < info->n_loras; i++)
        fprintf(hashes, "%s%s: %.12s", i ? ", " : "", info->loras[i].name,
                info->loras[i].digest);
    if (fclose(hashes) == 0) print_value(f, "Lora hashes", text);
    free(text);
}

static void print_parameters(FILE *f, const nb_recipe_args *a)
{
    const nb_txt2img_request *r = a->request;
    const nb_picture *p = a->picture;
    fputs(r->prompt, f);
    print_lora_tags(f, a->info);
    fputc('\n', f);
    if (r->negative_prompt && *r->negative_prompt)
        fprintf(f, "Negative prompt: %s\n", r->negative_prompt);
    fprintf(f, "Steps: %d, Sampler: Euler, Schedule type: Simple, CFG scale: %g", r->steps,
            r->true_cfg);
    if (a->info->flux.guidance) fprintf(f, ", Distilled CFG Scale: %g", r->guidance);
    fprintf(f, ", Seed: %" PRIu64 ", Size: %" PRId64 "x%" PRId64, p->seed, p->width, p->height);
    if (r->batch_count > 1 && !r->seed_step)
        fprintf(f, ", Batch size: %d, Batch pos: %d", r->batch_count, p->index);
    fprintf(f, ", Model hash: %.10s", a->digests[NB_PART_FLUX]);
    print_value(f, "Model", a->info->name);
    print_lora_hashes(f, a->info);
    fprintf(f, ", Version: nibble %s", r->version);
}

char *nb_recipe_parameters(const nb_recipe_args *a)
{
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return NULL;
    print_parameters(f, a);
    int bad = ferror(f);
    if (fclose(f) != 0 || bad) {
        free(text);
        return NULL;
    }
    return text;
}
