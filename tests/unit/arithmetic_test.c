/*
 * What --compute auto takes: by the instructions of the device and the types of the
 * transformer's weights.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "models/canonical.h"
#include "models/few_bits.h"
#include "pipeline/arithmetic.h"
#include "tests/unit/scratch.h"

#define MODELS "golden/flux/models/"

/* Every set of capabilities that this machine can have. */
static void takes_what_the_device_is_fast_at(void **state)
{
    (void)state;
    for (unsigned mask = 0; mask < 1u << NB_CPU_N_CAPS; mask++) {
        nb_device *device;
        nb_arithmetic plain, few;
        assert_ok(nb_device_open_cpu(mask, &device));
        unsigned caps = nb_device_caps(device);
        nb_compute of_plain = caps & NB_CPU_AVX512_BF16 ? NB_COMPUTE_BF16 : NB_COMPUTE_F32;
        nb_arithmetic_choose(device, NULL, &plain);
        nb_arithmetic_choose(device, "Q4_K", &few);
        assert_int_equal(plain.compute, of_plain);
        assert_int_equal(few.compute, caps & NB_CPU_AVX512_VNNI ? NB_COMPUTE_A8 : of_plain);
        assert_true(*plain.why && *few.why);
        assert_true((few.compute == NB_COMPUTE_A8) == (strstr(few.why, "Q4_K") != NULL));
        nb_device_close(device);
    }
}

static void finds_few_bits_of_files(void **state)
{
    static const struct {
        const char *path, *few_bits;
    } cases[] = {
        {MODELS "dev/transformer", NULL},
        {MODELS "sharded/transformer", NULL},
        {MODELS "f16/transformer", NULL},
        {MODELS "single/flux1-dev.safetensors", NULL}, /* of FP8, and wants exact inputs */
        {MODELS "fp8/transformer", "FP8"},
        {MODELS "fp8-weight-scale/transformer", "FP8"},
        {MODELS "modelopt-svdquant/transformer", "FP4"},
        {MODELS "nunchaku/svdq-fp4_r16-flux.1-dev.safetensors", "4-bit"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nb_checkpoint *c;
        assert_ok(nb_checkpoint_open(cases[i].path, &c));
        const char *found = nb_few_bits_of(c);
        if (!cases[i].few_bits != !found || (found && strcmp(found, cases[i].few_bits) != 0))
            fail_msg("%s: %s", cases[i].path, found ? found : "none");
        nb_checkpoint_close(c);
    }
}

/* The same from a file's own names as from canonical ones. */
static void most_bytes_of_blocks_win(void **state)
{
    nb_checkpoint *own, *canonical;
    (void)state;
    assert_ok(nb_checkpoint_open(MODELS "gguf/flux1-dev.gguf", &own));
    assert_ok(nb_canonical_open(MODELS "gguf/flux1-dev.gguf", &canonical));
    assert_non_null(nb_few_bits_of(own));
    assert_string_equal(nb_few_bits_of(own), nb_few_bits_of(canonical));
    nb_checkpoint_close(own);
    nb_checkpoint_close(canonical);
}

static nb_stored matrix(const char *name, nb_dtype dtype, int64_t n)
{
    static const char zeros[4096];
    nb_stored t = {.name = name, .dtype = dtype, .rank = 2, .shape = {n, 16}, .data = zeros};
    t.bytes = (size_t)(16 * n) * nb_dtype_bytes(dtype);
    assert_true(t.bytes <= sizeof zeros);
    return t;
}

static const char *few_bits_of(void **state, const nb_stored *t, int64_t n,
                               const char *const *metadata)
{
    const char *path = scratch_path(state, "m.safetensors");
    nb_checkpoint *c;
    assert_ok(nb_safetensors_write(path, t, n, metadata));
    assert_ok(nb_checkpoint_open(path, &c));
    const char *found = nb_few_bits_of(c);
    nb_checkpoint_close(c);
    return found;
}

static void counts_linears_alone(void **state)
{
    nb_stored t[] = {
        matrix("a.weight", NB_DTYPE_BF16, 8),
        matrix("a.weight_scale", NB_DTYPE_F8_E4M3, 64),
        matrix("text_encoders.t5xxl.transformer.b.weight", NB_DTYPE_F8_E4M3, 64),
        matrix("vae.c.weight", NB_DTYPE_F8_E4M3, 64),
    };
    enum { N = sizeof t / sizeof *t };
    assert_null(few_bits_of(state, t, N, NULL));
    t[0] = matrix("model.diffusion_model.a.weight", NB_DTYPE_F8_E5M2, 8);
    assert_string_equal(few_bits_of(state, t, N, NULL), "FP8");
    t[1] = matrix("a.weight_packed", NB_DTYPE_U8, 9);
    assert_string_equal(few_bits_of(state, t, N, NULL), "FP4");
    t[1] = matrix("a.weight_packed", NB_DTYPE_U8, 7);
    assert_string_equal(few_bits_of(state, t, N, NULL), "FP8");
}

static void leaves_out_who_wants_exact_inputs(void **state)
{
    static const char *const metadata[] = {"_quantization_metadata",
                                           "{\"layers\":{\"a\":{\"format\":\"float8_e4m3fn\","
                                           "\"full_precision_matrix_mult\":true}}}",
                                           NULL};
    const nb_stored t[] = {matrix("a.weight", NB_DTYPE_F8_E4M3, 8),
                           matrix("b.weight", NB_DTYPE_F8_E4M3, 8)};
    assert_null(few_bits_of(state, t, 1, metadata));
    assert_string_equal(few_bits_of(state, t, 2, metadata), "FP8");
}

static void asks_the_pipeline(void **state)
{
    const nb_pipeline_paths paths = {.directory = MODELS "fp8",
                                     .parts = {[NB_PART_FLUX] = MODELS "schnell/transformer"}};
    nb_device *device;
    nb_pipeline *p;
    nb_arithmetic wanted, found;
    (void)state;
    assert_ok(nb_device_open("cpu", &device));
    assert_ok(nb_pipeline_open(MODELS "fp8", device, &p));
    assert_ok(nb_arithmetic_of(p, device, &found));
    nb_arithmetic_choose(device, "FP8", &wanted);
    assert_int_equal(found.compute, wanted.compute);
    assert_string_equal(found.why, wanted.why);
    nb_pipeline_close(p);
    /* T5 and CLIP of FP8 alone do not make it a8. */
    assert_ok(nb_pipeline_open_paths(&paths, device, &p));
    assert_ok(nb_arithmetic_of(p, device, &found));
    nb_arithmetic_choose(device, NULL, &wanted);
    assert_int_equal(found.compute, wanted.compute);
    assert_string_equal(found.why, wanted.why);
    nb_pipeline_close(p);
    nb_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_the_device_is_fast_at),
        cmocka_unit_test(finds_few_bits_of_files),
        cmocka_unit_test(most_bytes_of_blocks_win),
        cmocka_unit_test_setup_teardown(counts_linears_alone, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(leaves_out_who_wants_exact_inputs, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test(asks_the_pipeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
