/*
 * A prompt's way to a PNG.
 *
 * Text states come first and their encoders are closed before the transformer's weights are
 * touched. Each picture then begins with the arena where the text states end: what is the same
 * over the steps is computed anew for each picture, which costs a hundredth of its steps and
 * leaves the VAE, whose activations are the largest of all, the whole memory of the
 * transformer's.
 */
#include "pipeline/txt2img.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/file.h"
#include "kernels/base/log.h"
#include "kernels/base/sha256.h"
#include "kernels/elementwise.h"
#include "pipeline/dump.h"
#include "pipeline/latents.h"
#include "pipeline/pixels.h"
#include "pipeline/png.h"
#include "pipeline/recipe.h"

static const char *const stage_names[NB_STAGE_COUNT] = {
    "tokenize", "clip", "t5", "prepare", "condition", "denoise", "decode"};

const char *nb_stage_name(nb_stage stage)
{
    return stage_names[stage];
}

/* One prompt's way through the encoders. */
struct text {
    const char *prompt;
    nb_token_ids clip_ids, t5_ids;
    nb_tensor states, pooled; /* [S_t, text_dim], [pooled_dim] */
};

enum { POSITIVE, NEGATIVE, N_TEXTS };
static const double MOST_LATENTS = 10; /* root mean square that goes without a warning */

struct job {
    nb_pipeline *p;
    const nb_pipeline_info *info;
    nb_stream *s;
    const nb_txt2img_callbacks *callbacks;
    nb_txt2img_result *result;
    const nb_txt2img_request *r; /* resolved */
    nb_latent_shape shape;
    int n_texts; /* 2 with true CFG */
    struct text texts[N_TEXTS];
    float *sigmas, *times; /* [N+1], [N] */
    nb_start *start;
    nb_dump *dump; /* NULL: not asked for */
    int n_dumped;  /* pictures of a dump */
    char digests[NB_PART_COUNT][65], init_sha256[65];
    float *packed, *planes, *image; /* host copies of one picture's latents and pixels */
    uint8_t *rgb;
    struct timespec began;
    nb_stage stage;
    int picture; /* index of the current one */
};

/* ---- time and progress --------------------------------------------------------------------
 */

static double seconds_since(const struct timespec *then)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - then->tv_sec) + 1e-9 * (double)(now.tv_nsec - then->tv_nsec);
}

static void tell(const struct job *j, int step, int of)
{
    if (j->callbacks->progress)
        j->callbacks->progress(j->callbacks->arg, j->stage, j->picture, step, of,
                               seconds_since(&j->began));
}

static void begin_stage(struct job *j, nb_stage stage, int of)
{
    j->stage = stage;
    clock_gettime(CLOCK_MONOTONIC, &j->began);
    tell(j, 0, of);
}

/* Also on failure: the time was spent. */
static void end_stage(struct job *j)
{
    j->result->seconds[j->stage] += seconds_since(&j->began);
}

/* Waits for the device, and lets the stop flag end work that never reached a parallel loop. */
static nb_status checkpoint(struct job *j)
{
    if (j->s->stop && atomic_load_explicit(j->s->stop, memory_order_relaxed))
        nb_stream_fault(j->s, NB_E_STOPPED, "stopped before the end");
    return nb_stream_sync(j->s);
}

/* ---- text ---------------------------------------------------------------------------------
 */

static nb_status tokenize_one(struct job *j, struct text *t)
{
    NB_TRY(nb_pipeline_clip_ids(j->p, t->prompt, &t->clip_ids));
    NB_TRY(nb_pipeline_t5_ids(j->p, t->prompt, j->r->t5_length, &t->t5_ids));
    if (t->t5_ids.n_cut)
        nb_log(NB_LOG_WARN,
               "the prompt is longer than %" PRId64 " T5 tokens: the last %" PRId64
               " are left out",
               j->r->t5_length, t->t5_ids.n_cut);
    if (t->clip_ids.n_cut)
        nb_log(NB_LOG_INFO,
               "the prompt is longer than CLIP's %" PRId64
               " tokens: CLIP does not see the last %" PRId64 ", T5 does",
               t->clip_ids.n, t->clip_ids.n_cut);
    return NB_OK;
}

