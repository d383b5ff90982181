/*
 * nibble quantize: a checkpoint's weights in four or eight bits, or back.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "cli/measure.h"
#include "cli/prompt.h"
#include "models/quantize.h"
#include "pipeline/calibrate.h"

struct quantize_options {
    nb_common_options common;
    const char *output, *calib;
    int64_t calib_size[2], calib_steps; /* 0: as the help says */
    nb_option_list keep, component;
    int format, dialect, method;
};

/* What is gathered of inputs needs neither large pictures nor many steps: few of them go
 * through the same range of noise, and a picture of FLUX.1's own size takes a processor long.
 */
enum { CALIB_SIDE = 256, CALIB_STEPS = 4, MAX_SIDE = 16384, MAX_STEPS = 1000 };

#define AT(field) offsetof(struct quantize_options, field)

static const nb_option options[] = {
    {.name = "output",
     .letter = 'o',
     .type = NB_OPTION_STRING,
     .value = "OUT",
     .offset = AT(output),
     .help = "the file or folder to write"},
    {.name = "format",
     .type = NB_OPTION_CHOICE,
     .value = "nvfp4|mxfp4|fp8|f32|bf16",
     .offset = AT(format),
     .fallback = "nvfp4",
     .help = "f32 and bf16 expand what is quantised and copy the rest"},
    {.name = "dialect",
     .type = NB_OPTION_CHOICE,
     .value = "modelopt|compressed-tensors|comfy",
     .offset = AT(dialect),
     .fallback = "modelopt",
     .help = "whose names, layout and rounding: NVIDIA Model-Optimizer's,\n"
             "vLLM's, or BFL's and ComfyUI's"},
    {.name = "method",
     .type = NB_OPTION_CHOICE,
     .value = "max|sweep|four-over-six",
     .offset = AT(method),
     .fallback = "max",
     .help = "how scales of NVFP4 are chosen; max: the vendors' bytes;\n"
             "sweep: the least squared error (+1.4 dB)"},
    {.name = "calib",
     .type = NB_OPTION_STRING,
     .value = "PROMPTS",
     .offset = AT(calib),
     .help = "a file of prompts, one a line, that IN, a picture pipeline, draws\n"
             "first: the scales of inputs that NVFP4 and FP8 have for 4- and 8-bit\n"
             "arithmetic are then written, and the sweep weighs columns by inputs;\n"
             "inputs larger than any that were drawn are clipped: take a hundred"},
    {.name = "calib-size",
     .type = NB_OPTION_SIZE,
     .value = "WxH",
     .min = 1,
     .max = MAX_SIDE,
     .offset = AT(calib_size),
     .help = "of the pictures that are drawn for that; default: the model's\n"
             "own, at most 256x256"},
    {.name = "calib-steps",
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 1,
     .max = MAX_STEPS,
     .offset = AT(calib_steps),
     .help = "of each of them; default: the model's own, at most 4"},
    {.name = "keep",
     .type = NB_OPTION_LIST,
     .value = "PATTERN",
     .offset = AT(keep),
     .help = "layers that stay as they are, besides those that always do:\n"
             "names with * and ?; may be given several times. What OUT cannot\n"
             "hold as it lies (blocks of GGUF, nunchaku's 4 bits, NVFP4 of\n"
             "comfy beside another dialect's) becomes BF16 instead"},
    {.name = "component",
     .type = NB_OPTION_LIST,
     .value = "NAMES",
     .offset = AT(component),
     .help = "of a pipeline, with commas: transformer,text_encoder_2;\n"
             "default: the transformer"},
    {.name = "threads",
     .letter = 't',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = 4096,
     .offset = AT(common.threads),
     .fallback = "0",
     .help = "0: one for each processor; the result is the same for any number"},
};

/* The words of an option's choice, for what is said at the end. */
static const char *word_of(const char *name, int index, char word[32])
{
    for (size_t i = 0; i < NB_COUNT(options); i++)
        if (!strcmp(options[i].name, name)) return nb_option_word(&options[i], index, word);
    return "";
}

