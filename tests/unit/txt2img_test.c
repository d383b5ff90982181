/*
 * The picture path around the arithmetic (which the golden cases check): defaults, limits,
 * batches, recipes, stopping, memory, and directories that are not what they should be.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/base/json.h"
#include "kernels/base/log.h"
#include "kernels/base/sha256.h"
#include "models/safetensors.h"
#include "pipeline/png.h"
#include "pipeline/txt2img.h"

#define MODELS "golden/flux/models"

static char folder[] = "/tmp/nibble-txt2img-XXXXXX";
static nb_device *device;
static int n_warnings, n_exploded;

static void count_warnings(void *arg, nb_log_level level, const char *line)
{
    (void)arg;
    n_warnings += level == NB_LOG_WARN;
    n_exploded += level == NB_LOG_WARN && strstr(line, "about 1 is usual") != NULL;
}

static int set_up(void **state)
{
    (void)state;
    nb_log_set_sink(count_warnings, NULL);
    return mkdtemp(folder) && nb_device_open("cpu", &device) == NB_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[64];
    (void)state;
    nb_device_close(device);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* A file of the test's folder; the storage is reused. */
static const char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static nb_txt2img_request small_request(void)
{
    nb_txt2img_request r = NB_TXT2IMG_REQUEST_DEFAULT;
    r.prompt = "a caf\xc3\xa9, small";
    r.width = r.height = 32;
    r.steps = 2;
    r.t5_length = 8;
    r.seed = 5;
    r.version = "1.2.3";
    return r;
}

/* ---- running ------------------------------------------------------------------------------
 */

enum { MAX_PICTURES = 4 };

/* What a run gave, and how it is to be disturbed. */
struct run {
    nb_txt2img_result result;
    int n;
    char sha256[MAX_PICTURES][65];
    uint64_t seeds[MAX_PICTURES];
    int64_t draws[MAX_PICTURES];
    const char *png;          /* write the last picture there */
    nb_status picture_status; /* what the picture callback answers */
    atomic_int stop;
    int stop_at; /* denoise step at which the flag goes up; 0: never */
    nb_stream *stream;
    size_t chunks_first, chunks_last; /* arena allocations at the first and the last step */
    int threads;
    unsigned stages; /* bit of each stage that was told of */
};

static void on_progress(void *arg, nb_stage stage, int picture, int step, int of,
                        double seconds)
{
    struct run *run = arg;
    size_t chunks = nb_arena_get_stats(run->stream->arena).chunk_allocations;
    assert_true(seconds >= 0 && step <= of && picture >= 0);
    run->stages |= 1u << stage;
    if (stage != NB_STAGE_DENOISE) return;
    if (step == 1) run->chunks_first = chunks;
    if (step == of) run->chunks_last = chunks;
    if (step && step == run->stop_at) atomic_store(&run->stop, 1);
}

static nb_status on_picture(void *arg, const nb_picture *p)
{
    struct run *run = arg;
    assert_true(run->n < MAX_PICTURES);
    memcpy(run->sha256[run->n], p->sha256, sizeof p->sha256);
    run->seeds[run->n] = p->seed;
    run->draws[run->n++] = p->draw;
    if (run->png) assert_int_equal(nb_picture_write(p, run->png, -1, 1), NB_OK);
    if (run->picture_status) return nb_fail(run->picture_status, "no more pictures");
    return NB_OK;
}

static nb_status run_model(struct run *run, const char *model, const nb_txt2img_request *r)
{
    nb_pipeline *p;
    NB_TRY(nb_pipeline_open(model, device, &p));
    assert_int_equal(nb_stream_create(device, NB_COMPUTE_F32, run->threads ? run->threads : 1,
                                      &run->stop, &run->stream),
                     NB_OK);
    const nb_txt2img_callbacks callbacks = {run, on_progress, on_picture};
    nb_status status = nb_txt2img(p, run->stream, r, &callbacks, &run->result);
    nb_stream_destroy(run->stream);
    nb_pipeline_close(p);
    return status;
}

/* ---- requests -----------------------------------------------------------------------------
 */