static nb_status tokenize(struct job *j)
{
    for (int i = 0; i < j->n_texts; i++) NB_TRY(tokenize_one(j, &j->texts[i]));
    j->result->clip_used = j->texts[POSITIVE].clip_ids.n_used;
    j->result->t5_used = j->texts[POSITIVE].t5_ids.n_used;
    j->result->text_tokens = j->r->t5_length;
    return NB_OK;
}

/* What one encoder makes of the prompts: a NaN is told by its name, not the transformer's. */
static nb_status check_states(struct job *j, nb_part part)
{
    for (int i = 0; i < j->n_texts; i++) {
        const struct text *t = &j->texts[i];
        nb_tensor states = part == NB_PART_CLIP ? t->pooled : t->states;
        float *values = malloc((size_t)nb_tensor_count(states) * sizeof *values);
        if (!values) return nb_fail(NB_E_SYSTEM, "out of memory for text states");
        nb_stream_download(j->s, values, states);
        nb_status status = nb_stream_sync(j->s);
        if (!status) status = nb_check_finite(values, nb_tensor_count(states), "text states");
        free(values);
        if (status == NB_E_DATA)
            return nb_fail_context(status, "%s: %s", j->info->directory, nb_part_name(part));
        if (status) return status;
    }
    return NB_OK;
}

static nb_status encode_clip(struct job *j)
{
    const nb_clip *clip;
    NB_TRY(nb_pipeline_clip(j->p, &clip));
    nb_arena_mark mark = nb_arena_save(j->s->arena);
    for (int i = 0; i < j->n_texts; i++) {
        struct text *t = &j->texts[i];
        nb_clip_encode(clip, j->s, t->pooled, t->clip_ids.ids, t->clip_ids.n);
    }
    nb_status status = checkpoint(j);
    nb_arena_rewind(j->s->arena, mark);
    return status ? status : check_states(j, NB_PART_CLIP);
}

static nb_status encode_t5(struct job *j)
{
    const nb_t5 *t5;
    NB_TRY(nb_pipeline_t5(j->p, &t5));
    nb_arena_mark mark = nb_arena_save(j->s->arena);
    for (int i = 0; i < j->n_texts; i++) {
        struct text *t = &j->texts[i];
        nb_t5_encode(t5, j->s, t->states, t->t5_ids.ids, t->t5_ids.n);
    }
    nb_status status = checkpoint(j);
    nb_arena_rewind(j->s->arena, mark);
    return status ? status : check_states(j, NB_PART_T5);
}

static nb_status dump_text(struct job *j)
{
    const struct text *t = &j->texts[POSITIVE];
    float *states, *pooled;
    if (!j->dump) return NB_OK;
    NB_TRY(nb_dump_tensor(j->dump, "prompt_embeds", 3,
                          NB_SHAPE(1, t->states.shape[0], t->states.shape[1]), &states));
    nb_stream_download(j->s, states, t->states);
    NB_TRY(nb_dump_tensor(j->dump, "pooled_prompt_embeds", 2, NB_SHAPE(1, t->pooled.shape[0]),
                          &pooled));
    nb_stream_download(j->s, pooled, t->pooled);
    return nb_stream_sync(j->s);
}

/* A stage that is one step. */
static nb_status run_stage(struct job *j, nb_stage stage, nb_status (*run)(struct job *))
{
    begin_stage(j, stage, 1);
    nb_status status = run(j);
    if (!status) tell(j, 1, 1);
    end_stage(j);
    return status;
}

