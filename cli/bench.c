/*
 * nibble bench: how fast this machine draws, and what its kernels reach of its roofs.
 */
#include "cli/bench.h"

#include <string.h>

#include "pipeline/schedule.h"

#define AT(field) offsetof(struct bench_options, field)

static const nb_option subject_options[] = {
    {.name = "weights",
     .type = NB_OPTION_CHOICE,
     .value = "auto|nvfp4|mxfp4|fp8|bf16|f32",
     .offset = AT(weights),
     .fallback = "auto",
     .help = "of the transformer, or of the matrices of gemm and gemv;\n"
             "auto: nvfp4, and every type for gemm and gemv"},
    {.name = "runs",
     .letter = 'r',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = NB_BENCH_MAX_RUNS,
     .offset = AT(runs),
     .fallback = "0",
     .help = "how often; median and half of the range are told;\n"
             "default 3 pictures, 7 of the others"},
    {.name = "format",
     .type = NB_OPTION_CHOICE,
     .value = "md|csv|json",
     .offset = AT(format),
     .fallback = "md",
     .help = "of the table on stdout"},
};

static const nb_option image_options[] = {
    {.name = "arch",
     .type = NB_OPTION_CHOICE,
     .value = "flux-schnell|flux-dev",
     .offset = AT(arch),
     .fallback = "flux-schnell",
     .help = "whose shapes and number of steps"},
    {.name = "size",
     .type = NB_OPTION_SIZE,
     .value = "WxH",
     .min = 16,
     .max = 16384,
     .offset = AT(size),
     .fallback = "512x512",
     .help = "of the picture, in pixels"},
    {.name = "text-weights",
     .type = NB_OPTION_CHOICE,
     .value = "auto|nvfp4|mxfp4|fp8|bf16|f32",
     .offset = AT(text_weights),
     .fallback = "auto",
     .help = "of T5; auto: like --weights. CLIP and the VAE are bf16, or\n"
             "f32 with --weights f32"},
    {.name = "steps",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = NB_SCHEDULE_MAX_STEPS,
     .offset = AT(steps),
     .fallback = "0",
     .help = "default 4, flux-dev 28"},
    {.name = "tokens",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = 512,
     .offset = AT(tokens),
     .fallback = "0",
     .help = "of the text, with padding; default 256, flux-dev 512"},
    {.name = "parts",
     .type = NB_OPTION_STRING,
     .value = "NAMES",
     .offset = AT(parts),
     .help = "of clip,t5,step,vae those to measure; the others are made in\n"
             "miniature and not shown; default: all"},
    {.name = "double",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = 19,
     .offset = AT(n_double),
     .fallback = "19",
     .help = "double blocks of the transformer; with fewer the table says\n"
             "what all would take, computed"},
    {.name = "single",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = 38,
     .offset = AT(n_single),
     .fallback = "38",
     .help = "single blocks, likewise"},
    {.name = "profile",
     .type = NB_OPTION_FLAG,
     .offset = AT(profile),
     .help = "tell where the time of each part goes, by operations, and what\n"
             "is the least that each could take"},
    {.name = "keep",
     .type = NB_OPTION_STRING,
     .value = "DIR",
     .offset = AT(keep),
     .help = "write the weights there and leave them; if they are there\n"
             "already, use them. Without it they are temporary"},
};

const nb_quant_format nb_bench_formats[NB_BENCH_N_FORMATS] = {
    NB_QUANT_NVFP4, NB_QUANT_MXFP4, NB_QUANT_FP8, NB_QUANT_BF16, NB_QUANT_F32};

const char *nb_bench_format_name(nb_quant_format format)
{
    static const char *const names[NB_QUANT_FORMAT_COUNT] = {
        [NB_QUANT_NVFP4] = "nvfp4", [NB_QUANT_MXFP4] = "mxfp4", [NB_QUANT_FP8] = "fp8",
        [NB_QUANT_F32] = "f32",     [NB_QUANT_BF16] = "bf16",
    };
    return names[format];
}

static nb_status run(void *values, const nb_parsed *parsed)
{
    static const char *const kernels[] = {"gemm", "gemv", "attn", "conv"};
    struct bench_options *o = values;
    const char *subject = parsed->n_words == 1 ? parsed->words[0] : NULL;
    if (o->common.json) o->format = NB_BENCH_JSON;
    if (!subject)
        return nb_fail(NB_E_USAGE, "bench: wanted image, gemm, gemv, attn or conv, found %s",
                       parsed->n_words ? "several words" : "nothing");
    if (!strcmp(subject, "image")) return nb_bench_image(o);
    for (size_t i = 0; i < NB_COUNT(kernels); i++)
        if (!strcmp(subject, kernels[i])) return nb_bench_kernels(o, (nb_bench_kernel)i);
    return nb_fail(NB_E_USAGE, "bench: wanted image, gemm, gemv, attn or conv, found %.60s",
                   subject);
}

const nb_command nb_command_bench = {
    .name = "bench",
    .summary = "measure how fast this machine draws and computes",
    .usage = "image|gemm|gemv|attn|conv",
    .about =
        "image draws a picture with weights that mean nothing, at FLUX.1's true shapes: they\n"
        "are written to a temporary folder (TMPDIR, else /tmp; 10 GB for nvfp4, 34 GB for\n"
        "bf16), then opened like any others. Nothing is downloaded. Told are the time on the\n"
        "clock and of the processors, and what share of the processor's peak that is.\n"
        "\n"
        "gemm, gemv: matrix products of many rows and of few, attn: attention, conv:\n"
        "convolutions, all at FLUX.1's shapes, beside the roofs: what multiplying in\n"
        "registers and reading memory reach here, measured in the same run.\n",
    .examples = "nibble bench image\n"
                "nibble bench image --arch flux-dev --size 1024x1024 --steps 2 -r 1\n"
                "# a quick look: one block of each kind, nothing but the step\n"
                "nibble bench image --parts step --double 1 --single 1\n"
                "nibble bench image --profile -r 1\n"
                "# keep the files for other programs, or for the next time\n"
                "nibble bench image --keep ~/models/synthetic-nvfp4 --format json\n"
                "nibble bench gemm --weights nvfp4 --compute f32\n"
                "nibble bench gemv -t 1 --format csv\n",
    .groups = {{"Measuring", subject_options, NB_COUNT(subject_options)},
               {"Picture (image only)", image_options, NB_COUNT(image_options)},
               NB_MACHINE_GROUP,
               NB_MESSAGE_GROUP},
    .bytes = sizeof(struct bench_options),
    .run = run,
};
