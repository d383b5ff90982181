/*
 * nibble bench image: a whole picture with synthetic weights, through the same files, mappings
 * and calls as any other picture.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "cli/bench.h"
#include "cli/bench_profile.h"
#include "cli/measure.h"
#include "kernels/base/file.h"
#include "kernels/base/folder.h"
#include "models/cost.h"
#include "pipeline/synthetic.h"
#include "pipeline/txt2img.h"

enum { DEFAULT_RUNS = 3 };

static const char PROMPT[] = "a photograph of a wooden sailing ship in a quiet harbour at dawn";

/* What is told, in the order of the table. */
typedef enum row {
    ROW_START, /* from opening the folder to the first step, without the encoders' work */
    ROW_CLIP,
    ROW_T5,
    ROW_STEP,
    ROW_VAE,
    ROW_PNG,
    ROW_REST, /* whatever no other row has */
    ROW_WHOLE,
    ROW_COUNT
} row;

static const char *const row_names[ROW_COUNT] = {"start", "clip", "t5",   "step",
                                                 "vae",   "png",  "rest", "whole"};

struct image_bench {
    const struct bench_options *options;
    nb_console *console;
    nb_synthetic_spec spec;
    const char *folder;
    nb_stream *s; /* of the run under way */
    nb_bench_roofs roofs;
    nb_bench_profile *profile;    /* NULL: not asked for */
    nb_bench_times *times;        /* [ROW_COUNT] */
    nb_bench_time now[ROW_COUNT]; /* sums of the run under way; a step counts by itself */
    nb_bench_time stage_began, step_began;
    nb_cost costs[ROW_COUNT]; /* of the part, of one step */
    nb_txt2img_result result;
    int64_t mapped_peak, resident_peak; /* bytes */
    size_t written, to_write;
};

/* ---- memory ---- */

/* A figure of /proc/self/status in bytes, 0 if it is not there. */
static int64_t status_figure(const char *key)
{
    char line[128];
    int64_t bytes = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
            bytes = strtoll(line + strlen(key) + 1, NULL, 10) * 1024;
    if (f) fclose(f);
    return bytes;
}

/* Forgets the peak that writing the weights left; where that is refused it is told as it is. */
static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

static void look_at_memory(struct image_bench *b)
{
    int64_t mapped = status_figure("RssFile"), resident = status_figure("VmHWM");
    if (mapped > b->mapped_peak) b->mapped_peak = mapped;
    if (resident > b->resident_peak) b->resident_peak = resident;
}

/* ---- a run ---- */

static void add_time(nb_bench_time *sum, nb_bench_time time)
{
    sum->wall += time.wall;
    sum->cpu += time.cpu;
}

static row row_of(nb_stage stage)
{
    static const row rows[NB_STAGE_COUNT] = {
        [NB_STAGE_TOKENIZE] = ROW_START,  [NB_STAGE_CLIP] = ROW_CLIP,
        [NB_STAGE_T5] = ROW_T5,           [NB_STAGE_PREPARE] = ROW_START,
        [NB_STAGE_CONDITION] = ROW_START, [NB_STAGE_DENOISE] = ROW_STEP,
        [NB_STAGE_DECODE] = ROW_VAE,
    };
    return rows[stage];
}

static void take_profile(struct image_bench *b, int part, nb_bench_time spent)
{
    if (b->profile) nb_bench_profile_take(b->profile, part, spent);
}

static void take_progress(void *arg, nb_stage stage, int picture, int step, int of,
                          double seconds)
{
    struct image_bench *b = arg;
    (void)picture;
    (void)seconds;
    if (step > 0) {
        nb_bench_time spent = nb_bench_since(b->stage_began);
        if (stage == NB_STAGE_DENOISE) nb_bench_add(&b->times[ROW_STEP], spent);
        add_time(&b->now[row_of(stage)], spent);
        take_profile(b, (int)row_of(stage), spent);
        nb_console_say(b->console, NB_LOG_DEBUG, "%s %d/%d: %.3f s", nb_stage_name(stage), step,
                       of, spent.wall);
        look_at_memory(b);
    } else {
        take_profile(b, -1, (nb_bench_time){0});
    }
    b->stage_began = nb_bench_now();
}