/* The digests of the encoders are taken while they are open; then their pages go. */
static nb_status close_encoders(struct job *j)
{
    NB_TRY(nb_pipeline_digest(j->p, NB_PART_CLIP, j->digests[NB_PART_CLIP]));
    NB_TRY(nb_pipeline_digest(j->p, NB_PART_T5, j->digests[NB_PART_T5]));
    nb_pipeline_release(j->p, NB_PART_CLIP);
    nb_pipeline_release(j->p, NB_PART_T5);
    nb_arena_trim(j->s->arena);
    return NB_OK;
}

static nb_status make_text(struct job *j)
{
    NB_TRY(run_stage(j, NB_STAGE_TOKENIZE, tokenize));
    for (int i = 0; i < j->n_texts; i++) {
        struct text *t = &j->texts[i];
        t->states = nb_stream_tensor(j->s, NB_DTYPE_F32, 2,
                                     NB_SHAPE(j->r->t5_length, j->info->flux.text_dim));
        t->pooled = nb_stream_tensor(j->s, NB_DTYPE_F32, 1, NB_SHAPE(j->info->flux.pooled_dim));
    }
    NB_TRY(run_stage(j, NB_STAGE_CLIP, encode_clip));
    NB_TRY(run_stage(j, NB_STAGE_T5, encode_t5));
    NB_TRY(dump_text(j));
    return close_encoders(j);
}

/* ---- what all pictures share ---------------------------------------------------------------
 */

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for a picture");
}

static nb_status hash_init_file(struct job *j)
{
    nb_buffer *file;
    if (!j->r->init_latents) return NB_OK;
    NB_TRY(nb_file_map(j->r->init_latents, &file));
    nb_sha256_of(nb_buffer_data(file), nb_buffer_bytes(file), j->init_sha256);
    nb_buffer_unref(file);
    return NB_OK;
}

static nb_status make_schedule(struct job *j)
{
    int n = j->r->steps;
    float *dumped;
    j->sigmas = calloc((size_t)n + 1, sizeof *j->sigmas);
    j->times = calloc((size_t)n, sizeof *j->times);
    if (!j->sigmas || !j->times) return no_memory();
    NB_TRY(nb_schedule_make(&j->info->schedule, n, j->result->image_tokens, NULL, j->sigmas,
                            j->times));
    if (!j->dump) return NB_OK;
    NB_TRY(nb_dump_tensor(j->dump, "sigmas", 1, NB_SHAPE(n + 1), &dumped));
    memcpy(dumped, j->sigmas, ((size_t)n + 1) * sizeof *dumped);
    return NB_OK;
}

static nb_status prepare(struct job *j)
{
    const nb_txt2img_request *r = j->r;
    const nb_start_args args = {
        .shape = j->shape,
        .n_pictures = r->batch_count,
        .rng = r->rng,
        .sms = r->rng_sms,
        .sm_threads = r->rng_sm_threads,
        .seed = r->seed,
        .seed_step = r->seed_step,
        .noise = r->noise,
        .path = r->init_latents,
    };
    size_t count = (size_t)nb_latent_count(&j->shape), pixels = (size_t)(r->width * r->height);
    const nb_flux *flux;
    NB_TRY(make_schedule(j));
    NB_TRY(nb_start_create(&args, &j->start));
    NB_TRY(hash_init_file(j));
    j->packed = calloc(count, sizeof *j->packed);
    j->planes = calloc(count, sizeof *j->planes);
    j->image = calloc(3 * pixels, sizeof *j->image);
    j->rgb = calloc(3 * pixels, 1);
    if (!j->packed || !j->planes || !j->image || !j->rgb) return no_memory();
    NB_TRY(nb_pipeline_flux(j->p, &flux));
    NB_TRY(nb_pipeline_digest(j->p, NB_PART_FLUX, j->digests[NB_PART_FLUX]));
    return nb_pipeline_digest(j->p, NB_PART_VAE, j->digests[NB_PART_VAE]);
}

