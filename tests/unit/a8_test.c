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
#include <string.h>

#include <cmocka.h>

#include "kernels/a4.h"
#include "kernels/a8.h"
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
        {"normal", NORMAL, NORMAL, 40.8, 19.8},
        {"Student's t, 5 degrees", STUDENT5, STUDENT5, 39.2, 20.2},
        {"1.6 % of x twenty times", OUTLIERS, NORMAL, 37.1, 20.6},
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

/* What a8.h says of a block: 127 is the most, and half a unit the error; small blocks share the
 * group's unit / 16. */
static void rounds_blocks(void **state)
{
    float x[NB_A8_GROUP];
    int8_t q[NB_A8_GROUP];
    uint8_t shifts[NB_A8_GROUP_BLOCKS];
    (void)state;
    for (int i = 0; i < NB_A8_GROUP; i++)
        x[i] = (float)normal() * ldexpf(1, -(i / NB_A8_BLOCK) % 8);
    x[0] = -127.9f;
    float scale = nb_a8_round_ref(x, NB_A8_GROUP, q, shifts);
    assert_true(scale == 1.0f / 16 && shifts[0] == 4 && q[0] == -127);
    for (int i = 1; i < NB_A8_GROUP; i++) {
        uint8_t shift = shifts[i / NB_A8_BLOCK];
        float unit = ldexpf(scale, shift);
        assert_true(shift <= NB_A8_MOST_SHIFT && fabsf((float)q[i] * unit - x[i]) <= unit / 2);
    }
    x[300] = INFINITY;
    assert_true(isnan(nb_a8_round_ref(x, NB_A8_GROUP, q, shifts)) && q[0] == 0);
    memset(x, 0, sizeof x);
    assert_true(nb_a8_round_ref(x, 17, q, shifts) > 0 && q[16] == 0);
}

/* FP4 whose blocks are as tables have them, with rows among them that are not: zeros, tiny,
 * negative and no numbers. */
struct fp4 {
    nb_weight w;
    float scale_values[NB_SCALE_CODES];
};

static void fill_fp4(struct fp4 *f, nb_scale_kind kind, int64_t n, int64_t k, int high_first)
{
    static const uint8_t rare[2][6] = {{0x00, 0x80, 0x01, 0x7f, 0xff, 0x08},
                                       {0, 1, 26, 255, 27, 130}};
    int64_t n_codes = n * k / 2, n_scales = n * k / (kind == NB_SCALE_NVFP4 ? 16 : 32);
    uint8_t *codes = test_malloc((size_t)n_codes), *scales = test_malloc((size_t)n_scales);
    int is_mx = kind == NB_SCALE_MXFP4;
    for (int64_t i = 0; i < n_codes; i++) codes[i] = (uint8_t)(256 * uniform());
    for (int64_t i = 0; i < n_scales; i++) {
        int64_t row = i / (n_scales / n);
        scales[i] = (uint8_t)(is_mx ? 121 + 5 * uniform() : 0x38 + 32 * uniform());
        if (!is_mx && uniform() < 0.1) scales[i] |= 0x80;
        if (row % 7 == 3 && uniform() < 0.02) scales[i] = rare[is_mx][(int)(6 * uniform())];
    }
    memset(scales + n_scales / n * 5, rare[is_mx][0], (size_t)(n_scales / n)); /* all zeros */
    nb_weight_scale_values(kind, 0.37f, 0, f->scale_values);
    f->w = (nb_weight){.data = codes,
                       .dtype = NB_DTYPE_F4_E2M1X2,
                       .n = n,
                       .k = k,
                       .scale = 1,
                       .scale_kind = kind,
                       .scales = scales,
                       .scale_values = f->scale_values,
                       .high_first = high_first};
}

/* x [m, k] times f in batches of `batch` rows into y. */
static void multiply(const struct fp4 *f, unsigned caps, float *y, float *x, int64_t m,
                     int64_t batch)
{
    nb_device *device;
    nb_stream *s;
    int64_t n = f->w.n, k = f->w.k;
    assert_ok(nb_device_open_cpu(caps, &device));
    assert_ok(nb_stream_create(device, NB_COMPUTE_A8, 2, NULL, &s));
    for (int64_t i = 0; i < m; i += batch) {
        int64_t rows = m - i < batch ? m - i : batch;
        nb_linear_args a = {.w = &f->w};
        a.x = nb_tensor_view(device, x + i * k, NB_DTYPE_F32, 2, NB_SHAPE(rows, k));
        a.y = nb_tensor_view(device, y + i * n, NB_DTYPE_F32, 2, NB_SHAPE(rows, n));
        nb_linear(s, &a);
    }
    assert_ok(nb_stream_sync(s));
    nb_stream_destroy(s);
    nb_device_close(device);
}

/* Bit for bit, but for what a NaN's bits are. */
static void assert_same(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        assert_true(nb_f32_bits(a[i]) == nb_f32_bits(b[i]) || (isnan(a[i]) && isnan(b[i])));
}

/* Few rows and many, every instruction set and the reference: the same bits. */
static void gives_the_same_bits(void **state)
{
    enum { ROWS = 40, OUT = 50, WIDE = 3 * 1024 + 544 };
    float *x = test_malloc(ROWS * WIDE * sizeof *x), *y = test_malloc(ROWS * OUT * sizeof *y);
    float *expected = test_malloc(ROWS * OUT * sizeof *y);
    (void)state;
    for (int i = 0; i < ROWS * WIDE; i++) x[i] = draw(OUTLIERS);
    for (int i = 0; i < 8; i++) x[i * WIDE + 40 * i] *= 3e-38f;
    for (int form = 0; form < 4; form++) {
        struct fp4 f;
        fill_fp4(&f, form / 2 ? NB_SCALE_MXFP4 : NB_SCALE_NVFP4, OUT, WIDE, form % 2);
        multiply(&f, 0, expected, x, ROWS, ROWS);
        assert_true(isfinite(expected[0]) && expected[0] != 0 && expected[5] == 0);
        for (int batch = 1; batch <= ROWS; batch += batch < 9 ? 1 : 31) {
            multiply(&f, nb_cpu_caps(), y, x, ROWS, batch);
            assert_same(y, expected, ROWS * OUT);
            multiply(&f, nb_cpu_caps() & NB_CPU_AVX2, y, x, ROWS, batch);
            assert_same(y, expected, ROWS * OUT);
        }
        test_free((void *)f.w.data);
        test_free((void *)f.w.scales);
    }
    test_free(x);
    test_free(y);
    test_free(expected);
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
        cmocka_unit_test(keeps_the_signal),     cmocka_unit_test(rounds_blocks),
        cmocka_unit_test(gives_the_same_bits),  cmocka_unit_test(keeps_what_nvfp4_holds),
        cmocka_unit_test(leaves_plain_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