static nb_status take_picture(void *arg, const nb_picture *picture)
{
    struct image_bench *b = arg;
    char *path = nb_path_join(b->folder, "picture.png");
    nb_bench_time begin = nb_bench_now();
    if (!path) return nb_fail(NB_E_SYSTEM, "out of memory");
    nb_status status = nb_picture_write(picture, path, -1, 1);
    b->now[ROW_PNG] = nb_bench_since(begin);
    free(path);
    return status;
}

static nb_txt2img_request make_request(const struct image_bench *b)
{
    const struct bench_options *o = b->options;
    nb_txt2img_request r = NB_TXT2IMG_REQUEST_DEFAULT;
    r.prompt = PROMPT;
    r.guidance = 3.5;
    r.width = o->size[0];
    r.height = o->size[1];
    r.steps = (int)(o->steps ? o->steps : o->arch ? 28 : 4);
    r.t5_length = o->tokens ? o->tokens : o->arch ? 512 : 256;
    r.max_memory = (size_t)o->common.max_ram;
    r.version = NB_VERSION;
    return r;
}

static void take_costs(struct image_bench *b, const nb_pipeline_info *info)
{
    const nb_txt2img_result *r = &b->result;
    int64_t factor = nb_vae_config_factor(&info->vae);
    b->costs[ROW_CLIP] = nb_clip_cost(&info->clip, r->clip_used);
    b->costs[ROW_T5] = nb_t5_cost(&info->t5, r->text_tokens);
    b->costs[ROW_STEP] = nb_flux_cost(&info->flux, r->text_tokens, r->image_tokens);
    b->costs[ROW_VAE] =
        nb_vae_cost(&info->vae, r->request.height / factor, r->request.width / factor);
}

/* From the folder to the PNG. */
static nb_status draw(struct image_bench *b, const nb_device *device)
{
    const nb_txt2img_request request = make_request(b);
    const nb_txt2img_callbacks callbacks = {b, take_progress, take_picture};
    nb_pipeline *pipeline;
    nb_bench_time begin = nb_bench_now();
    memset(b->now, 0, sizeof b->now);
    NB_TRY(nb_pipeline_open(b->folder, device, &pipeline));
    b->now[ROW_START] = nb_bench_since(begin);
    take_profile(b, ROW_START, b->now[ROW_START]);
    nb_status status = nb_txt2img(pipeline, b->s, &request, &callbacks, &b->result);
    b->now[ROW_WHOLE] = nb_bench_since(begin);
    if (!status) take_costs(b, nb_pipeline_get_info(pipeline));
    nb_pipeline_close(pipeline);
    return status;
}

static void keep_run(struct image_bench *b)
{
    nb_bench_time rest = b->now[ROW_WHOLE];
    for (int i = 0; i < ROW_REST; i++) {
        rest.wall -= b->now[i].wall;
        rest.cpu -= b->now[i].cpu;
        if (i != ROW_STEP) nb_bench_add(&b->times[i], b->now[i]);
    }
    nb_bench_add(&b->times[ROW_REST], rest);
    nb_bench_add(&b->times[ROW_WHOLE], b->now[ROW_WHOLE]);
}

/* ---- the table ---- */

static int is_cut(const struct image_bench *b)
{
    return b->spec.n_double < NB_FLUX_DOUBLE_BLOCKS || b->spec.n_single < NB_FLUX_SINGLE_BLOCKS;
}

static int is_shown(const struct image_bench *b, row r)
{
    static const nb_part part_of[ROW_COUNT] = {[ROW_CLIP] = NB_PART_CLIP,
                                               [ROW_T5] = NB_PART_T5,
                                               [ROW_STEP] = NB_PART_FLUX,
                                               [ROW_VAE] = NB_PART_VAE};
    unsigned all = (1u << NB_PART_COUNT) - 1u;
    if (r == ROW_CLIP || r == ROW_T5 || r == ROW_STEP || r == ROW_VAE)
        return (b->spec.parts >> part_of[r]) & 1;
    return r == ROW_PNG || b->spec.parts == all;
}