/* ---- steps --------------------------------------------------------------------------------
 */

/* Copies a picture's slice of `data` [count] into the tensor `name` of the dump. */
static nb_status dump_slice(struct job *j, const char *name, int rank, const int64_t *shape,
                            const float *data, int64_t count)
{
    float *to;
    int slice = j->n_dumped > 1 ? j->picture : 0;
    if (!j->dump) return NB_OK;
    NB_TRY(nb_dump_tensor(j->dump, name, rank, shape, &to));
    memcpy(to + count * slice, data, (size_t)count * sizeof *data);
    return NB_OK;
}

static nb_status dump_tokens(struct job *j, const char *what, int step, nb_tensor t)
{
    char name[32];
    if (!j->dump) return NB_OK;
    snprintf(name, sizeof name, "%s.%d", what, step);
    nb_stream_download(j->s, j->packed, t);
    NB_TRY(nb_stream_sync(j->s));
    return dump_slice(j, name, 3, NB_SHAPE(j->n_dumped, t.shape[0], t.shape[1]), j->packed,
                      nb_tensor_count(t));
}

static nb_status dump_noise(struct job *j, const nb_start_point *point)
{
    const nb_latent_shape *h = &j->shape;
    if (!point->noise) return NB_OK;
    return dump_slice(j, "noise", 4,
                      NB_SHAPE(j->n_dumped, h->channels, 2 * h->rows, 2 * h->columns),
                      point->noise, nb_latent_count(h));
}

/* A picture while it is denoised. */
struct denoiser {
    nb_flux_run *runs[N_TEXTS];
    nb_tensor latents, velocity, negative; /* [S_i, 4C]; negative with true CFG only */
};

static nb_status begin_runs(struct job *j, struct denoiser *d)
{
    const nb_flux *flux;
    NB_TRY(nb_pipeline_flux(j->p, &flux));
    for (int i = 0; i < j->n_texts; i++) {
        const nb_flux_inputs in = {
            .text = j->texts[i].states,
            .pooled = j->texts[i].pooled,
            .guidance = (float)j->r->guidance,
            .rows = j->shape.rows,
            .columns = j->shape.columns,
            .times = j->times,
            .n_steps = j->r->steps,
        };
        NB_TRY(nb_flux_begin(flux, j->s, &in, &d->runs[i]));
    }
    NB_TRY(checkpoint(j));
    tell(j, 1, 1);
    return NB_OK;
}

/* x += (sigma_{i+1} - sigma_i) v, with v = v_neg + s (v_pos - v_neg) under true CFG. */
static nb_status take_step(struct job *j, struct denoiser *d, int i)
{
    nb_flux_step(d->runs[POSITIVE], j->s, i, d->velocity, d->latents);
    if (j->n_texts > 1) {
        nb_flux_step(d->runs[NEGATIVE], j->s, i, d->negative, d->latents);
        nb_blend(j->s, d->velocity, (float)j->r->true_cfg, d->negative, d->velocity);
    }
    nb_axpy(j->s, d->latents, j->sigmas[i + 1] - j->sigmas[i], d->velocity);
    NB_TRY(checkpoint(j));
    j->result->n_steps++;
    NB_TRY(dump_tokens(j, "velocity", i, d->velocity));
    return dump_tokens(j, "latents", i + 1, d->latents);
}

/* Leaves the latents in j->packed. Weights that are read wrongly make latents that decode to
 * white: never without a word, and not after all the steps. */
static nb_status check_latents(struct job *j, const struct denoiser *d, int step)
{
    double rms;
    nb_stream_download(j->s, j->packed, d->latents);
    NB_TRY(nb_stream_sync(j->s));
    nb_status status = nb_latents_check(j->packed, nb_tensor_count(d->latents), &rms);
    if (status)
        return nb_fail_context(status, "%s: transformer, step %d of %d", j->info->directory,
                               step, j->r->steps);
    if (step == j->r->steps && rms > MOST_LATENTS)
        nb_log(
            NB_LOG_WARN,
            "picture %d: latents of %.3g on the average, where about 1 is usual: the weights "
            "may not be what their names say",
            j->picture, rms);
    return NB_OK;
}

