/*
 * Noise against torch: golden/noise.safetensors holds what torch.randn drew (make_noise.py),
 * each tensor named KIND.SEED.N or KIND.SEED.A+B for two draws of one generator.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/safetensors.h"
#include "pipeline/noise.h"

typedef struct golden {
    nb_generator generator;
    nb_noise_dtype dtype;
    int64_t draws[2];
    int n_draws;
} golden;

static void parse_kind(golden *g, char *kind, uint64_t seed)
{
    int cuda = strncmp(kind, "cuda-", 5) == 0;
    nb_generator_init(&g->generator, cuda ? NB_RNG_TORCH_CUDA : NB_RNG_TORCH_CPU, seed);
    g->dtype = cuda ? NB_NOISE_F32 : nb_noise_from_name(kind);
    assert_int_not_equal(g->dtype, NB_NOISE_COUNT);
    if (!cuda) return;
    char *end;
    g->generator.sms = (int)strtol(kind + 5, &end, 10);
    if (*end == 'x') g->generator.sm_threads = (int)strtol(end + 1, NULL, 10);
}

static golden parse(const char *name)
{
    golden g = {.n_draws = 1};
    char kind[32], *end;
    size_t n = strcspn(name, ".");
    assert_true(n < sizeof kind);
    memcpy(kind, name, n);
    kind[n] = 0;
    uint64_t seed = strtoull(name + n + 1, &end, 10);
    g.draws[0] = strtoll(end + 1, &end, 10);
    if (*end == '+') g.draws[g.n_draws++] = strtoll(end + 1, &end, 10);
    assert_int_equal(*end, 0);
    parse_kind(&g, kind, seed);
    return g;
}

static int64_t count_different(const nb_stored *want, const float *got, double tolerance)
{
    int64_t different = 0;
    for (int64_t i = 0; i < nb_stored_count(want); i++) {
        float w = nb_load_f32(want->dtype, want->data, i);
        different += tolerance > 0 ? !(fabs((double)w - (double)got[i]) <= tolerance)
                                   : nb_f32_bits(w) != nb_f32_bits(got[i]);
    }
    return different;
}

static void check_golden(const nb_stored *want)
{
    golden g = parse(want->name);
    int64_t n = nb_stored_count(want), at = 0;
    float *got = calloc((size_t)n, sizeof *got);
    assert_non_null(got);
    for (int i = 0; i < g.n_draws; at += g.draws[i++]) {
        assert_true(at + g.draws[i] <= n);
        assert_int_equal(nb_generator_randn(&g.generator, g.dtype, got + at, g.draws[i]),
                         NB_OK);
    }
    assert_int_equal(at, n);
    double tolerance = g.generator.kind == NB_RNG_TORCH_CUDA ? 1e-5 : 0;
    int64_t different = count_different(want, got, tolerance);
    if (different) print_error("%s: %lld values differ\n", want->name, (long long)different);
    assert_int_equal(different, 0);
    free(got);
}

static void equals_torch(void **state)
{
    (void)state;
    nb_safetensors *file;
    assert_int_equal(nb_safetensors_open("golden/noise.safetensors", &file), NB_OK);
    assert_true(nb_safetensors_n_tensors(file) > 200);
    for (int64_t i = 0; i < nb_safetensors_n_tensors(file); i++)
        check_golden(nb_safetensors_tensor(file, i));
    nb_safetensors_close(file);
}

/* A batch in one draw is the pictures one after the other, on the CPU. */
static void batch_is_successive_draws(void **state)
{
    (void)state;
    enum { N = 1536 };
    static float once[2 * N], twice[2 * N];
    for (nb_noise_dtype d = NB_NOISE_F32; d < NB_NOISE_COUNT; d++) {
        nb_generator g;
        nb_generator_init(&g, NB_RNG_TORCH_CPU, 11);
        assert_int_equal(nb_generator_randn(&g, d, once, 2 * N), NB_OK);
        nb_generator_init(&g, NB_RNG_TORCH_CPU, 11);
        assert_int_equal(nb_generator_randn(&g, d, twice, N), NB_OK);
        assert_int_equal(nb_generator_randn(&g, d, twice + N, N), NB_OK);
        assert_memory_equal(once, twice, sizeof once);
    }
}

/* torch.randn(3, device="cuda") twice: the second call begins at the next counter. */
static void philox_offset_goes_on(void **state)
{
    (void)state;
    enum { N = 600 };
    static float first[N], second[N], all[5 * 256];
    nb_generator g;
    nb_generator_init(&g, NB_RNG_TORCH_CUDA, 5);
    assert_int_equal(nb_generator_randn(&g, NB_NOISE_F32, first, N), NB_OK);
    assert_int_equal(g.offset, 4);
    assert_int_equal(nb_generator_randn(&g, NB_NOISE_F32, second, N), NB_OK);
    assert_int_equal(g.offset, 8);
    assert_memory_not_equal(first, second, sizeof first);
    /* One block of threads: its fifth turn is its first turn of the next counter. */
    nb_generator_init(&g, NB_RNG_TORCH_CUDA, 5);
    g.sms = 1;
    g.sm_threads = 256;
    assert_int_equal(nb_generator_randn(&g, NB_NOISE_F32, all, 5 * 256), NB_OK);
    assert_int_equal(g.offset, 8);
    assert_memory_equal(all + 4 * 256, second, 256 * sizeof *all);
}

static void old_field_refusals(void **state)
{
    (void)state;
    float out[17];
    nb_generator g;
    nb_generator_init(&g, NB_RNG_TORCH_CPU, 0);
    assert_int_equal(nb_generator_randn(&g, NB_NOISE_BF16_8BIT, out, 17), NB_E_USAGE);
    nb_generator_init(&g, NB_RNG_TORCH_CUDA, 0);
    assert_int_equal(nb_generator_randn(&g, NB_NOISE_BF16_8BIT, out, 16), NB_E_USAGE);
}

static void names(void **state)
{
    (void)state;
    for (nb_noise_dtype d = NB_NOISE_DEFAULT; d < NB_NOISE_COUNT; d++)
        assert_int_equal(nb_noise_from_name(nb_noise_name(d)), d);
    for (nb_rng_kind k = NB_RNG_TORCH_CPU; k < NB_RNG_COUNT; k++)
        assert_int_equal(nb_rng_from_name(nb_rng_name(k)), k);
    assert_int_equal(nb_noise_from_name("f64"), NB_NOISE_COUNT);
    assert_int_equal(nb_rng_from_name(""), NB_RNG_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_torch),
        cmocka_unit_test(batch_is_successive_draws),
        cmocka_unit_test(philox_offset_goes_on),
        cmocka_unit_test(old_field_refusals),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
