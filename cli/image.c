/*
 * nibble image: words to PNG files.
 */
#include "cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cli/lora.h"
#include "cli/prompt.h"
#include "kernels/base/file.h"

#define AT(field) offsetof(struct image_options, field)

enum { MAX_SIDE = 16384 };

static const nb_option prompt_options[] = {
    {.name = "model",
     .letter = 'm',
     .type = NB_OPTION_STRING,
     .value = "MODEL",
     .offset = AT(model),
     .help = NB_MODEL_HELP},
    {.name = "prompt",
     .letter = 'p',
     .type = NB_OPTION_STRING,
     .value = "TEXT",
     .offset = AT(prompt),
     .help = "what to draw, in place of WORDS; - reads it from stdin"},
    {.name = "prompt-file",
     .letter = 'f',
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(prompt_file),
     .help = "a file that holds the prompt; newlines at its end do not count"},
    {.name = "negative-prompt",
     .type = NB_OPTION_STRING,
     .value = "TEXT",
     .offset = AT(negative_prompt),
     .help = "what not to draw; counts with --true-cfg above 1"},
    {.name = "t5-length",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = 4096,
     .offset = AT(t5_length),
     .help = "T5 tokens, default 512 with a guidance embedder, else 256"},
};

static const nb_option part_options[] = {
    {.name = "transformer",
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(parts[NB_PART_FLUX]),
     .help = "BFL's, ComfyUI's or diffusers' file, or a folder with its\n"
             "config.json, in the place of MODEL's; all four parts make a\n"
             "pipeline without MODEL"},
    {.name = "vae",
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(parts[NB_PART_VAE]),
     .help = "the autoencoder, likewise"},
    {.name = "clip",
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(parts[NB_PART_CLIP]),
     .help = "the CLIP text encoder, likewise"},
    {.name = "t5",
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(parts[NB_PART_T5]),
     .help = "the T5 encoder, likewise"},
    {.name = "tokenizers",
     .type = NB_OPTION_STRING,
     .value = "DIR",
     .offset = AT(tokenizers),
     .help = "the folder of tokenizer/ and tokenizer_2/; default: MODEL's, else\n"
             "those beside the transformer"},
};

static const nb_option lora_options[] = {
    {.name = "lora",
     .type = NB_OPTION_LIST,
     .value = "FILE[:WEIGHT]",
     .offset = AT(loras),
     .help = "a LoRA for the transformer and the text encoders, as diffusers,\n"
             "kohya, ComfyUI, BFL, OneTrainer or XLabs write it; WEIGHT is 1 if\n"
             "not given; several add up"},
    {.name = "lora-lenient",
     .type = NB_OPTION_FLAG,
     .offset = AT(lora_lenient),
     .help = "leave out tensors of a LoRA that mean nothing to the model"},
};

static const nb_option picture_options[] = {
    {.name = "size",
     .type = NB_OPTION_SIZE,
     .value = "WxH",
     .min = 1,
     .max = MAX_SIDE,
     .offset = AT(size),
     .help = "width and height in pixels; default: what the model was made\n"
             "for. Rounded down to whole tokens, of 16 pixels in FLUX.1"},
    {.name = "width",
     .letter = 'W',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = MAX_SIDE,
     .offset = AT(size[0]),
     .help = "the width alone"},
    {.name = "height",
     .letter = 'H',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = MAX_SIDE,
     .offset = AT(size[1]),
     .help = "the height alone"},
    {.name = "steps",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = NB_SCHEDULE_MAX_STEPS,
     .offset = AT(steps),
     .help = "default 28 with a guidance embedder, else 4"},
    {.name = "guidance",
     .letter = 'g',
     .type = NB_OPTION_REAL,
     .value = "X",
     .min = 0,
     .max = 1000,
     .offset = AT(guidance),
     .fallback = "3.5",
     .help = "of models with a guidance embedder (dev)"},
    {.name = "true-cfg",
     .type = NB_OPTION_REAL,
     .value = "SCALE",
     .min = 0,
     .max = 1000,
     .offset = AT(true_cfg),
     .fallback = "1",
     .help = "classifier-free guidance against --negative-prompt"},
    {.name = "batch-count",
     .letter = 'b',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = 10000,
     .offset = AT(batch_count),
     .fallback = "1",
     .help = "pictures to draw"},
};