static nb_status run_steps(struct job *j, struct denoiser *d)
{
    NB_TRY(dump_tokens(j, "latents", 0, d->latents));
    for (int i = 0; i < j->r->steps; i++) {
        NB_TRY(take_step(j, d, i));
        NB_TRY(check_latents(j, d, i + 1));
        tell(j, i + 1, j->r->steps);
    }
    return NB_OK;
}

/* Leaves the final latents in j->packed. */
static nb_status denoise(struct job *j, const float *start)
{
    const int64_t *shape = NB_SHAPE(j->result->image_tokens, j->info->flux.in_channels);
    nb_arena_mark mark = nb_arena_save(j->s->arena);
    struct denoiser d = {
        .latents = nb_stream_tensor(j->s, NB_DTYPE_F32, 2, shape),
        .velocity = nb_stream_tensor(j->s, NB_DTYPE_F32, 2, shape),
    };
    if (j->n_texts > 1) d.negative = nb_stream_tensor(j->s, NB_DTYPE_F32, 2, shape);
    begin_stage(j, NB_STAGE_CONDITION, 1);
    nb_stream_upload(j->s, d.latents, start);
    nb_status status = begin_runs(j, &d);
    end_stage(j);
    if (!status) {
        begin_stage(j, NB_STAGE_DENOISE, j->r->steps);
        status = run_steps(j, &d);
        end_stage(j);
    }
    for (int i = 0; i < j->n_texts; i++) nb_flux_end(d.runs[i]);
    nb_arena_rewind(j->s->arena, mark);
    nb_arena_trim(j->s->arena);
    return status;
}

/* ---- pixels -------------------------------------------------------------------------------
 */

/* From j->packed to j->image and j->rgb. */
static nb_status decode(struct job *j)
{
    const nb_vae *vae;
    int64_t n = 3 * j->r->height * j->r->width;
    NB_TRY(nb_pipeline_vae(j->p, &vae));
    nb_latents_unpack(j->planes, j->packed, &j->shape);
    const nb_decode_args args = {.vae = vae,
                                 .rows = 2 * j->shape.rows,
                                 .columns = 2 * j->shape.columns,
                                 .max_memory = j->r->max_memory};
    nb_status status = nb_decode_pixels(&args, j->s, j->planes, j->image, &j->result->tiled);
    if (status == NB_E_DATA) return nb_fail_context(status, "%s: vae", j->info->directory);
    if (!status) status = checkpoint(j);
    if (status) return status;
    nb_image_from_planes(j->rgb, j->image, j->r->height, j->r->width);
    return dump_slice(j, "image", 4, NB_SHAPE(j->n_dumped, 3, j->r->height, j->r->width),
                      j->image, n);
}

