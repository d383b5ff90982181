/*
 * For unit tests of the picture path: small golden models, a run of one that remembers its
 * pictures and can be disturbed, and a folder that goes away. Include after cmocka.h.
 */
#ifndef NB_TESTS_PICTURES_H
#define NB_TESTS_PICTURES_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/safetensors.h"
#include "pipeline/txt2img.h"

#define MODELS "golden/flux/models"

static char folder[] = "/tmp/nibble-pictures-XXXXXX";
static nb_device *device;

static inline int open_folder_and_device(void **state)
{
    (void)state;
    return mkdtemp(folder) && nb_device_open("cpu", &device) == NB_OK ? 0 : -1;
}

static inline int close_folder_and_device(void **state)
{
    char command[64];
    (void)state;
    nb_device_close(device);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* A file of the test's folder; the storage is reused. */
static inline const char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static inline nb_txt2img_request small_request(void)
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

static inline void on_progress(void *arg, nb_stage stage, int picture, int step, int of,
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

static inline nb_status on_picture(void *arg, const nb_picture *p)
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

static inline nb_status run_model(struct run *run, const char *model,
                                  const nb_txt2img_request *r)
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

/* A file of `value` all over. */
static inline const char *write_latents(const char *name, nb_dtype dtype, int rank,
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

#endif
