/*
 * Text to picture. A request says everything that decides the pixels; zeros and NULLs mean "the
 * default", which nb_txt2img_resolve fills in. Pictures are handed out one by one as they are
 * finished, as pixels with their recipe; nb_picture_write makes a PNG of one.
 *
 *     tokenize -> CLIP, T5 (then closed) -> noise -> for each picture:
 *         steps of the transformer, Euler in F32 -> VAE -> (x/2 + 1/2) clamped -> pixels
 *
 * All memory is the stream's arena and is given back to it at the end of the call. A raised
 * stop flag ends the call with E_STOPPED. Text states, latents or pixels that are NaN or
 * infinite end it with E_DATA, which names the part that gave them: such a picture is not
 * handed out.
 */
#ifndef NB_PIPELINE_TXT2IMG_H
#define NB_PIPELINE_TXT2IMG_H

#include "pipeline/noise.h"
#include "pipeline/pipeline.h"

typedef struct nb_txt2img_request {
    const char *prompt;          /* UTF-8, never NULL */
    const char *negative_prompt; /* NULL: none. Counts only while true_cfg > 1 ("" counts) */
    double true_cfg;             /* 0: 1, off */
    int64_t width, height; /* 0: the model's. Rounded down to whole tokens, with a warning */
    int steps;             /* 0: the model's */
    double guidance;       /* < 0: 3.5. Ignored without a guidance embedder */
    int64_t t5_length;     /* 0: the model's */
    uint64_t seed;         /* the caller chooses; negative seeds as two's complement */
    int batch_count;       /* pictures; 0: 1 */
    int seed_step;         /* picture i is drawn from seed + i, not from one generator */
    int only;              /* with only_set: just this picture of the batch, 0 .. */
    int only_set;
    nb_rng_kind rng;
    int rng_sms, rng_sm_threads; /* 0: an H100's; torch-cuda only (noise.h) */
    nb_noise_dtype noise;
    const char *init_latents; /* safetensors file whose `latents` replace the noise, or NULL */
    const char *dump;         /* safetensors file to write (dump.h), or NULL */
    size_t max_memory;        /* bytes of activations; a VAE decode that needs more is tiled
                                 (other pixels, told by a warning). 0: no limit */
    const char *version;      /* of the program, for the recipe; never NULL */
    const char *compute_why;  /* why the stream's arithmetic was chosen (arithmetic.h), for the
                                 recipe; NULL or "": it was named */
} nb_txt2img_request;

/* Starting point: all defaults, guidance -1. */
#define NB_TXT2IMG_REQUEST_DEFAULT                                                             \
    ((nb_txt2img_request){.prompt = "", .guidance = -1, .version = ""})

/* Replaces defaults by their values and rounds sizes (nb_log warns); E_USAGE says what is out
 * of range. Idempotent. nb_txt2img does it itself, on a copy. */
nb_status nb_txt2img_resolve(const nb_pipeline *p, nb_txt2img_request *r) NB_MUST_CHECK;

typedef enum nb_stage {
    NB_STAGE_TOKENIZE,
    NB_STAGE_CLIP,
    NB_STAGE_T5,
    NB_STAGE_PREPARE,   /* opening the transformer, noise */
    NB_STAGE_CONDITION, /* all that is the same over a picture's steps */
    NB_STAGE_DENOISE,
    NB_STAGE_DECODE, /* VAE and pixels */
    NB_STAGE_COUNT
} nb_stage;

const char *nb_stage_name(nb_stage stage); /* "denoise" */

/* A finished picture; everything is borrowed for the duration of the callback. */
typedef struct nb_picture {
    int index, of; /* within the batch */
    uint64_t seed; /* of its generator ... */
    int64_t draw;  /* ... and which draw of it the picture is */
    int64_t width, height;
    uint8_t *rgb;         /* [height, width, 3] */
    const float *latents; /* [n_latents], packed, as the VAE's decoder got them */
    int64_t n_latents;
    int one_colour;         /* all pixels are the same: a warning has been logged */
    char sha256[65];        /* of rgb, in hex */
    const char *recipe;     /* the `nibble` text: JSON */
    const char *parameters; /* A1111's `parameters` text */
} nb_picture;

typedef struct nb_txt2img_callbacks {
    void *arg;
    /* Step `step` of `of` of a stage is done (0: the stage begins), `seconds` into the stage;
     * in DENOISE and DECODE `picture` tells which one. May be NULL. */
    void (*progress)(void *arg, nb_stage stage, int picture, int step, int of, double seconds);
    /* A failure ends the call with that status. May be NULL. */
    nb_status (*picture)(void *arg, const nb_picture *picture);
} nb_txt2img_callbacks;

typedef struct nb_txt2img_result {
    nb_txt2img_request request;     /* as resolved; strings are the caller's */
    int n_pictures;                 /* finished */
    double seconds[NB_STAGE_COUNT]; /* sums over the pictures */
    double total_seconds;           /* of the call */
    int64_t n_steps;                /* transformer steps done, over all pictures */
    int64_t text_tokens, image_tokens;
    int64_t clip_used, t5_used; /* ids that are not padding */
    size_t peak_bytes;          /* most memory the stream's arena handed out */
    int tiled;                  /* the VAE decode was tiled */
} nb_txt2img_result;

/* *out is filled in as far as things went, also on failure. */
nb_status nb_txt2img(nb_pipeline *p, nb_stream *s, const nb_txt2img_request *request,
                     const nb_txt2img_callbacks *callbacks,
                     nb_txt2img_result *out) NB_MUST_CHECK;

/* Writes a PNG to `path` (atomically), or to the descriptor `fd` if path is NULL. metadata 0
 * leaves both texts out. */
nb_status nb_picture_write(const nb_picture *picture, const char *path, int fd,
                           int metadata) NB_MUST_CHECK;

#endif
