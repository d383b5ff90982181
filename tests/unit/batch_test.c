/*
 * Batches, seeds and where pictures start: whose noise each one has, alone or among others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/pictures.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches),
        cmocka_unit_test(cuda_batch_is_one_draw),
        cmocka_unit_test(init_latents),
        cmocka_unit_test(picture_callback_fails),
    };
    return cmocka_run_group_tests(tests, open_folder_and_device, close_folder_and_device);
}