/* A step with all blocks, by the arithmetic that it has more. */
static double full_step(const struct image_bench *b, double seconds)
{
    const nb_txt2img_result *r = &b->result;
    nb_flux_config config = {.n_double = NB_FLUX_DOUBLE_BLOCKS,
                             .n_single = NB_FLUX_SINGLE_BLOCKS,
                             .in_channels = 64,
                             .out_channels = 64,
                             .n_heads = 24,
                             .head_dim = 128};
    nb_cost full = nb_flux_cost(&config, r->text_tokens, r->image_tokens);
    return seconds * nb_cost_sum(full) / nb_cost_sum(b->costs[ROW_STEP]);
}

static void set_computed(const struct image_bench *b, row r, json_t *json, double seconds)
{
    double step = nb_bench_stats_of(&b->times[ROW_STEP]).median;
    double more = full_step(b, step) - step;
    if (!is_cut(b)) return;
    if (r == ROW_STEP) json_object_set_new(json, "computed_full", json_real(seconds + more));
    if (r == ROW_WHOLE)
        json_object_set_new(json, "computed_full",
                            json_real(seconds + b->result.request.steps * more));
}

/* Of the policies that a part's products have, that of most of them. */
static nb_roof roof_of(const struct image_bench *b, row r)
{
    nb_compute policy = b->s->compute,
               plain = policy < NB_COMPUTE_BF16 ? policy : NB_COMPUTE_BF16;
    nb_quant_format format = r == ROW_T5     ? b->spec.text_weights
                             : r == ROW_STEP ? b->spec.weights
                                             : NB_QUANT_BF16;
    int is_plain = format == NB_QUANT_F32 || format == NB_QUANT_BF16;
    return nb_roof_of_compute(is_plain ? plain : policy, nb_device_caps(b->s->device));
}

static nb_status add_row(const struct image_bench *b, row r, nb_bench_report *report)
{
    nb_bench_stats stats = nb_bench_stats_of(&b->times[r]);
    double work = nb_cost_sum(b->costs[r]), rate = work / stats.median;
    double peak = b->roofs.all[roof_of(b, r)];
    json_t *json = json_pack("{s:s}", "part", row_names[r]);
    if (json_array_append(report->rows, json) != 0)
        return nb_fail(NB_E_SYSTEM, "out of memory for the results");
    nb_bench_set_stats(json, &stats);
    if (work > 0) {
        json_object_set_new(json, "tflop", json_real(1e-12 * work));
        json_object_set_new(json, "gflops", json_real(1e-9 * rate));
        if (peak > 0) json_object_set_new(json, "peak_percent", json_real(100 * rate / peak));
        json_object_set_new(json, "roof", json_string(nb_roof_name(roof_of(b, r))));
    }
    set_computed(b, r, json, stats.median);
    if (r == ROW_WHOLE)
        json_object_set_new(json, "pictures_per_second", json_real(1 / stats.median));
    json_decref(json);
    return NB_OK;
}