static const nb_option noise_options[] = {
    {.name = "seed",
     .letter = 's',
     .type = NB_OPTION_SEED,
     .value = "N",
     .offset = AT(seed),
     .help = "default: random, and told"},
    {.name = "seed-step",
     .type = NB_OPTION_FLAG,
     .offset = AT(seed_step),
     .help = "pictures of a batch have seeds N, N+1 ...; without it one\n"
             "generator goes on from picture to picture"},
    {.name = "rng",
     .type = NB_OPTION_CHOICE,
     .value = "torch-cpu|torch-cuda",
     .offset = AT(rng),
     .fallback = "torch-cpu",
     .help = "whose noise to draw"},
    {.name = "rng-sms",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = NB_RNG_MAX_SMS,
     .offset = AT(rng_sms),
     .fallback = "132",
     .help = "multiprocessors of the GPU whose noise torch-cuda draws"},
    {.name = "rng-sm-threads",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 256,
     .max = 1 << 16,
     .offset = AT(rng_sm_threads),
     .fallback = "2048",
     .help = "threads that one of them holds; 1536 on RTX 30 and 40"},
    {.name = "noise-dtype",
     .type = NB_OPTION_CHOICE,
     .value = "auto|f32|f16|bf16|bf16-8bit",
     .offset = AT(noise),
     .fallback = "auto",
     .help = "type that noise is drawn in; auto: that of T5's weights;\n"
             "bf16-8bit: bf16 of torch 2.11 and before"},
    {.name = "init-latents",
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(init_latents),
     .help = "a safetensors file whose `latents` replace the noise"},
};

static const nb_option output_options[] = {
    {.name = "output",
     .letter = 'o',
     .type = NB_OPTION_STRING,
     .value = "PATH",
     .offset = AT(output),
     .fallback = "nibble-{seed}.png",
     .help = "%04d stands for the picture's number from 1, {seed} for its\n"
             "seed; - is stdout"},
    {.name = "metadata",
     .type = NB_OPTION_FLAG,
     .offset = AT(metadata),
     .fallback = "yes",
     .help = "leave prompt and settings out of the PNG"},
    {.name = "dump",
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(dump),
     .help = "text states, noise, latents and velocities of every step and\n"
             "the picture, as safetensors"},
    {.name = "progress-fd",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = -1,
     .max = 1 << 20,
     .offset = AT(progress_fd),
     .fallback = "-1",
     .help = "write progress as JSON lines to this descriptor"},
};

static uint64_t random_seed(void)
{
    uint32_t seed; /* no more bits than torch's CPU generator looks at */
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = 42;
    return seed;
}

/* What the flags say as a request; the prompt comes in apart. */
static nb_txt2img_request make_request(const struct image_options *o, const char *prompt)
{
    nb_txt2img_request r = NB_TXT2IMG_REQUEST_DEFAULT;
    r.prompt = prompt;
    r.negative_prompt = o->negative_prompt;
    r.true_cfg = o->true_cfg;
    r.width = o->size[0];
    r.height = o->size[1];
    r.steps = (int)o->steps;
    r.guidance = o->guidance;
    r.t5_length = o->t5_length;
    r.seed = o->seed;
    r.batch_count = (int)o->batch_count;
    r.seed_step = o->seed_step;
    r.rng = (nb_rng_kind)o->rng; /* both lists of words are in the order of the enums */
    r.rng_sms = (int)o->rng_sms;
    r.rng_sm_threads = (int)o->rng_sm_threads;
    r.noise = (nb_noise_dtype)o->noise;
    r.init_latents = o->init_latents;
    r.dump = o->dump;
    r.max_memory = (size_t)o->common.max_ram;
    r.version = NB_VERSION;
    return r;
}