/* ---- progress ---- */

struct progress {
    nb_console *console;
    double begin, said; /* seconds */
};

static void show_progress(void *arg, const nb_quantize_progress *p)
{
    enum { BAR_COLUMNS = 24 };
    static const double every[2] = {2.0, 0.1}; /* plain lines, a bar */
    struct progress *state = arg;
    char done[NB_AMOUNT_BYTES], of[NB_AMOUNT_BYTES], bar[BAR_COLUMNS + 1], line[256];
    double t = nb_seconds(), passed = t - state->begin;
    if (t - state->said < every[state->console->terminal]) return;
    state->said = t;
    double part = p->of ? (double)p->bytes / (double)p->of : 1;
    double left = part > 0 ? passed / part - passed : 0;
    int full = (int)(BAR_COLUMNS * part);
    for (int i = 0; i < BAR_COLUMNS; i++) bar[i] = i < full ? '#' : '.';
    bar[BAR_COLUMNS] = 0;
    snprintf(line, sizeof line, "%s of %s, ETA %.0f s, %.120s",
             nb_amount_text((double)p->bytes, "B", done),
             nb_amount_text((double)p->of, "B", of), left, p->tensor);
    if (!state->console->terminal) {
        nb_console_say(state->console, NB_LOG_INFO, "%s", line);
        return;
    }
    char drawn[320];
    snprintf(drawn, sizeof drawn, "[%s] %s", bar, line);
    if (!state->console->quiet) nb_console_bar(state->console, drawn);
}

/* ---- what was asked for ---- */

/* Names with commas between them, in one list; `text` is what they are cut from. */
struct names {
    char *text[NB_MAX_LIST];
    const char *items[NB_MAX_LIST];
    int n_texts, n;
};

static nb_status split(const nb_option_list *list, struct names *names)
{
    for (int i = 0; i < list->n; i++) {
        char *text = strdup(list->items[i]);
        if (!text) return nb_fail(NB_E_SYSTEM, "out of memory");
        names->text[names->n_texts++] = text;
        for (char *next = text; next;) {
            char *name = next, *comma = strchr(name, ',');
            next = comma ? comma + 1 : NULL;
            if (comma) *comma = 0;
            if (!*name || names->n == NB_MAX_LIST)
                return nb_fail(NB_E_USAGE, "--component: wanted names, found \"%.60s\"",
                               list->items[i]);
            names->items[names->n++] = name;
        }
    }
    return NB_OK;
}

static void free_names(struct names *names)
{
    for (int i = 0; i < names->n_texts; i++) free(names->text[i]);
}

static nb_status tell_json(const struct quantize_options *o, const nb_quantize_result *r,
                           double seconds)
{
    char format[32], dialect[32], method[32];
    return nb_print_json(json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "output", o->output,
        "format", word_of("format", o->format, format), "dialect",
        word_of("dialect", o->dialect, dialect), "method", word_of("method", o->method, method),
        "converted", (json_int_t)r->n_converted, "copied", (json_int_t)r->n_copied,
        "kept_as_bf16", (json_int_t)r->n_expanded, "input_scales",
        (json_int_t)r->n_input_scales, "bytes_in", (json_int_t)r->bytes_in, "bytes_out",
        (json_int_t)r->bytes_out, "seconds", seconds));
}

static nb_status tell(const struct quantize_options *o, const nb_quantize_result *r,
                      double seconds)
{
    char format[32], dialect[32], method[32], in[NB_AMOUNT_BYTES], out[NB_AMOUNT_BYTES];
    if (o->common.json) return tell_json(o, r, seconds);
    if (o->common.quiet) return NB_OK;
    word_of("dialect", o->dialect, dialect);
    printf("%s\n  %s", o->output, word_of("format", o->format, format));
    if (o->format == NB_QUANT_NVFP4)
        printf(", %s, scales by %s", dialect, word_of("method", o->method, method));
    if (o->format == NB_QUANT_MXFP4 || o->format == NB_QUANT_FP8) printf(", %s", dialect);
    printf("\n  %" PRId64 " weights converted, ", r->n_converted);
    if (r->n_expanded) printf("%" PRId64 " kept as BF16, ", r->n_expanded);
    printf("%" PRId64 " tensors copied, %s to %s, %.1f s\n", r->n_copied,
           nb_amount_text((double)r->bytes_in, "B", in),
           nb_amount_text((double)r->bytes_out, "B", out), seconds);
    return NB_OK;
}