static nb_status hand_out(struct job *j, const nb_start_point *point)
{
    nb_picture picture = {
        .index = j->picture,
        .of = j->r->batch_count,
        .seed = point->seed,
        .draw = point->draw,
        .width = j->r->width,
        .height = j->r->height,
        .rgb = j->rgb,
        .latents = j->packed,
        .n_latents = nb_latent_count(&j->shape),
        .one_colour = nb_is_one_colour(j->rgb, j->r->width * j->r->height),
    };
    nb_sha256_of(j->rgb, (size_t)(3 * picture.width * picture.height), picture.sha256);
    if (picture.one_colour)
        nb_log(NB_LOG_WARN,
               "picture %d: all of it is of one colour, #%02x%02x%02x: the weights may not be "
               "what their names say",
               j->picture, j->rgb[0], j->rgb[1], j->rgb[2]);
    const nb_recipe_args args = {j->r, j->info,  j->digests,      j->init_sha256,
                                 j->s, &picture, j->result->tiled};
    char *recipe = nb_recipe_json(&args), *parameters = nb_recipe_parameters(&args);
    picture.recipe = recipe;
    picture.parameters = parameters;
    nb_status status = recipe && parameters ? NB_OK : no_memory();
    if (!status && j->callbacks->picture)
        status = j->callbacks->picture(j->callbacks->arg, &picture);
    free(recipe);
    free(parameters);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------
 */

static nb_status make_picture(struct job *j, int index)
{
    nb_start_point point;
    j->picture = index;
    NB_TRY(nb_start_get(j->start, index, &point));
    NB_TRY(dump_noise(j, &point));
    NB_TRY(denoise(j, point.packed));
    NB_TRY(run_stage(j, NB_STAGE_DECODE, decode));
    NB_TRY(hand_out(j, &point));
    j->result->n_pictures++;
    return NB_OK;
}

static nb_status run_job(struct job *j)
{
    int first = j->r->only_set ? j->r->only : 0;
    int end = j->r->only_set ? first + 1 : j->r->batch_count;
    j->n_dumped = end - first;
    if (j->r->dump) NB_TRY(nb_dump_create(&j->dump));
    NB_TRY(make_text(j));
    NB_TRY(run_stage(j, NB_STAGE_PREPARE, prepare));
    for (int i = first; i < end; i++) NB_TRY(make_picture(j, i));
    return j->dump ? nb_dump_write(j->dump, j->r->dump) : NB_OK;
}

static void free_job(struct job *j)
{
    for (int i = 0; i < N_TEXTS; i++) {
        nb_token_ids_fini(&j->texts[i].clip_ids);
        nb_token_ids_fini(&j->texts[i].t5_ids);
    }
    nb_start_destroy(j->start);
    nb_dump_destroy(j->dump);
    free(j->sigmas);
    free(j->times);
    free(j->packed);
    free(j->planes);
    free(j->image);
    free(j->rgb);
}

nb_status nb_txt2img(nb_pipeline *p, nb_stream *s, const nb_txt2img_request *request,
                     const nb_txt2img_callbacks *callbacks, nb_txt2img_result *out)
{
    static const nb_txt2img_callbacks none = {0};
    const nb_pipeline_info *info = nb_pipeline_get_info(p);
    struct timespec began;
    clock_gettime(CLOCK_MONOTONIC, &began);
    *out = (nb_txt2img_result){.request = *request};
    NB_TRY(nb_txt2img_resolve(p, &out->request));
    struct job j = {
        .p = p,
        .info = info,
        .s = s,
        .callbacks = callbacks ? callbacks : &none,
        .result = out,
        .r = &out->request,
        .shape = {.channels = info->vae.latent_channels,
                  .rows = out->request.height / info->pixels_per_token,
                  .columns = out->request.width / info->pixels_per_token},
        .n_texts = out->request.true_cfg > 1 && out->request.negative_prompt ? 2 : 1,
        .texts = {{.prompt = request->prompt}, {.prompt = request->negative_prompt}},
    };
    out->image_tokens = j.shape.rows * j.shape.columns;
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_status status = run_job(&j);
    nb_arena_rewind(s->arena, mark);
    out->peak_bytes = nb_arena_get_stats(s->arena).bytes_peak;
    free_job(&j);
    out->total_seconds = seconds_since(&began);
    return status;
}

nb_status nb_picture_write(const nb_picture *picture, const char *path, int fd, int metadata)
{
    const nb_image image = {picture->width, picture->height, picture->rgb};
    const nb_png_text texts[] = {{"nibble", picture->recipe, 1},
                                 {"parameters", picture->parameters, 0}};
    int n_texts = metadata ? 2 : 0;
    if (path) return nb_png_write(path, &image, texts, n_texts);
    return nb_png_write_fd(fd, "output", &image, texts, n_texts);
}