static void check_defaults(const char *model, int steps, int64_t t5_length,
                           nb_noise_dtype noise)
{
    nb_pipeline *p;
    nb_txt2img_request r = NB_TXT2IMG_REQUEST_DEFAULT;
    assert_int_equal(nb_pipeline_open(model, device, &p), NB_OK);
    for (int twice = 0; twice < 2; twice++) {
        assert_int_equal(nb_txt2img_resolve(p, &r), NB_OK);
        assert_int_equal(r.width, 64); /* the VAE's sample_size */
        assert_int_equal(r.height, 64);
        assert_int_equal(r.steps, steps);
        assert_int_equal(r.t5_length, t5_length);
        assert_int_equal(r.noise, noise);
        assert_int_equal(r.batch_count, 1);
        assert_true(r.guidance == 3.5 && r.true_cfg == 1);
    }
    nb_pipeline_close(p);
}

static void defaults(void **state)
{
    (void)state;
    check_defaults(MODELS "/dev", 28, 512, NB_NOISE_F32);
    check_defaults(MODELS "/schnell", 4, 256, NB_NOISE_BF16);
    check_defaults(MODELS "/f16", 28, 512, NB_NOISE_F16);
}

static void sizes_are_floored(void **state)
{
    (void)state;
    nb_pipeline *p;
    nb_txt2img_request r = small_request();
    assert_int_equal(nb_pipeline_open(MODELS "/dev", device, &p), NB_OK);
    n_warnings = 0;
    assert_int_equal(nb_txt2img_resolve(p, &r), NB_OK);
    assert_int_equal(n_warnings, 0);
    r.width = 107;
    r.height = 75;
    assert_int_equal(nb_txt2img_resolve(p, &r), NB_OK);
    assert_int_equal(n_warnings, 1);
    assert_int_equal(r.width, 96);
    assert_int_equal(r.height, 64);
    nb_pipeline_close(p);
}

static void check_refused(nb_txt2img_request r, const char *word)
{
    struct run run = {0};
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_E_USAGE);
    if (!strstr(nb_error_message(), word))
        fail_msg("\"%s\" lacks %s", nb_error_message(), word);
    assert_int_equal(run.n, 0);
}

#define CHECK_REFUSED(field, value, word)                                                      \
    do {                                                                                       \
        nb_txt2img_request refused = small_request();                                          \
        refused.field = value;                                                                 \
        check_refused(refused, word);                                                          \
    } while (0)

static void limits(void **state)
{
    (void)state;
    CHECK_REFUSED(width, 8, "width");
    CHECK_REFUSED(height, 1 << 20, "height");
    CHECK_REFUSED(steps, -1, "steps");
    CHECK_REFUSED(steps, 1001, "steps");
    CHECK_REFUSED(guidance, 1e30, "guidance");
    CHECK_REFUSED(true_cfg, -1, "true CFG");
    CHECK_REFUSED(t5_length, 513, "T5 length");
    CHECK_REFUSED(batch_count, -2, "batch");
    CHECK_REFUSED(rng_sms, -2, "multiprocessors");
    nb_txt2img_request r = small_request();
    r.only_set = 1;
    r.only = 1;
    check_refused(r, "picture");
    r = small_request();
    r.rng = NB_RNG_TORCH_CUDA;
    r.noise = NB_NOISE_BF16_8BIT;
    check_refused(r, "bf16-8bit");
}

static void prompt_is_not_utf8(void **state)
{
    (void)state;
    struct run run = {0};
    nb_txt2img_request r = small_request();
    r.prompt = "bad \xff byte";
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_E_DATA);
    assert_non_null(strstr(nb_error_message(), "prompt"));
}

/* ---- pictures -----------------------------------------------------------------------------
 */

static void check_pixels(const char *path, const char *sha256)
{
    nb_image image;
    nb_sha256 h;
    unsigned char digest[NB_SHA256_BYTES];
    char hex[65];
    assert_int_equal(nb_png_read(path, &image), NB_OK);
    nb_sha256_init(&h);
    nb_sha256_update(&h, image.rgb, (size_t)(3 * image.width * image.height));
    nb_sha256_final(&h, digest);
    nb_sha256_hex(digest, hex);
    assert_string_equal(hex, sha256);
    free(image.rgb);
}