/* ---- calibration ---- */

static void say_prompt(void *arg, int prompt)
{
    nb_console_say(arg, NB_LOG_INFO, "calibration: prompt %d", prompt + 1);
}

static int64_t at_most(int64_t most, int64_t value)
{
    return value < most ? value : most;
}

static nb_txt2img_request calibration_request(const struct quantize_options *o,
                                              const nb_pipeline_info *info)
{
    nb_txt2img_request request = NB_TXT2IMG_REQUEST_DEFAULT;
    request.version = NB_VERSION;
    request.width =
        o->calib_size[0] ? o->calib_size[0] : at_most(CALIB_SIDE, info->default_width);
    request.height =
        o->calib_size[1] ? o->calib_size[1] : at_most(CALIB_SIDE, info->default_height);
    request.steps =
        (int)(o->calib_steps ? o->calib_steps : at_most(CALIB_STEPS, info->default_steps));
    return request;
}

static nb_status draw_prompts(const struct quantize_options *o, nb_pipeline *pipeline,
                              nb_stream *s, nb_calibration **out)
{
    nb_prompt_lines prompts;
    nb_txt2img_request request = calibration_request(o, nb_pipeline_get_info(pipeline));
    NB_TRY(nb_prompt_read_lines(o->calib, &prompts));
    nb_console_say(o->common.console, NB_LOG_INFO,
                   "calibration: %d prompts, %" PRId64 "x%" PRId64 ", %d steps", prompts.n,
                   request.width, request.height, request.steps);
    nb_status status = nb_calibrate(pipeline, s, &request, prompts.lines, prompts.n, say_prompt,
                                    o->common.console, out);
    nb_prompt_lines_fini(&prompts);
    return status;
}

/* *out stays NULL where no calibration is asked for. */
static nb_status calibrate(const struct quantize_options *o, const char *input, nb_stream *s,
                           nb_calibration **out)
{
    nb_pipeline *pipeline;
    if (!o->calib && (o->calib_size[0] || o->calib_steps))
        return nb_fail(NB_E_USAGE, "--calib-size, --calib-steps: wanted --calib beside them");
    if (!o->calib) return NB_OK;
    if (o->format != NB_QUANT_NVFP4 && o->format != NB_QUANT_FP8)
        return nb_fail(NB_E_USAGE,
                       "--calib: wanted --format nvfp4 or fp8, which have scales of inputs");
    if (!nb_pipeline_is_one(input))
        return nb_fail(NB_E_USAGE, "--calib: wanted a picture pipeline to draw with, found %s",
                       input);
    NB_TRY(nb_pipeline_open(input, s->device, &pipeline));
    nb_status status = draw_prompts(o, pipeline, s, out);
    nb_pipeline_close(pipeline);
    if (!status)
        nb_console_say(o->common.console, NB_LOG_INFO, "calibration: %d matrices seen",
                       nb_calibration_count(*out));
    return status;
}