static nb_status remember_picture(struct image_run *run, const nb_picture *picture,
                                  const char *path)
{
    json_t *image =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:b}", "path", path, "seed",
                  (json_int_t)picture->seed, "draw", (json_int_t)picture->draw, "width",
                  (json_int_t)picture->width, "height", (json_int_t)picture->height, "sha256",
                  picture->sha256, "one_colour", picture->one_colour);
    if (!image) /* a path that is not UTF-8 */
        image = json_pack("{s:n, s:I, s:s, s:b}", "path", "seed", (json_int_t)picture->seed,
                          "sha256", picture->sha256, "one_colour", picture->one_colour);
    if (json_array_append_new(run->images, image) == 0) return NB_OK;
    return nb_fail(NB_E_SYSTEM, "out of memory for the JSON result");
}

static nb_status take_picture(void *arg, const nb_picture *picture)
{
    struct image_run *run = arg;
    char *path;
    NB_TRY(nb_output_path(&run->output, picture->index, picture->seed, &path));
    nb_status status = nb_output_write(picture, path, run->options->metadata);
    if (!status)
        nb_console_say(run->console, NB_LOG_INFO, "%s: %" PRId64 "x%" PRId64 ", seed %" PRIu64,
                       nb_output_is_stdout(&run->output) ? "stdout" : path, picture->width,
                       picture->height, picture->seed);
    if (!status) status = remember_picture(run, picture, path);
    free(path);
    return status;
}

static void tell_progress(void *arg, nb_stage stage, int picture, int step, int of,
                          double seconds)
{
    struct image_run *run = arg;
    nb_progress_step(&run->progress, stage, picture, step, of, seconds);
}

static nb_status draw_with(struct image_run *run, nb_pipeline *pipeline, nb_stream *stream,
                           const nb_txt2img_request *request)
{
    nb_txt2img_result result = {0};
    const nb_txt2img_callbacks callbacks = {run, tell_progress, take_picture};
    nb_image_say_variants(run->console, stream);
    NB_TRY(nb_txt2img(pipeline, stream, request, &callbacks, &result));
    nb_console_bar(run->console, "");
    nb_image_say_times(run->console, &result);
    if (!run->options->common.json) return NB_OK;
    return nb_print_json(nb_image_json(run, pipeline, stream, &result));
}

static int has_parts(const struct image_options *o)
{
    for (int i = 0; i < NB_PART_COUNT; i++)
        if (o->parts[i]) return 1;
    return o->tokenizers != NULL;
}

/* MODEL, with parts in the place of its own; the demo only if neither is named. */
static nb_status open_pipeline(const struct image_options *o, const nb_device *device,
                               nb_pipeline **out)
{
    nb_pipeline_paths paths = {.tokenizers = o->tokenizers};
    char *directory = NULL;
    if (o->model || !has_parts(o)) NB_TRY(nb_model_resolve(o->model, &directory));
    paths.directory = directory;
    for (int i = 0; i < NB_PART_COUNT; i++) paths.parts[i] = o->parts[i];
    nb_console_say(o->common.console, NB_LOG_DEBUG, "model %s",
                   directory ? directory : "of parts");
    nb_status status = nb_pipeline_open_paths(&paths, device, out);
    free(directory);
    return status;
}

static nb_status draw_on(struct image_run *run, const nb_device *device,
                         nb_txt2img_request *request)
{
    nb_pipeline *pipeline;
    nb_arithmetic arithmetic;
    nb_stream *stream = NULL;
    const atomic_int *stop = nb_signals_catch();
    const struct image_options *o = run->options;
    NB_TRY(open_pipeline(o, device, &pipeline));
    nb_status status = nb_machine_compute(&o->common, device, pipeline, &arithmetic);
    if (!status) {
        request->compute_why = arithmetic.why;
        status = nb_lora_use_list(pipeline, &o->loras, o->lora_lenient, arithmetic.compute);
    }
    if (!status)
        status =
            nb_stream_create(device, arithmetic.compute, (int)o->common.threads, stop, &stream);
    if (!status) status = draw_with(run, pipeline, stream, request);
    nb_stream_destroy(stream);
    nb_pipeline_close(pipeline);
    return status;
}

