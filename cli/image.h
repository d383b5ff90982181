/*
 * Inside nibble image: what its flags say, and how a finished run is told.
 */
#ifndef NB_CLI_IMAGE_H
#define NB_CLI_IMAGE_H

#include "cli/common.h"
#include "cli/output.h"
#include "cli/progress.h"

struct image_options {
    nb_common_options common;
    const char *model, *prompt, *prompt_file, *negative_prompt;
    const char *parts[NB_PART_COUNT], *tokenizers; /* single files and folders, or NULL */
    nb_option_list loras;
    int lora_lenient;
    const char *output, *init_latents, *dump;
    uint64_t seed;
    int64_t size[2]; /* width, height; 0: the model's */
    int64_t steps, t5_length, batch_count, rng_sms, rng_sm_threads, progress_fd;
    double guidance, true_cfg;
    int seed_step, rng, noise, metadata;
};

/* A run under way. */
struct image_run {
    const struct image_options *options;
    nb_console *console;
    nb_output output;
    nb_progress progress;
    json_t *images; /* an object for each picture that was written */
};

/* The result as one JSON object; consumes nothing. NULL when memory is short. */
json_t *nb_image_json(const struct image_run *run, const nb_pipeline *pipeline,
                      const nb_stream *stream, const nb_txt2img_result *result);

/* -v: which code runs, and where the time went. */
void nb_image_say_variants(nb_console *console, const nb_stream *stream);
void nb_image_say_times(nb_console *console, const nb_txt2img_result *result);

#endif