static nb_status describe(const struct image_bench *b, nb_bench_report *report)
{
    const nb_txt2img_result *r = &b->result;
    size_t bytes[NB_PART_COUNT] = {0};
    for (int i = 0; i < NB_PART_COUNT; i++)
        NB_TRY(nb_synthetic_part_bytes(&b->spec, (nb_part)i, &bytes[i]));
    json_t *about = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:i, s:I, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I}", "arch",
        b->spec.guidance ? "flux-dev" : "flux-schnell", "weights",
        nb_bench_format_name(b->spec.weights), "text_weights",
        nb_bench_format_name(b->spec.text_weights), "width", (json_int_t)r->request.width,
        "height", (json_int_t)r->request.height, "steps", r->request.steps, "text_tokens",
        (json_int_t)r->text_tokens, "double_blocks", (json_int_t)b->spec.n_double,
        "single_blocks", (json_int_t)b->spec.n_single, "runs", b->times[ROW_WHOLE].n,
        "transformer_bytes", (json_int_t)bytes[NB_PART_FLUX], "t5_bytes",
        (json_int_t)bytes[NB_PART_T5], "resident_peak_bytes", (json_int_t)b->resident_peak,
        "mapped_peak_bytes", (json_int_t)b->mapped_peak, "arena_peak_bytes",
        (json_int_t)r->peak_bytes);
    if (!about || json_object_update(report->about, about) != 0) {
        json_decref(about);
        return nb_fail(NB_E_SYSTEM, "out of memory for the results");
    }
    json_decref(about);
    return NB_OK;
}

/* What the table for people says below its rows. */
static void make_note(const struct image_bench *b, char *note, size_t bytes)
{
    const nb_txt2img_result *r = &b->result;
    int n = snprintf(
        note, bytes,
        "%s %" PRId64 "x%" PRId64 ", %d steps, %" PRId64 " text tokens, %s weights (text %s), "
        "%d run%s; s: %s, cpu s: of all processors.\n"
        "Peak memory %.2f GB: at most %.2f GB of weights mapped at once, %.2f GB of "
        "activations.",
        b->spec.guidance ? "flux-dev" : "flux-schnell", r->request.width, r->request.height,
        r->request.steps, r->text_tokens, nb_bench_format_name(b->spec.weights),
        nb_bench_format_name(b->spec.text_weights), b->times[ROW_WHOLE].n,
        b->times[ROW_WHOLE].n == 1 ? "" : "s",
        b->profile ? "mean" : "median, +-: half of the range", 1e-9 * (double)b->resident_peak,
        1e-9 * (double)b->mapped_peak, 1e-9 * (double)r->peak_bytes);
    if (is_cut(b) && (size_t)n < bytes)
        n += snprintf(
            note + n, bytes - (size_t)n,
            "\nThe transformer has %" PRId64 " double and %" PRId64
            " single blocks of 19 and 38%s.",
            b->spec.n_double, b->spec.n_single,
            b->profile
                ? ""
                : "; \"all blocks s\" is computed from that by the number of operations");
    if (b->profile && (size_t)n < bytes)
        n += snprintf(note + n, bytes - (size_t)n,
                      "\nfloor: what the operations take at the peak of registers, or their "
                      "bytes at the rate of reading memory, call by call whichever is longer; "
                      "data that lies in a cache can be faster. none: in no operation.");
    if (is_shown(b, ROW_WHOLE) && !is_cut(b) && (size_t)n < bytes)
        snprintf(note + n, bytes - (size_t)n, "\n%.4f pictures a second.",
                 1 / nb_bench_stats_of(&b->times[ROW_WHOLE]).median);
}

static nb_status add_parts(const struct image_bench *b, nb_bench_report *report)
{
    static const nb_bench_column columns[] = {
        {"part", "part", 0},
        {"seconds", "s", 3},
        {"spread", "+-", 3},
        {"cpu_seconds", "cpu s", 3},
        {"tflop", "TFLOP", 3},
        {"gflops", "GFLOP/s", 1},
        {"peak_percent", "% of peak", 1},
        {"roof", "peak of", 0},
        {"computed_full", "all blocks s", 3},
    };
    report->columns = columns;
    report->n_columns = (int)NB_COUNT(columns);
    for (int i = 0; i < ROW_COUNT; i++)
        if (is_shown(b, (row)i)) NB_TRY(add_row(b, (row)i, report));
    return NB_OK;
}

/* Where the time of each part goes, instead of how long each takes. */
static nb_status add_operations(const struct image_bench *b, nb_bench_report *report)
{
    int runs = b->times[ROW_WHOLE].n;
    report->columns = nb_bench_profile_columns;
    report->n_columns = nb_bench_profile_n_columns;
    for (int i = 0; i < ROW_PNG; i++)
        if (is_shown(b, (row)i))
            NB_TRY(nb_bench_profile_add_rows(
                b->profile, i, row_names[i],
                i == ROW_STEP ? runs * b->result.request.steps : runs, report->rows));
    return NB_OK;
}

