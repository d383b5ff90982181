/*
 * nibble eval: what a model's pictures lose against a reference's: both draw the same prompts
 * from the same seeds, and the differences are measured.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "cli/output.h"
#include "cli/prompt.h"
#include "kernels/base/folder.h"
#include "pipeline/likeness.h"

struct eval_options {
    nb_common_options common;
    const char *model, *reference, *prompts, *output;
    int reference_compute;
    int64_t steps, size[2];
    uint64_t seed;
};

#define AT(field) offsetof(struct eval_options, field)

static const nb_option options[] = {
    {.name = "model",
     .letter = 'm',
     .type = NB_OPTION_STRING,
     .value = "MODEL",
     .offset = AT(model),
     .help = NB_MODEL_HELP},
    {.name = "reference",
     .letter = 'r',
     .type = NB_OPTION_STRING,
     .value = "MODEL",
     .offset = AT(reference),
     .help = "the model whose pictures count as right; default: MODEL itself"},
    {.name = "reference-compute",
     .type = NB_OPTION_CHOICE,
     .value = "f32|bf16",
     .offset = AT(reference_compute),
     .fallback = "f32",
     .help = "arithmetic of the reference"},
    {.name = "prompts",
     .letter = 'p',
     .type = NB_OPTION_STRING,
     .value = "FILE",
     .offset = AT(prompts),
     .help = "a prompt a line; empty lines and lines that begin with # do\n"
             "not count"},
    {.name = "seed",
     .letter = 'S',
     .type = NB_OPTION_SEED,
     .value = "N",
     .offset = AT(seed),
     .fallback = "0",
     .help = "of the first prompt; the next ones have N+1, N+2 ..."},
    {.name = "size",
     .type = NB_OPTION_SIZE,
     .value = "WxH",
     .min = 0,
     .max = 1 << 16,
     .offset = AT(size),
     .help = "default: the model's"},
    {.name = "steps",
     .letter = 's',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = 10000,
     .offset = AT(steps),
     .fallback = "0",
     .help = "0: the model's"},
    {.name = "output",
     .letter = 'o',
     .type = NB_OPTION_STRING,
     .value = "DIR",
     .offset = AT(output),
     .help = "keep the model's pictures there as 000.png, 001.png ..."},
};

/* ---- drawing ---- */

/* A model on its stream, and the last picture that it drew. */
struct painter {
    nb_pipeline *pipeline;
    nb_stream *stream;
    uint8_t *rgb;
    float *latents;
    int64_t width, height, n_latents;
    const char *path; /* where the picture goes as well, or NULL */
};

static nb_status keep_picture(void *arg, const nb_picture *picture)
{
    struct painter *p = arg;
    size_t n_rgb = (size_t)(3 * picture->width * picture->height);
    size_t n_latents = (size_t)picture->n_latents * sizeof(float);
    uint8_t *rgb = realloc(p->rgb, n_rgb);
    if (rgb) p->rgb = rgb;
    float *latents = realloc(p->latents, n_latents);
    if (latents) p->latents = latents;
    if (!rgb || !latents) return nb_fail(NB_E_SYSTEM, "out of memory for a picture");
    memcpy(p->rgb, picture->rgb, n_rgb);
    memcpy(p->latents, picture->latents, n_latents);
    p->width = picture->width;
    p->height = picture->height;
    p->n_latents = picture->n_latents;
    return p->path ? nb_output_write(picture, p->path, 1) : NB_OK;
}

/* compute NULL: what the flags say of such a model. */
static nb_status painter_open(struct painter *p, const char *model, const nb_device *device,
                              const nb_compute *compute, const nb_common_options *common)
{
    char *directory;
    nb_arithmetic arithmetic;
    NB_TRY(nb_model_resolve(model, &directory));
    nb_status status = nb_pipeline_open(directory, device, &p->pipeline);
    free(directory);
    if (status) return status;
    if (!compute) {
        NB_TRY(nb_machine_compute(common, device, p->pipeline, &arithmetic));
        compute = &arithmetic.compute;
    }
    return nb_stream_create(device, *compute, (int)common->threads, nb_signals_catch(),
                            &p->stream);
}

static void painter_close(struct painter *p)
{
    free(p->rgb);
    free(p->latents);
    nb_stream_destroy(p->stream);
    nb_pipeline_close(p->pipeline);
}

static nb_status paint(struct painter *p, const nb_txt2img_request *request)
{
    nb_txt2img_result result;
    const nb_txt2img_callbacks callbacks = {p, NULL, keep_picture};
    return nb_txt2img(p->pipeline, p->stream, request, &callbacks, &result);
}

/* ---- measuring ---- */

struct figure {
    double sum, least;
};

struct figures {
    int n;
    struct figure psnr, ssim, cosine;
};

static void count(struct figure *f, double value, int n)
{
    f->sum += value;
    if (!n || value < f->least) f->least = value;
}

