/*
 * A FLUX.1 pipeline on disk: a diffusers directory as published, single files in
 * the place of some of its parts, or single files alone. Opening it checks
 * model_index.json's classes and reads every component's config; the components themselves are
 * opened when they are needed and can be closed again, so that the text encoders' pages are
 * given back before the transformer runs.
 */
#ifndef NB_PIPELINE_PIPELINE_H
#define NB_PIPELINE_PIPELINE_H

#include "models/clip.h"
#include "models/flux.h"
#include "models/lora.h"
#include "models/t5.h"
#include "models/vae.h"
#include "pipeline/noise.h"
#include "pipeline/schedule.h"
#include "text/tokenizer.h"

enum { NB_MAX_T5_LENGTH = 512 }; /* as FluxPipeline */

typedef struct nb_pipeline nb_pipeline;

/* The parts of a picture pipeline that have weights. */
typedef enum nb_part {
    NB_PART_CLIP,
    NB_PART_T5,
    NB_PART_FLUX,
    NB_PART_VAE,
    NB_PART_COUNT
} nb_part;

const char *nb_part_name(nb_part part); /* "clip", "t5", "transformer", "vae" */

/* Is `path` a folder that looks like a picture pipeline (it has a model_index.json)? */
int nb_pipeline_is_one(const char *path);

/* Where the parts are. A part of its own is a file (BFL's, ComfyUI's or published; its config
 * is read off its tensors' shapes) or a folder with a config.json, and stands in the place of
 * the directory's. Without a directory all four are wanted, the schedule is FLUX.1 dev's or
 * schnell's by the transformer's guidance embedder, and tokenizers default to those beside the
 * transformer. A file in the directory's place is an all-in-one checkpoint: each part that is
 * not given on its own is in it.
 */
typedef struct nb_pipeline_paths {
    const char *directory; /* or an all-in-one file; as nb_model_locate gives it; or NULL */
    const char *parts[NB_PART_COUNT];
    const char *tokenizers; /* a folder that holds tokenizer/ and tokenizer_2/, or NULL */
} nb_pipeline_paths;

/* Nothing of `paths` is kept. The device must outlive the pipeline. E_NOINPUT and E_DATA name
 * the file; a class that is not FLUX.1's text to picture is E_DATA and named. */
nb_status nb_pipeline_open_paths(const nb_pipeline_paths *paths, const nb_device *device,
                                 nb_pipeline **out) NB_MUST_CHECK;
nb_status nb_pipeline_open(const char *directory, const nb_device *device,
                           nb_pipeline **out) NB_MUST_CHECK;
void nb_pipeline_close(nb_pipeline *p);

typedef struct nb_pipeline_lora {
    char *path; /* as given */
    char *name; /* the file's, without folder and ending */
    double weight;
    char digest[65]; /* nb_checkpoint_digest */
} nb_pipeline_lora;

/* What is known from configs and headers alone. Borrowed from the pipeline. */
typedef struct nb_pipeline_info {
    const char *directory;
    const char
        *name; /* the directory's last part; of a Hugging Face snapshot, the model's name */
    nb_flux_config flux;
    nb_t5_config t5;
    nb_clip_config clip;
    nb_vae_config vae;
    nb_schedule_config schedule;
    int64_t pixels_per_token; /* sizes are multiples of this: 16 */
    int64_t default_width, default_height;
    int default_steps;            /* 28 with a guidance embedder, 4 without */
    int64_t default_t5_length;    /* 512 or 256; at most what the tokenizer's config says */
    nb_noise_dtype default_noise; /* after the type of T5's weights */
    const nb_pipeline_lora *loras;
    int n_loras;
} nb_pipeline_info;
const nb_pipeline_info *nb_pipeline_get_info(const nb_pipeline *p);

/* Where a part's weights are: a file, or a folder with them. */
const char *nb_pipeline_weights(const nb_pipeline *p, nb_part part);

/* LoRA files for the transformer and the text encoders, from now on; before any model is
 * opened, and once. Nothing of `uses` is kept. Statuses are those of nb_loras_open. */
nb_status nb_pipeline_set_loras(nb_pipeline *p, const nb_lora_use *uses, int n,
                                const nb_lora_options *options) NB_MUST_CHECK;

/* 64 hex digits: nb_checkpoint_digest of a part; opens its checkpoint if need be. */
nb_status nb_pipeline_digest(nb_pipeline *p, nb_part part, char digest[65]) NB_MUST_CHECK;

/* The models, opened on first use; owned by the pipeline. */
nb_status nb_pipeline_clip(nb_pipeline *p, const nb_clip **out) NB_MUST_CHECK;
nb_status nb_pipeline_t5(nb_pipeline *p, const nb_t5 **out) NB_MUST_CHECK;
nb_status nb_pipeline_flux(nb_pipeline *p, const nb_flux **out) NB_MUST_CHECK;
nb_status nb_pipeline_vae(nb_pipeline *p, const nb_vae **out) NB_MUST_CHECK;

/* The name of the tensor of an open part that holds this byte, NULL if none does. */
const char *nb_pipeline_tensor_at(const nb_pipeline *p, const void *data);

/* Closes a part and releases its mapping; it is opened again when next needed. */
void nb_pipeline_release(nb_pipeline *p, nb_part part);

/* Token ids of a prompt as FLUX.1 wants them, in storage that the caller finis: CLIP's padded
 * to its positions (77), T5's to `length`; longer ones are cut with the end token kept (n_cut
 * tells by how much). Tokenizers stay open. */
nb_status nb_pipeline_clip_ids(nb_pipeline *p, const char *prompt,
                               nb_token_ids *out) NB_MUST_CHECK;
nb_status nb_pipeline_t5_ids(nb_pipeline *p, const char *prompt, int64_t length,
                             nb_token_ids *out) NB_MUST_CHECK;

#endif
