/*
 * What rounding to 8 and to 4 bits costs: the signal-to-noise ratio of x Wᵀ at the policies of
 * few bits against the exact product with the same NVFP4 weights.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/a4.h"
#include "kernels/base/cpu.h"
#include "kernels/fp4.h"
#include "tests/unit/scratch.h"

enum { M = 24, N = 96, K = 3072 };

typedef enum distribution { NORMAL, STUDENT5, OUTLIERS } distribution;

static double uniform(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

static float draw(distribution d)
{
    double z = normal(), chi = 0;
    if (d == OUTLIERS) return (float)(uniform() < 1.0 / 64 ? 20 * z : z);
    if (d == NORMAL) return (float)z;
    for (int i = 0; i < 5; i++) {
        double y = normal();
        chi += y * y;
    }
    return (float)(z / sqrt(chi / 5));
}

/* A product of M rows and NVFP4 weights, and the same in double precision. */
struct product {
    nb_stream *s;
    nb_device *device;
    nb_weight w;
    nb_tensor x, y;
    float scale_values[NB_SCALE_CODES], *exact_w;
    double *exact;
};

static void fill(struct product *p, distribution of_x, distribution of_w)
{
    float scale;
    uint8_t *codes = test_malloc(N * K / 2), *scales = test_malloc(N * K / 16);
    nb_weight plain = {.data = p->exact_w, .dtype = NB_DTYPE_F32, .n = N, .k = K, .scale = 1};
    nb_fp4_options options = {.rule = NB_FP4_MODELOPT, .method = NB_FP4_MAX};
    for (int i = 0; i < N * K; i++) p->exact_w[i] = draw(of_w);
    for (int i = 0; i < M * K; i++) nb_tensor_f32(p->x)[i] = draw(of_x);
    nb_quantize_nvfp4(p->s, &plain, &options, codes, scales, &scale);
    assert_ok(nb_stream_sync(p->s));
    nb_weight_scale_values(NB_SCALE_NVFP4, scale, 0, p->scale_values);
    p->w = (nb_weight){.data = codes,
                       .dtype = NB_DTYPE_F4_E2M1X2,
                       .n = N,
                       .k = K,
                       .scale = 1,
                       .scale_kind = NB_SCALE_NVFP4,
                       .scales = scales,
                       .scale_values = p->scale_values};
    for (int n = 0; n < N; n++) nb_weight_decode_ref(&p->w, n, 0, K, p->exact_w + n * K);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            const float *x = nb_tensor_f32(p->x) + m * K, *w = p->exact_w + n * K;
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)x[k] * w[k];
            p->exact[m * N + n] = sum;
        }
}

static double snr_at(struct product *p, nb_compute compute)
{
    double signal = 0, noise = 0;
    p->s->compute = compute;
    nb_linear(p->s, &(nb_linear_args){.y = p->y, .x = p->x, .w = &p->w});
    assert_ok(nb_stream_sync(p->s));
    for (int i = 0; i < M * N; i++) {
        double difference = nb_tensor_f32(p->y)[i] - p->exact[i];
        signal += p->exact[i] * p->exact[i];
        noise += difference * difference;
    }
    return 10 * log10(signal / noise);
}

static void open_product(struct product *p)
{
    assert_ok(nb_device_open_cpu(nb_cpu_caps(), &p->device));
    assert_ok(nb_stream_create(p->device, NB_COMPUTE_F32, 2, NULL, &p->s));
    p->x = nb_stream_tensor(p->s, NB_DTYPE_F32, 2, NB_SHAPE(M, K));
    p->y = nb_stream_tensor(p->s, NB_DTYPE_F32, 2, NB_SHAPE(M, N));
    p->exact_w = test_malloc(N * K * sizeof(float));
    p->exact = test_malloc(M * N * sizeof(double));
}

static void close_product(struct product *p)
{
    test_free((void *)p->w.data);
    test_free((void *)p->w.scales);
    test_free(p->exact_w);
    test_free(p->exact);
    nb_stream_destroy(p->s);
    nb_device_close(p->device);
}

/* The bounds are what was measured, less 0.5 dB. */
static void keeps_the_signal(void **state)
{
    static const struct {
        const char *name;
        distribution x, w;
        double a8, a4;
    } cases[] = {
        {"normal", NORMAL, NORMAL, 40.1, 19.8},
        {"Student's t, 5 degrees", STUDENT5, STUDENT5, 37.5, 20.2},
        {"1.6 % of x twenty times", OUTLIERS, NORMAL, 36.9, 20.6},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct product p = {.s = NULL};
        open_product(&p);
        fill(&p, cases[i].x, cases[i].w);
        double a8 = snr_at(&p, NB_COMPUTE_A8), a4 = snr_at(&p, NB_COMPUTE_A4);
        print_message("%-24s a8 %.1f dB, a4 %.1f dB, bf16 %.1f dB\n", cases[i].name, a8, a4,
                      snr_at(&p, NB_COMPUTE_BF16));
        assert_true(a8 >= cases[i].a8 && a4 >= cases[i].a4);
        close_product(&p);
    }
}

/* x that NVFP4 holds exactly stays what it is, by its own scale or a calibrated one. */
static void keeps_what_nvfp4_holds(void **state)
{
    float x[32], out[32];
    (void)state;
    for (int i = 0; i < 32; i++) x[i] = nb_f32_from_e2m1((unsigned)i) * (i < 16 ? 448 : 3);
    nb_a4_round_ref(out, x, 32, 0);
    for (int i = 0; i < 32; i++) assert_true(out[i] == x[i]);
    nb_a4_round_ref(out, x, 32, 1);
    for (int i = 0; i < 32; i++) assert_true(out[i] == x[i]);
    nb_a4_round_ref(out, x, 32, 0.25f); /* 448 * 6 * 0.25 is the most that can be */
    for (int i = 0; i < 32; i++) assert_true(fabsf(out[i]) <= 672);
    x[3] = NAN;
    nb_a4_round_ref(out, x, 32, 0);
    assert_true(isnan(out[0]));
    nb_a4_round_ref(out, x, 32, 1);
    assert_true(isnan(out[0]) && out[17] == x[17]);
}

/* Weights that nobody rounded are not multiplied by rounded x. */
static void leaves_plain_weights(void **state)
{
    nb_weight w = {.dtype = NB_DTYPE_BF16};
    (void)state;
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A8, &w), NB_COMPUTE_BF16);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A4, &w), NB_COMPUTE_BF16);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_F32, &w), NB_COMPUTE_F32);
    w.dtype = NB_DTYPE_F8_E4M3;
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A8, &w), NB_COMPUTE_A8);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A4, &w), NB_COMPUTE_A8);
    w.dtype = NB_DTYPE_F4_E2M1X2;
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A4, &w), NB_COMPUTE_A4);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_BF16, &w), NB_COMPUTE_BF16);
    w.exact_inputs = 1;
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A4, &w), NB_COMPUTE_BF16);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_A8, &w), NB_COMPUTE_BF16);
    assert_int_equal(nb_linear_compute(NB_COMPUTE_F32, &w), NB_COMPUTE_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_the_signal),
        cmocka_unit_test(keeps_what_nvfp4_holds),
        cmocka_unit_test(leaves_plain_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
