/* What calibration keeps of a module's inputs equals what a dump shows of the same drawing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "models/safetensors.h"
#include "pipeline/calibrate.h"

#define MODEL "golden/flux/models/dev"

struct fixture {
    nb_device *device;
    nb_stream *stream;
    nb_pipeline *pipeline;
    char dump[64];
};

static int set_up(void **state)
{
    static struct fixture f = {.dump = "/tmp/nibble-calibrate-XXXXXX"};
    int fd = mkstemp(f.dump);
    *state = &f;
    if (fd < 0) return -1;
    close(fd);
    return nb_device_open("cpu", &f.device) ||
           nb_stream_create(f.device, NB_COMPUTE_F32, 1, NULL, &f.stream) ||
           nb_pipeline_open(MODEL, f.device, &f.pipeline);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    nb_pipeline_close(f->pipeline);
    nb_stream_destroy(f->stream);
    nb_device_close(f->device);
    return unlink(f->dump);
}

static nb_txt2img_request small_request(void)
{
    nb_txt2img_request r = NB_TXT2IMG_REQUEST_DEFAULT;
    r.width = r.height = 32;
    r.steps = 2;
    r.t5_length = 8;
    r.seed = 5;
    return r;
}

/* The mean squares of the columns of the dump's tensor [1, rows, k]. */
static double mean_square(const nb_stored *t, int64_t column)
{
    int64_t rows = t->shape[1], k = t->shape[2];
    const float *x = t->data;
    double sum = 0.0;
    for (int64_t r = 0; r < rows; r++) sum += (double)x[r * k + column] * x[r * k + column];
    return sum / (double)rows;
}

static float largest(const nb_stored *t)
{
    const float *x = t->data;
    float largest = 0;
    for (int64_t i = 0; i < nb_stored_count(t); i++) largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

static void equals_a_dump(void **state)
{
    struct fixture *f = *state;
    const char *prompts[] = {"a cat"};
    nb_txt2img_request r = small_request();
    nb_txt2img_result result;
    nb_calibration *c;
    nb_safetensors *dump;
    const nb_txt2img_callbacks callbacks = {0};
    assert_int_equal(nb_calibrate(f->pipeline, f->stream, &r, prompts, 1, NULL, NULL, &c),
                     NB_OK);
    r.prompt = prompts[0];
    r.dump = f->dump;
    assert_int_equal(nb_txt2img(f->pipeline, f->stream, &r, &callbacks, &result), NB_OK);
    assert_int_equal(nb_safetensors_open(f->dump, &dump), NB_OK);
    const nb_stored *states = nb_safetensors_find(dump, "prompt_embeds");
    assert_non_null(states);
    int64_t k = states->shape[2];
    const float *seen = nb_calibration_importance(c, "context_embedder", k);
    assert_non_null(seen);
    for (int64_t i = 0; i < k; i++) {
        double want = mean_square(states, i);
        assert_true(fabs(seen[i] - want) <= 1e-5 * want);
    }
    assert_true(nb_calibration_amax(c, "context_embedder", k) == largest(states));
    assert_true(nb_calibration_amax(c, "context_embedder", k + 1) == 0);
    assert_true(nb_calibration_amax(c, "x_embedder.", k) == 0);
    nb_safetensors_close(dump);
    nb_calibration_destroy(c);
}

/* Of several prompts the largest counts. */
static void amax_of_all_prompts(void **state)
{
    struct fixture *f = *state;
    const char *prompts[] = {"a cat", "a dog under a tree"};
    nb_calibration *of[3];
    float amax[3];
    const nb_pipeline_info *info = nb_pipeline_get_info(f->pipeline);
    for (int i = 0; i < 3; i++) {
        nb_txt2img_request r = small_request();
        r.seed += i == 1; /* the second of both has the next seed */
        assert_int_equal(nb_calibrate(f->pipeline, f->stream, &r, &prompts[i % 2],
                                      i == 2 ? 2 : 1, NULL, NULL, &of[i]),
                         NB_OK);
        amax[i] = nb_calibration_amax(of[i], "context_embedder", info->t5.d_model);
        nb_calibration_destroy(of[i]);
    }
    assert_true(amax[0] > 0 && amax[1] > 0 && amax[0] != amax[1]);
    assert_true(amax[2] == fmaxf(amax[0], amax[1]));
}

static void every_layer_is_seen(void **state)
{
    struct fixture *f = *state;
    static const char *const modules[] = {"transformer_blocks.0.attn.to_q",
                                          "single_transformer_blocks.0.proj_out", "proj_out",
                                          "encoder.block.0.layer.0.SelfAttention.q",
                                          "text_model.encoder.layers.0.self_attn.q_proj"};
    const char *prompts[] = {"a cat", "a dog"};
    nb_txt2img_request r = small_request();
    nb_calibration *c;
    assert_int_equal(nb_calibrate(f->pipeline, f->stream, &r, prompts, 2, NULL, NULL, &c),
                     NB_OK);
    const nb_pipeline_info *info = nb_pipeline_get_info(f->pipeline);
    int64_t width = info->flux.n_heads * info->flux.head_dim;
    assert_non_null(nb_calibration_importance(c, modules[0], width));
    assert_null(nb_calibration_importance(c, modules[0], width + 1));
    assert_null(nb_calibration_importance(c, "transformer_blocks.0.attn", width));
    assert_non_null(nb_calibration_importance(c, modules[2], width));
    assert_non_null(nb_calibration_importance(c, modules[3], info->t5.d_model));
    assert_true(nb_calibration_count(c) > 20);
    nb_calibration_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_a_dump),
        cmocka_unit_test(amax_of_all_prompts),
        cmocka_unit_test(every_layer_is_seen),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