static nb_status print(const struct image_bench *b)
{
    nb_bench_report report;
    char note[1280];
    NB_TRY(nb_bench_report_init(&report, b->s, &b->roofs));
    make_note(b, note, sizeof note);
    report.note = note;
    nb_status status = describe(b, &report);
    if (!status) status = b->profile ? add_operations(b, &report) : add_parts(b, &report);
    if (!status) status = nb_bench_print(&report, (nb_bench_format)b->options->format);
    nb_bench_report_fini(&report);
    return status;
}

/* ---- runs ---- */

static nb_status measure_on(struct image_bench *b, const nb_device *device)
{
    int64_t runs = b->options->runs ? b->options->runs : DEFAULT_RUNS;
    unsigned which =
        1u << roof_of(b, ROW_STEP) | 1u << roof_of(b, ROW_T5) | 1u << roof_of(b, ROW_VAE);
    if (b->options->profile) which = (1u << NB_ROOF_COUNT) - 1u;
    NB_TRY(nb_bench_measure_roofs(b->s, which, &b->roofs));
    if (b->options->profile)
        NB_TRY(nb_bench_profile_create(b->s, &b->roofs, ROW_COUNT, &b->profile));
    reset_peak();
    for (int64_t i = 0; i < runs; i++) {
        NB_TRY(draw(b, device));
        keep_run(b);
        nb_console_say(b->console, NB_LOG_INFO, "run %" PRId64 " of %" PRId64 ": %.2f s", i + 1,
                       runs, b->now[ROW_WHOLE].wall);
    }
    return print(b);
}

/* As nibble image would compute the same pipeline. */
static nb_status open_stream(struct image_bench *b, const nb_device *device)
{
    const nb_common_options *common = &b->options->common;
    nb_pipeline *pipeline;
    nb_arithmetic arithmetic;
    NB_TRY(nb_pipeline_open(b->folder, device, &pipeline));
    nb_status status = nb_machine_compute(common, device, pipeline, &arithmetic);
    nb_pipeline_close(pipeline);
    if (status) return status;
    return nb_stream_create(device, arithmetic.compute, (int)common->threads,
                            nb_signals_catch(), &b->s);
}

static nb_status measure(struct image_bench *b, const char *folder)
{
    nb_device *device;
    b->folder = folder;
    b->times = calloc(ROW_COUNT, sizeof *b->times);
    if (!b->times) return nb_fail(NB_E_SYSTEM, "out of memory for the results");
    nb_status status = nb_machine_open(&b->options->common, &device);
    if (!status) {
        status = open_stream(b, device);
        if (!status) status = measure_on(b, device);
        nb_bench_profile_destroy(b->profile);
        nb_stream_destroy(b->s);
        nb_device_close(device);
    }
    free(b->times);
    return status;
}

/* ---- the folder ---- */

static void tell_written(void *arg, size_t bytes)
{
    struct image_bench *b = arg;
    char line[96], done[NB_AMOUNT_BYTES], of[NB_AMOUNT_BYTES];
    b->written += bytes;
    if (b->console->quiet || !b->console->terminal) return;
    snprintf(line, sizeof line, "writing weights, %s of %s",
             nb_amount_text((double)b->written, "B", done),
             nb_amount_text((double)b->to_write, "B", of));
    nb_console_bar(b->console, line);
}