static void recipe(void **state)
{
    (void)state;
    struct run run = {.png = in_folder("recipe.png")};
    nb_txt2img_request r = small_request();
    char *text;
    json_t *json, *model;
    r.seed = UINT64_MAX;
    r.negative_prompt = "no\nlines";
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_OK);
    assert_int_equal(run.stages, (1u << NB_STAGE_COUNT) - 1);
    assert_int_equal(run.result.n_pictures, 1);
    assert_int_equal(run.result.n_steps, 2);
    check_pixels(run.png, run.sha256[0]);

    assert_int_equal(nb_png_read_text(run.png, "nibble", &text), NB_OK);
    assert_non_null(text);
    assert_int_equal(nb_json_parse("nibble", text, strlen(text), &json), NB_OK);
    free(text);
    assert_string_equal(json_string_value(json_object_get(json, "nibble")), "1.2.3");
    assert_string_equal(json_string_value(json_object_get(json, "prompt")), r.prompt);
    assert_string_equal(json_string_value(json_object_get(json, "pixels")), run.sha256[0]);
    assert_string_equal(json_string_value(json_object_get(json, "seed")),
                        "18446744073709551615");
    assert_string_equal(json_string_value(json_object_get(json, "compute")), "f32");
    assert_int_equal(json_integer_value(json_object_get(json, "steps")), 2);
    model = json_object_get(json, "model");
    for (int i = 0; i < NB_PART_COUNT; i++)
        assert_int_equal(json_string_length(json_object_get(model, nb_part_name((nb_part)i))),
                         64);
    json_decref(json);

    assert_int_equal(nb_png_read_text(run.png, "parameters", &text), NB_OK);
    assert_non_null(text);
    assert_non_null(
        strstr(text, "a caf\xc3\xa9, small\nNegative prompt: no\nlines\nSteps: 2, "));
    assert_non_null(strstr(text, "Distilled CFG Scale: 3.5, Seed: 18446744073709551615, "
                                 "Size: 32x32, Model hash: "));
    free(text);
}

/* One generator goes on; --seed-step is a generator each; any picture can be made alone. */
static void batches(void **state)
{
    (void)state;
    struct run batch = {0}, steps = {0}, single = {0}, alone = {0};
    nb_txt2img_request r = small_request();
    r.batch_count = 3;
    assert_int_equal(run_model(&batch, MODELS "/dev", &r), NB_OK);
    assert_int_equal(batch.n, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(batch.seeds[i], 5);
        assert_int_equal(batch.draws[i], i);
    }
    r.seed_step = 1;
    assert_int_equal(run_model(&steps, MODELS "/dev", &r), NB_OK);
    assert_int_equal(steps.seeds[2], 7);
    assert_int_equal(steps.draws[2], 0);
    assert_string_equal(steps.sha256[0], batch.sha256[0]);
    assert_string_not_equal(steps.sha256[2], batch.sha256[2]);
    r.seed_step = 0;
    r.only_set = 1;
    r.only = 2;
    assert_int_equal(run_model(&alone, MODELS "/dev", &r), NB_OK);
    assert_int_equal(alone.n, 1);
    assert_string_equal(alone.sha256[0], batch.sha256[2]);
    r = small_request();
    r.seed = 7;
    assert_int_equal(run_model(&single, MODELS "/dev", &r), NB_OK);
    assert_string_equal(single.sha256[0], steps.sha256[2]);
}

/* torch.randn on a CUDA device: the values of a batch depend on its size. */
static void cuda_batch_is_one_draw(void **state)
{
    (void)state;
    enum { N = 16 * 4 * 4 };
    static float want[2 * N];
    struct run run = {0};
    nb_safetensors *file;
    nb_generator g;
    nb_txt2img_request r = small_request();
    r.batch_count = 2;
    r.rng = NB_RNG_TORCH_CUDA;
    r.rng_sms = 1;
    r.rng_sm_threads = 256;
    r.dump = in_folder("cuda.safetensors");
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_OK);
    nb_generator_init(&g, NB_RNG_TORCH_CUDA, 5);
    g.sms = 1;
    g.sm_threads = 256;
    assert_int_equal(nb_generator_randn(&g, NB_NOISE_F32, want, 2 * N), NB_OK);
    assert_int_equal(nb_safetensors_open(r.dump, &file), NB_OK);
    const nb_stored *noise = nb_safetensors_find(file, "noise");
    assert_non_null(noise);
    assert_int_equal(noise->bytes, sizeof want);
    assert_memory_equal(noise->data, want, sizeof want);
    nb_safetensors_close(file);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    struct run one = {.threads = 1};
    nb_txt2img_request r = small_request();
    assert_int_equal(run_model(&one, MODELS "/schnell", &r), NB_OK);
    for (int threads = 2; threads <= 7; threads += 5) {
        struct run more = {.threads = threads};
        assert_int_equal(run_model(&more, MODELS "/schnell", &r), NB_OK);
        assert_string_equal(more.sha256[0], one.sha256[0]);
    }
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    struct run run = {.threads = 2};
    nb_txt2img_request r = small_request();
    r.steps = 6;
    r.negative_prompt = "";
    r.true_cfg = 2;
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_OK);
    assert_true(run.chunks_first > 0);
    assert_int_equal(run.chunks_first, run.chunks_last);
}

