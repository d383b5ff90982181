/*
 * What a picture's file says about it: everything that is needed to make it
 * again, as JSON under `nibble`, and A1111's one-paragraph form under `parameters`.
 *
 * JSON, in this order: nibble (version), task "txt2img", prompt, negative_prompt (string or
 * null), true_cfg, width, height, steps, guidance (null without an embedder), t5_length, seed,
 * draw, index, batch_count, seed_step, rng {kind, sms, sm_threads}, noise, init_latents (null
 * or {path, sha256}), vae_tiled, model {name, clip, t5, transformer, vae: digests}, loras
 * [{name, weight, digest}], device, compute (what was computed in: "a8"),
 * compute_why (why it was chosen; null if it was named), kernels {linear, attn, conv2d: what
 * ran}, pixels (SHA-256 of RGB8, rows from the top). A seed above 2^63 - 1 is a string of
 * digits, since JSON libraries keep integers in 64 bits.
 */
#ifndef NB_PIPELINE_RECIPE_H
#define NB_PIPELINE_RECIPE_H

#include "pipeline/txt2img.h"

typedef struct nb_recipe_args {
    const nb_txt2img_request *request; /* resolved */
    const nb_pipeline_info *info;
    const char (*digests)[65]; /* [NB_PART_COUNT] */
    const char *init_sha256;   /* of the file request->init_latents, if there is one */
    const nb_stream *stream;
    const nb_picture *picture; /* without its texts */
    int tiled;
} nb_recipe_args;

/* Fresh strings that the caller frees; NULL when memory is short. */
char *nb_recipe_json(const nb_recipe_args *a);
char *nb_recipe_parameters(const nb_recipe_args *a);

#endif