/* Is there room for the weights where `folder` is? */
static nb_status check_room(struct image_bench *b, const char *folder)
{
    struct statvfs fs;
    for (int i = 0; i < NB_PART_COUNT; i++) {
        size_t bytes;
        NB_TRY(nb_synthetic_part_bytes(&b->spec, (nb_part)i, &bytes));
        b->to_write += bytes;
    }
    if (statvfs(folder, &fs) != 0) return NB_OK; /* writing will tell */
    char wanted[NB_AMOUNT_BYTES], found[NB_AMOUNT_BYTES];
    double room = (double)fs.f_bavail * (double)fs.f_frsize;
    if (room > 1.02 * (double)b->to_write) return NB_OK;
    return nb_fail(NB_E_CANTCREATE, "%s: wanted room for %s of weights, found %s", folder,
                   nb_amount_text((double)b->to_write, "B", wanted),
                   nb_amount_text(room, "B", found));
}

static nb_status fill(struct image_bench *b, const char *folder)
{
    const nb_synthetic_watch watch = {nb_signals_catch(), tell_written, b};
    char size[NB_AMOUNT_BYTES];
    NB_TRY(check_room(b, folder));
    nb_console_say(b->console, NB_LOG_INFO, "writing %s of weights to %s",
                   nb_amount_text((double)b->to_write, "B", size), folder);
    nb_status status = nb_synthetic_pipeline_write(&b->spec, folder, &watch);
    nb_console_bar(b->console, "");
    return status;
}

/* Weights that go with the run, whether it ends well or not. */
static nb_status run_temporary(struct image_bench *b)
{
    const char *place = nb_getenv("TMPDIR");
    nb_folder_writer *w;
    char *path = nb_path_join(place ? place : "/tmp", "nibble-bench");
    if (!path) return nb_fail(NB_E_SYSTEM, "out of memory");
    nb_status status = nb_folder_writer_open(path, &w);
    free(path);
    NB_TRY(status);
    status = fill(b, nb_folder_writer_path(w));
    if (!status) status = measure(b, nb_folder_writer_path(w));
    nb_folder_writer_abort(w);
    return status;
}

static nb_status write_kept(struct image_bench *b, const char *folder)
{
    nb_folder_writer *w;
    NB_TRY(nb_folder_writer_open(folder, &w));
    nb_status status = fill(b, nb_folder_writer_path(w));
    if (!status) return nb_folder_writer_commit(w);
    nb_folder_writer_abort(w);
    return status;
}

static nb_status run_kept(struct image_bench *b, const char *folder)
{
    if (!nb_pipeline_is_one(folder)) NB_TRY(write_kept(b, folder));
    NB_TRY(nb_synthetic_pipeline_check(&b->spec, folder));
    return measure(b, folder);
}

/* ---- what was asked for ---- */

/* Bits of the parts that are named, with commas between them. */
static nb_status read_parts(const char *text, unsigned *out)
{
    static const struct {
        const char *name;
        nb_part part;
    } names[] = {{"clip", NB_PART_CLIP},
                 {"t5", NB_PART_T5},
                 {"step", NB_PART_FLUX},
                 {"vae", NB_PART_VAE}};
    *out = text ? 0 : (1u << NB_PART_COUNT) - 1u;
    while (text) {
        size_t n = strcspn(text, ","), i = 0;
        while (i < NB_COUNT(names) &&
               (strlen(names[i].name) != n || strncmp(names[i].name, text, n) != 0))
            i++;
        if (i == NB_COUNT(names))
            return nb_fail(NB_E_USAGE, "--parts: wanted names of clip,t5,step,vae, found %.*s",
                           (int)(n < 60 ? n : 60), text);
        *out |= 1u << names[i].part;
        text = text[n] ? text + n + 1 : NULL;
    }
    return NB_OK;
}

nb_status nb_bench_image(const struct bench_options *o)
{
    int weights = o->weights ? o->weights - 1 : 0;
    struct image_bench b = {
        .options = o,
        .console = o->common.console,
        .spec = {.guidance = o->arch,
                 .n_double = o->n_double,
                 .n_single = o->n_single,
                 .weights = nb_bench_formats[weights],
                 .text_weights =
                     nb_bench_formats[o->text_weights ? o->text_weights - 1 : weights]},
    };
    NB_TRY(read_parts(o->parts, &b.spec.parts));
    return o->keep ? run_kept(&b, o->keep) : run_temporary(&b);
}