static nb_status measure(struct figures *f, const struct painter *a, const struct painter *b)
{
    double ssim;
    if (a->width != b->width || a->height != b->height || a->n_latents != b->n_latents)
        return nb_fail(NB_E_USAGE,
                       "the models' pictures differ in size: %" PRId64 "x%" PRId64
                       " and %" PRId64 "x%" PRId64 "; name one with --size",
                       a->width, a->height, b->width, b->height);
    NB_TRY(nb_ssim(a->rgb, b->rgb, a->width, a->height, &ssim));
    count(&f->psnr, nb_psnr(a->rgb, b->rgb, a->width, a->height), f->n);
    count(&f->ssim, ssim, f->n);
    count(&f->cosine, nb_cosine(a->latents, b->latents, a->n_latents), f->n);
    f->n++;
    return NB_OK;
}

static nb_status draw_both(const struct eval_options *o, struct painter *model,
                           struct painter *reference, const char *prompt, struct figures *f)
{
    nb_txt2img_request request = NB_TXT2IMG_REQUEST_DEFAULT;
    char path[4096];
    request.prompt = prompt;
    request.seed = o->seed + (uint64_t)f->n;
    request.steps = (int)o->steps;
    request.width = o->size[0];
    request.height = o->size[1];
    request.version = NB_VERSION;
    if (o->output &&
        snprintf(path, sizeof path, "%s/%03d.png", o->output, f->n) >= (int)sizeof path)
        return nb_fail(NB_E_USAGE, "--output: the path is too long");
    model->path = o->output ? path : NULL;
    NB_TRY(paint(reference, &request));
    NB_TRY(paint(model, &request));
    NB_TRY(measure(f, model, reference));
    nb_console_say(o->common.console, NB_LOG_DEBUG, "%d: PSNR so far %.2f dB", f->n - 1,
                   f->psnr.sum / f->n);
    return NB_OK;
}

/* ---- telling ---- */

static json_t *figure_json(const struct figure *f, int n)
{
    return json_pack("{s:f, s:f}", "mean", f->sum / n, "least", f->least);
}

static nb_status tell(const struct eval_options *o, const struct figures *f,
                      const nb_stream *stream)
{
    const char *compute = nb_compute_name(stream->compute);
    if (o->common.json)
        return nb_print_json(json_pack("{s:i, s:s, s:o, s:o, s:o}", "pictures", f->n, "compute",
                                       compute, "psnr_db", figure_json(&f->psnr, f->n), "ssim",
                                       figure_json(&f->ssim, f->n), "latent_cosine",
                                       figure_json(&f->cosine, f->n)));
    printf("%d pictures at --compute %s\n"
           "               mean     least\n"
           "PSNR, dB   %8.2f  %8.2f\n"
           "SSIM       %8.4f  %8.4f\n"
           "cosine     %8.5f  %8.5f   of latents\n",
           f->n, compute, f->psnr.sum / f->n, f->psnr.least, f->ssim.sum / f->n, f->ssim.least,
           f->cosine.sum / f->n, f->cosine.least);
    return nb_stdout_flush();
}

/* ---- the command ---- */

static nb_status eval_on(const struct eval_options *o, const nb_device *device,
                         const nb_prompt_lines *prompts)
{
    static const nb_compute of_reference[] = {NB_COMPUTE_F32, NB_COMPUTE_BF16};
    struct painter model = {0}, reference = {0};
    struct figures f = {0};
    nb_status status = painter_open(&model, o->model, device, NULL, &o->common);
    if (!status)
        status = painter_open(&reference, o->reference ? o->reference : o->model, device,
                              &of_reference[o->reference_compute], &o->common);
    for (int i = 0; i < prompts->n && !status; i++)
        status = draw_both(o, &model, &reference, prompts->lines[i], &f);
    if (!status) status = tell(o, &f, model.stream);
    painter_close(&model);
    painter_close(&reference);
    return status;
}

static nb_status run_eval(void *values, const nb_parsed *parsed)
{
    struct eval_options *o = values;
    nb_device *device;
    nb_prompt_lines prompts;
    if (parsed->n_words != 1 || strcmp(parsed->words[0], "image") != 0)
        return nb_fail(NB_E_USAGE, "eval: wanted the word image, found %s",
                       parsed->n_words ? parsed->words[0] : "nothing");
    if (!o->prompts) return nb_fail(NB_E_USAGE, "eval image: wanted --prompts FILE");
    if (o->output) NB_TRY(nb_folder_make(o->output));
    NB_TRY(nb_prompt_read_lines(o->prompts, &prompts));
    nb_status status = nb_machine_open(&o->common, &device);
    if (!status) {
        status = eval_on(o, device, &prompts);
        nb_device_close(device);
    }
    nb_prompt_lines_fini(&prompts);
    return status;
}

const nb_command nb_command_eval = {
    .name = "eval",
    .summary = "measure what a model's pictures lose against a reference's",
    .usage = "image",
    .about = "MODEL and the reference draw the same prompts from the same seeds. Told are the\n"
             "mean and the least of PSNR and SSIM of the pictures and of the cosine of the\n"
             "latents.\n",
    .examples = "nibble eval image -m demo-nvfp4 --reference demo --prompts prompts.txt\n"
                "# what arithmetic alone costs\n"
                "nibble eval image -m demo --compute bf16 --prompts prompts.txt --json\n",
    .groups = {{"Comparison", options, NB_COUNT(options)}, NB_MACHINE_GROUP, NB_MESSAGE_GROUP},
    .bytes = sizeof(struct eval_options),
    .run = run_eval,
};