static nb_status quantize(const struct quantize_options *o, const char *input, nb_stream *s,
                          const struct names *components, nb_calibration *calibration)
{
    /* In the order of the words of the options. */
    static const nb_fp4_rule dialects[] = {NB_FP4_MODELOPT, NB_FP4_COMPRESSED_TENSORS,
                                           NB_FP4_COMFY};
    static const nb_fp4_method methods[] = {NB_FP4_MAX, NB_FP4_SWEEP, NB_FP4_FOUR_OVER_SIX};
    struct progress progress = {
        .console = o->common.console, .begin = nb_seconds(), .said = nb_seconds()};
    nb_quantize_result result;
    nb_quantize_args args = {
        .input = input,
        .output = o->output,
        .target = {.format = (nb_quant_format)o->format,
                   .dialect = dialects[o->dialect],
                   .method = methods[o->method]},
        .keep = o->keep.items,
        .n_keep = o->keep.n,
        .components = components->items,
        .n_components = components->n,
        .progress = show_progress,
        .progress_arg = &progress,
        .importance = calibration ? nb_calibration_importance : NULL,
        .input_amax = calibration ? nb_calibration_amax : NULL,
        .calibration_arg = calibration,
    };
    nb_status status = nb_quantize(s, &args, &result);
    nb_console_bar(o->common.console, "");
    if (!status && calibration)
        nb_console_say(o->common.console, NB_LOG_DEBUG,
                       "scales of inputs are written for %" PRId64 " of %" PRId64 " layers",
                       result.n_input_scales, result.n_converted);
    return status ? status : tell(o, &result, nb_seconds() - progress.begin);
}

static nb_status run_on(const struct quantize_options *o, const char *input)
{
    struct names components = {.n = 0};
    nb_device *device;
    nb_stream *s = NULL;
    nb_calibration *calibration = NULL;
    NB_TRY(nb_device_open("cpu", &device));
    nb_status status = nb_stream_create(device, NB_COMPUTE_F32, (int)o->common.threads,
                                        nb_signals_catch(), &s);
    if (!status) status = split(&o->component, &components);
    if (!status) status = calibrate(o, input, s, &calibration);
    if (!status) status = quantize(o, input, s, &components, calibration);
    nb_calibration_destroy(calibration);
    free_names(&components);
    nb_stream_destroy(s);
    nb_device_close(device);
    return status;
}

static nb_status run(void *values, const nb_parsed *parsed)
{
    const struct quantize_options *o = values;
    char *input;
    if (parsed->n_words != 1)
        return nb_fail(NB_E_USAGE, "quantize: wanted one file or folder to read, found %d",
                       parsed->n_words);
    if (!o->output || !*o->output)
        return nb_fail(NB_E_USAGE, "quantize: wanted --output, where to write");
    NB_TRY(nb_model_resolve(parsed->words[0], &input));
    nb_status status = run_on(o, input);
    free(input);
    return status;
}

const nb_command nb_command_quantize = {
    .name = "quantize",
    .summary = "write a checkpoint's weights in four or eight bits, or back",
    .usage = "IN -o OUT",
    .about = "IN is a .safetensors or .gguf file (every matrix is converted), a diffusers\n"
             "folder (the transformer, without the layers that NVIDIA keeps in high\n"
             "precision), the folder of a transformer (likewise) or of an LLM (the linear\n"
             "layers of model.layers). Whatever is not converted is copied byte for byte,\n"
             "and names stay; nunchaku's become those of diffusers. What stands beside a\n"
             "weight, scales of its input and low-rank branches, becomes a part of it. OUT\n"
             "appears when it is complete.\n",
    .examples =
        "nibble quantize ~/models/FLUX.1-dev -o ~/models/FLUX.1-dev-nvfp4\n"
        "# with the scale of each layer's inputs, for runtimes that have them in 4 bits\n"
        "nibble quantize FLUX.1-dev -o flux-w4a4 --calib prompts.txt\n"
        "# with less loss, and the text encoder too\n"
        "nibble quantize FLUX.1-dev -o flux4 --method sweep --component "
        "transformer,text_encoder_2\n"
        "nibble quantize flux1-dev.safetensors -o flux1-fp4.safetensors --dialect comfy\n"
        "nibble quantize flux1-fp4.safetensors -o flux1-again.safetensors --format bf16\n"
        "nibble quantize flux1-dev-Q8_0.gguf -o flux1-fp4.safetensors --method sweep\n",
    .groups = {{"Conversion", options, NB_COUNT(options)}, NB_MESSAGE_GROUP},
    .bytes = sizeof(struct quantize_options),
    .run = run,
};
