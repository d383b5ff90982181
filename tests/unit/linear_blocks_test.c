/*
 * Products that are cut into many blocks: a row has the same bits alone with a dozen others,
 * however many threads there are, and its neighbours in y are left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

static const struct product {
    int64_t m, n, k, rank;
} products[] = {
    {70, 700, 1040, 0},   /* blocks of W, the last panel broken */
    {130, 403, 1040, 20}, /* x downᵀ goes on where W ends: sums of all tiles are kept */
    {100, 250, 3104, 0},  /* two blocks of k */
    {1100, 5, 96, 0},     /* blocks of x, since W has one panel */
    {530, 30, 16448, 0},  /* more x than is packed at once */
};

enum { SOME = 13, GAP = 3 }; /* rows that are computed alone; floats between rows of y */

struct data {
    float *x, *y, *alone; /* [m, k], [m, n + GAP], [SOME, n + GAP] */
    uint16_t *w, *down, *up;
    nb_weight weight;
};

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* BF16 of about 1/8 at most. */
static uint16_t *random_bf16(int64_t count, uint32_t seed)
{
    uint16_t *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++)
        values[i] = nb_bf16_from_f32((float)next(&seed) * 0x1p-26f - 0x1p-3f);
    return values;
}

static float *random_f32(int64_t count, uint32_t seed)
{
    float *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++) values[i] = (float)next(&seed) * 0x1p-23f - 1.0f;
    return values;
}

static struct data make_data(const struct product *p)
{
    struct data d = {.x = random_f32(p->m * p->k, 1),
                     .y = malloc((size_t)(p->m * (p->n + GAP)) * sizeof(float)),
                     .alone = malloc((size_t)(SOME * (p->n + GAP)) * sizeof(float)),
                     .w = random_bf16(p->n * p->k, 2),
                     .down = random_bf16(p->rank * p->k + 1, 3),
                     .up = random_bf16(p->n * p->rank + 1, 4)};
    assert_non_null(d.y);
    assert_non_null(d.alone);
    d.weight =
        (nb_weight){.data = d.w, .dtype = NB_DTYPE_BF16, .n = p->n, .k = p->k, .scale = 1.0f};
    d.weight.low_rank = (nb_low_rank){d.down, d.up, NB_DTYPE_BF16, p->rank};
    return d;
}

static void free_data(struct data *d)
{
    free(d->x);
    free(d->y);
    free(d->alone);
    free(d->w);
    free(d->down);
    free(d->up);
}

/* Rows of x into rows of y that have GAP floats behind them, which must stay. */
static void run(nb_stream *s, const nb_weight *w, float *x, int64_t rows, float *y)
{
    int64_t stride = w->n + GAP;
    nb_tensor wide = nb_tensor_view(s->device, y, NB_DTYPE_F32, 2, NB_SHAPE(rows, stride));
    nb_linear_args a = {.w = w, .y = nb_tensor_slice(wide, 1, 0, w->n)};
    a.x = nb_tensor_view(s->device, x, NB_DTYPE_F32, 2, NB_SHAPE(rows, w->k));
    for (int64_t i = 0; i < rows * stride; i++) y[i] = 7.0f;
    nb_linear(s, &a);
    assert_int_equal(nb_stream_sync(s), NB_OK);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = w->n; j < stride; j++) assert_true(y[i * stride + j] == 7.0f);
}

static void check_rows(nb_stream *s, const struct product *p, struct data *d, int64_t row)
{
    int64_t stride = p->n + GAP;
    run(s, &d->weight, d->x + row * p->k, SOME, d->alone);
    assert_memory_equal(d->alone, d->y + row * stride, (size_t)(SOME * stride) * sizeof(float));
}

static void check_product(const nb_device *device, nb_compute compute, const struct product *p)
{
    static const int threads[] = {1, 2, 7};
    struct data d = make_data(p);
    for (int i = 0; i < 3; i++) {
        nb_stream *s;
        assert_int_equal(nb_stream_create(device, compute, threads[i], NULL, &s), NB_OK);
        run(s, &d.weight, d.x, p->m, d.y);
        check_rows(s, p, &d, 0);
        check_rows(s, p, &d, p->m / 2 + 1);
        check_rows(s, p, &d, p->m - SOME);
        nb_stream_destroy(s);
    }
    free_data(&d);
}

static void test_blocks(void **state)
{
    unsigned mask = 0, seen = 0;
    (void)state;
    for (int cap = 0; cap < NB_CPU_N_CAPS; cap++) {
        nb_device *device;
        mask |= 1u << cap;
        if ((mask & nb_cpu_caps()) == seen) continue; /* the references are in `check` */
        seen = mask & nb_cpu_caps();
        assert_int_equal(nb_device_open_cpu(seen, &device), NB_OK);
        for (size_t i = 0; i < sizeof products / sizeof products[0]; i++) {
            check_product(device, NB_COMPUTE_F32, &products[i]);
            check_product(device, NB_COMPUTE_BF16, &products[i]);
        }
        nb_device_close(device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