/* ---- ends before the end ------------------------------------------------------------------
 */

static void stopping(void **state)
{
    (void)state;
    struct run later = {.stop_at = 1}, at_once = {.stop = 1};
    nb_txt2img_request r = small_request();
    assert_int_equal(run_model(&later, MODELS "/dev", &r), NB_E_STOPPED);
    assert_int_equal(later.n, 0);
    assert_int_equal(later.result.n_steps, 1);
    assert_int_equal(run_model(&at_once, MODELS "/dev", &r), NB_E_STOPPED);
    assert_int_equal(at_once.result.n_steps, 0);
}

static void picture_callback_fails(void **state)
{
    (void)state;
    struct run run = {.picture_status = NB_E_IO};
    nb_txt2img_request r = small_request();
    r.batch_count = 3;
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_E_IO);
    assert_int_equal(run.n, 1);
    assert_string_equal(nb_error_message(), "no more pictures");
}

/* A limit that the whole picture does not fit in, but tiles do; and one that nothing fits in.
 */
static void memory_limit(void **state)
{
    (void)state;
    nb_pipeline *p;
    const nb_vae *vae;
    struct run whole = {0}, tiled = {0}, none = {0};
    nb_txt2img_request r = small_request();
    r.width = r.height = 128; /* tiles are of 64 pixels */
    r.steps = 1;
    assert_int_equal(nb_pipeline_open(MODELS "/dev", device, &p), NB_OK);
    assert_int_equal(nb_pipeline_vae(p, &vae), NB_OK);
    size_t most = nb_vae_decode_bytes(vae, 16, 16, 0);
    assert_true(nb_vae_decode_bytes(vae, 16, 16, 1) < most);
    nb_pipeline_close(p);
    r.max_memory = most;
    assert_int_equal(run_model(&whole, MODELS "/dev", &r), NB_OK);
    assert_false(whole.result.tiled);
    r.max_memory = most - 1;
    assert_int_equal(run_model(&tiled, MODELS "/dev", &r), NB_OK);
    assert_true(tiled.result.tiled);
    assert_string_not_equal(tiled.sha256[0], whole.sha256[0]);
    r.max_memory = 1000;
    assert_int_equal(run_model(&none, MODELS "/dev", &r), NB_E_USAGE);
}

/* ---- initial latents ----------------------------------------------------------------------
 */

static const char *write_latents(const char *name, nb_dtype dtype, int rank,
                                 const int64_t *shape, float value)
{
    static float all[4 * 16 * 4 * 4];
    const char *path = in_folder("latents.safetensors");
    nb_stored t = {.name = name, .file = "", .dtype = dtype, .rank = rank, .data = all};
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    t.bytes = (size_t)nb_stored_count(&t) * nb_dtype_bytes(dtype);
    assert_true(t.bytes <= sizeof all);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) all[i] = value;
    assert_int_equal(nb_safetensors_write(path, &t, 1, NULL), NB_OK);
    return path;
}