static nb_status draw(struct image_run *run, nb_txt2img_request *request)
{
    nb_device *device;
    NB_TRY(nb_machine_open(&run->options->common, &device));
    run->images = json_array();
    nb_status status =
        run->images ? draw_on(run, device, request) : nb_fail(NB_E_SYSTEM, "out of memory");
    json_decref(run->images);
    nb_device_close(device);
    return status;
}

/* Faults that can be told before a model is opened. */
static nb_status check(const struct image_run *run)
{
    const struct image_options *o = run->options;
    if (o->common.json && nb_output_is_stdout(&run->output))
        return nb_fail(NB_E_USAGE, "--json and --output -: both want stdout");
    if (o->batch_count > 1 && nb_output_is_stdout(&run->output))
        return nb_fail(NB_E_USAGE,
                       "--output -: wanted one picture, found --batch-count %" PRId64,
                       o->batch_count);
    if (o->progress_fd >= 0 && fcntl((int)o->progress_fd, F_GETFD) < 0)
        return nb_fail(NB_E_USAGE, "--progress-fd: descriptor %" PRId64 ": %s", o->progress_fd,
                       strerror(errno));
    if (o->negative_prompt) NB_TRY(nb_prompt_check("negative prompt", o->negative_prompt));
    if (o->init_latents && !nb_file_exists(o->init_latents))
        return nb_fail(NB_E_NOINPUT, "%s: cannot be read: %s", o->init_latents,
                       strerror(ENOENT));
    if (o->dump) NB_TRY(nb_output_check_path(o->dump));
    return nb_output_check(&run->output, o->seed);
}

static nb_status run_image(void *values, const nb_parsed *parsed)
{
    struct image_options *o = values;
    char *prompt;
    struct image_run run = {
        .options = o,
        .console = o->common.console,
        .output = {o->output, (int)o->batch_count, o->seed_step},
        .progress = {.console = o->common.console,
                     .fd = (int)o->progress_fd,
                     .json = o->common.json,
                     .n_pictures = (int)o->batch_count},
    };
    if (nb_parsed_source(parsed, "seed") == NB_FROM_FALLBACK) {
        o->seed = random_seed();
        nb_console_tell(run.console, "seed %" PRIu64, o->seed);
    }
    NB_TRY(check(&run));
    NB_TRY(nb_prompt_read(parsed, o->prompt, o->prompt_file, &prompt));
    nb_txt2img_request request = make_request(o, prompt);
    nb_status status = draw(&run, &request);
    free(prompt);
    return status;
}

const nb_command nb_command_image = {
    .name = "image",
    .summary = "draw a picture from words",
    .usage = "[WORDS...]",
    .about = "MODEL is a FLUX.1 folder in diffusers' layout (dev, schnell, Krea), or a file "
             "with all\n"
             "parts, beside its tokenizers. The same seed,\n"
             "model and settings give the same bytes for any number of threads.\n",
    .examples = "nibble image \"a large red circle on a blue background\" -o circle.png\n"
                "nibble image -m ~/models/FLUX.1-schnell \"a cat on a sofa\" --size 512x512\n"
                "nibble image -m black-forest-labs/FLUX.1-dev -f prompt.txt -s 7 --steps 20\n"
                "nibble image --transformer flux1-dev.safetensors --vae ae.safetensors \\\n"
                "    --clip clip_l.safetensors --t5 t5xxl.safetensors \"a cat\"\n"
                "nibble image \"a cat\" --lora style.safetensors:0.8 --lora face.safetensors\n"
                "nibble image a small blue star -b 4 -o star-%02d.png\n"
                "echo a green ring | nibble image - -o - > ring.png\n",
    .groups = {{"Prompt and model", prompt_options, NB_COUNT(prompt_options)},
               {"Parts of a pipeline", part_options, NB_COUNT(part_options)},
               {"LoRA", lora_options, NB_COUNT(lora_options)},
               {"Picture", picture_options, NB_COUNT(picture_options)},
               {"Noise", noise_options, NB_COUNT(noise_options)},
               {"Output", output_options, NB_COUNT(output_options)},
               NB_MACHINE_GROUP,
               NB_MESSAGE_GROUP},
    .bytes = sizeof(struct image_options),
    .run = run_image,
};