static void init_latents(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        nb_dtype dtype;
        int rank;
        int64_t shape[4];
        nb_status status;
    } cases[] = {
        {"latents", NB_DTYPE_F32, 3, {1, 4, 64}, NB_OK},
        {"latents", NB_DTYPE_BF16, 4, {1, 16, 4, 4}, NB_OK},
        {"latents", NB_DTYPE_F32, 4, {2, 16, 4, 4}, NB_OK},
        {"latents", NB_DTYPE_F32, 3, {3, 4, 64}, NB_E_DATA},
        {"latents", NB_DTYPE_F32, 3, {1, 64, 4}, NB_E_DATA},
        {"latents", NB_DTYPE_I32, 3, {1, 4, 64}, NB_E_DATA},
        {"latents", NB_DTYPE_F32, 0, {0}, NB_E_DATA},
        {"noise", NB_DTYPE_F32, 3, {1, 4, 64}, NB_E_DATA},
    };
    nb_txt2img_request r = small_request();
    r.steps = 1;
    r.batch_count = 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run run = {0};
        r.init_latents =
            write_latents(cases[i].name, cases[i].dtype, cases[i].rank, cases[i].shape, 0);
        assert_int_equal(run_model(&run, MODELS "/dev", &r), cases[i].status);
        if (cases[i].status)
            assert_non_null(strstr(nb_error_message(), "latents"));
        else
            assert_string_equal(run.sha256[0], run.sha256[1]);
    }
    struct run run = {0};
    r.init_latents = "/nonexistent.safetensors";
    assert_int_equal(run_model(&run, MODELS "/dev", &r), NB_E_NOINPUT);
}

/* A white picture is never handed out as if nothing were wrong. */
static void exploded_latents(void **state)
{
    (void)state;
    static const int64_t shape[] = {1, 4, 64};
    struct run usual = {0}, large = {0}, infinite = {0};
    nb_txt2img_request r = small_request();
    r.steps = 1;
    r.init_latents = write_latents("latents", NB_DTYPE_F32, 3, shape, 1);
    n_exploded = 0;
    assert_int_equal(run_model(&usual, MODELS "/dev", &r), NB_OK);
    assert_int_equal(n_exploded, 0);
    r.init_latents = write_latents("latents", NB_DTYPE_F32, 3, shape, 1000);
    assert_int_equal(run_model(&large, MODELS "/dev", &r), NB_OK);
    assert_int_equal(n_exploded, 1);
    r.init_latents = write_latents("latents", NB_DTYPE_F32, 3, shape, INFINITY);
    assert_int_equal(run_model(&infinite, MODELS "/dev", &r), NB_E_DATA);
    assert_non_null(strstr(nb_error_message(),
                           "dev: transformer, step 1 of 1: 256 of 256 latents are not finite"));
    assert_int_equal(infinite.result.n_pictures, 0);
}

/* ---- directories --------------------------------------------------------------------------
 */

static const char *const part_names[] = {"scheduler", "text_encoder", "text_encoder_2",
                                         "tokenizer", "tokenizer_2",  "transformer",
                                         "vae"};

static void shell(const char *format, ...) NB_PRINTF(1, 2);

static void shell(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(command, sizeof command, format, args);
    va_end(args);
    assert_in_range(n, 1, sizeof command - 1);
    assert_int_equal(system(command), 0);
}

/* A copy of dev by links, called `model`; `without` is left out. */
static const char *link_model(const char *without)
{
    const char *to = in_folder("model");
    shell("rm -rf %s && mkdir %s && cp " MODELS "/dev/model_index.json %s", to, to, to);
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++)
        if (!without || strcmp(without, part_names[i]) != 0)
            shell("ln -s $PWD/" MODELS "/dev/%s %s", part_names[i], to);
    return to;
}

static void missing_parts(void **state)
{
    (void)state;
    nb_pipeline *p;
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++) {
        struct run run = {0};
        nb_txt2img_request r = small_request();
        const char *model = link_model(part_names[i]);
        assert_int_equal(run_model(&run, model, &r), NB_E_NOINPUT);
        assert_non_null(strstr(nb_error_message(), part_names[i]));
    }
    assert_int_equal(nb_pipeline_open("/nonexistent", device, &p), NB_E_NOINPUT);
    assert_non_null(strstr(nb_error_message(), "/nonexistent"));
    assert_true(nb_pipeline_is_one(MODELS "/dev"));
    assert_false(nb_pipeline_is_one(MODELS));
}

/* dev with `from` replaced by `to` in one file, which is said to be wrong by `word`. */
static void check_edited(const char *part, const char *file, const char *from, const char *to,
                         const char *word)
{
    nb_pipeline *p;
    const char *model = link_model(part);
    if (*part) shell("cp -r " MODELS "/dev/%s %s", part, model);
    shell("sed -i 's/%s/%s/' %s/%s/%s", from, to, model, part, file);
    shell("grep -q '%s' %s/%s/%s", to, model, part, file);
    assert_int_equal(nb_pipeline_open(model, device, &p), NB_E_DATA);
    if (!strstr(nb_error_message(), word))
        fail_msg("\"%s\" lacks %s", nb_error_message(), word);
}

static void wrong_directories(void **state)
{
    (void)state;
    check_edited("", "model_index.json", "\"FluxPipeline\"", "\"FluxFillPipeline\"",
                 "FluxFillPipeline");
    check_edited("", "model_index.json", "\"T5EncoderModel\"", "\"LlamaModel\"", "LlamaModel");
    check_edited("", "model_index.json", "\"AutoencoderKL\"", "7", "vae");
    check_edited("", "model_index.json", "\"scheduler\"", "\"schedule\"", "scheduler");
    check_edited("scheduler", "scheduler_config.json", "\"use_karras_sigmas\": false",
                 "\"use_karras_sigmas\": true", "use_karras_sigmas");
    check_edited("transformer", "config.json", "\"joint_attention_dim\": 40",
                 "\"joint_attention_dim\": 48", "joint_attention_dim");
    check_edited("vae", "config.json", "\"latent_channels\": 16", "\"latent_channels\": 8",
                 "latent_channels");
}

/* A part may come from elsewhere; what is missing is named. */
static void parts_of_their_own(void **state)
{
    (void)state;
    nb_pipeline *p;
    nb_pipeline_paths paths = {
        .directory = link_model("vae"),
        .parts = {[NB_PART_VAE] = MODELS "/dev/vae",
                  [NB_PART_FLUX] = MODELS "/single/flux1-dev.safetensors"},
    };
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_E_DATA);
    assert_non_null(strstr(nb_error_message(), "joint_attention_dim is 32"));
    paths.parts[NB_PART_FLUX] = NULL;
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_OK);
    assert_string_equal(nb_pipeline_get_info(p)->name, "model");
    nb_pipeline_close(p);
    paths.directory = NULL;
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_E_USAGE);
    assert_non_null(strstr(nb_error_message(), "clip"));
    paths = (nb_pipeline_paths){
        .parts = {[NB_PART_CLIP] = MODELS "/single/clip_l.safetensors",
                  [NB_PART_T5] = MODELS "/single/t5xxl.safetensors",
                  [NB_PART_FLUX] = MODELS "/single/flux1-dev.safetensors",
                  [NB_PART_VAE] = MODELS "/single/ae.safetensors"},
    };
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_OK);
    const nb_pipeline_info *info = nb_pipeline_get_info(p);
    assert_string_equal(info->name, "flux1-dev");
    assert_true(info->schedule.dynamic && info->default_steps == 28);
    nb_pipeline_close(p);
    paths.parts[NB_PART_T5] = "/nonexistent.safetensors";
    assert_int_equal(nb_pipeline_open_paths(&paths, device, &p), NB_E_NOINPUT);
    assert_non_null(strstr(nb_error_message(), "/nonexistent.safetensors"));
}

/* A snapshot in the Hugging Face cache is known by its repository's name. */
static void cached_models_have_names(void **state)
{
    (void)state;
    char path[256];
    nb_pipeline *p;
    const char *model = link_model(NULL);
    shell("mkdir -p %s/models--org--a--b/snapshots && mv %s %s/models--org--a--b/snapshots/c1",
          folder, model, folder);
    snprintf(path, sizeof path, "%s/models--org--a--b/snapshots/c1", folder);
    assert_int_equal(nb_pipeline_open(path, device, &p), NB_OK);
    assert_string_equal(nb_pipeline_get_info(p)->name, "org/a--b");
    nb_pipeline_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(sizes_are_floored),
        cmocka_unit_test(limits),
        cmocka_unit_test(prompt_is_not_utf8),
        cmocka_unit_test(recipe),
        cmocka_unit_test(batches),
        cmocka_unit_test(cuda_batch_is_one_draw),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(stopping),
        cmocka_unit_test(picture_callback_fails),
        cmocka_unit_test(memory_limit),
        cmocka_unit_test(init_latents),
        cmocka_unit_test(exploded_latents),
        cmocka_unit_test(missing_parts),
        cmocka_unit_test(wrong_directories),
        cmocka_unit_test(parts_of_their_own),
        cmocka_unit_test(cached_models_have_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
