/*
 * LoHa and LoKr as branches: against peft's differences (golden/make_lora_products.py), and
 * what is refused of them. Differences of biases.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/canonical.h"
#include "models/lora.h"
#include "tests/unit/scratch.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define Q            "transformer_blocks.0.attn.to_q"
#define DELTAS       "golden/lora/deltas.safetensors"
#define PRODUCTS     "golden/lora/products.safetensors"

enum { N = 24, K = 16, MOST = 32 * 24 };

static struct fixture {
    nb_checkpoint *model; /* a matrix of zeros for each difference, and to_q's bias */
    nb_loras *loras;
    nb_arena *arena;
} fixture;

static float numbers[MOST]; /* 1, 1, 1 ... */

static nb_stored f32(const char *name, int64_t rows, int64_t columns)
{
    nb_stored t = {.name = name, .rank = columns ? 2 : 1, .shape = {rows, columns}};
    t.data = numbers;
    t.bytes = (size_t)nb_stored_count(&t) * sizeof(float);
    return t;
}

static int setup(void **state)
{
    nb_stored model[16];
    char names[16][96];
    nb_checkpoint *deltas;
    int n = 0;
    fixture = (struct fixture){.model = NULL};
    if (scratch_setup(state)) return -1;
    for (int i = 0; i < MOST; i++) numbers[i] = 1;
    if (nb_checkpoint_open(DELTAS, &deltas)) return -1;
    for (; n < nb_checkpoint_n_tensors(deltas); n++) {
        const nb_stored *t = nb_checkpoint_tensor(deltas, n);
        snprintf(names[n], sizeof names[n], "%s.weight", t->name);
        model[n] = f32(names[n], t->shape[0], t->shape[1]);
    }
    nb_checkpoint_close(deltas);
    model[n++] = f32(Q ".bias", N, 0);
    const char *path = scratch_path(state, "model.safetensors");
    if (nb_safetensors_write(path, model, n, NULL)) return -1;
    return nb_canonical_open(path, &fixture.model) || nb_arena_create(&fixture.arena) ? -1 : 0;
}

static int teardown(void **state)
{
    nb_loras_close(fixture.loras);
    nb_checkpoint_close(fixture.model);
    nb_arena_destroy(fixture.arena);
    return scratch_teardown(state);
}

static nb_status open_file(const char *path, double weight, int lenient)
{
    const nb_lora_use use = {.path = path, .weight = weight};
    const nb_checkpoint *models[] = {fixture.model};
    const nb_lora_options options = {.lenient = lenient};
    nb_loras_close(fixture.loras);
    fixture.loras = NULL;
    return nb_loras_open(&use, 1, &options, models, 1, &fixture.loras);
}

static nb_status open_tensors(void **state, const nb_stored *tensors, int n, int lenient)
{
    const char *path = scratch_path(state, "lora.safetensors");
    assert_ok(nb_safetensors_write(path, tensors, n, NULL));
    return open_file(path, 1, lenient);
}

#define OPEN(tensors) open_tensors(state, tensors, COUNT(tensors), 0)

/* The largest error of weight times the difference, by what an element of it may have. */
static double error_of(const nb_stored *delta, double weight)
{
    int64_t n = delta->shape[0], k = delta->shape[1];
    nb_weight w = {.n = n, .k = k, .scale = 1};
    double worst = 0;
    assert_ok(nb_loras_apply(fixture.loras, delta->name, fixture.arena, &w, NULL));
    assert_true(w.low_rank.rank > 0);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            double sum = 0;
            for (int64_t r = 0; r < w.low_rank.rank; r++)
                sum +=
                    (double)nb_load_f32(NB_DTYPE_F32, w.low_rank.up, i * w.low_rank.rank + r) *
                    (double)nb_load_f32(NB_DTYPE_F32, w.low_rank.down, r * k + j);
            double wanted = weight * (double)nb_load_f32(NB_DTYPE_F32, delta->data, i * k + j);
            worst = fmax(worst, fabs(sum - wanted));
        }
    return worst;
}

static void adds_what_peft_adds(void **state)
{
    nb_checkpoint *deltas;
    nb_lora_summary summary;
    (void)state;
    assert_ok(nb_checkpoint_open(DELTAS, &deltas));
    assert_ok(open_file(PRODUCTS, 0.75, 0));
    assert_int_equal(nb_checkpoint_n_tensors(deltas), 7);
    assert_int_equal(nb_loras_n_terms(fixture.loras), 7);
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(deltas); i++) {
        const nb_stored *delta = nb_checkpoint_tensor(deltas, i);
        double error = error_of(delta, 0.75);
        if (!(error <= 1e-6)) fail_msg("%s: error %g", delta->name, error);
    }
    assert_true(nb_lora_summarise(nb_loras_file(fixture.loras, 0), &summary));
    assert_string_equal(summary.family, "FLUX.1");
    assert_null(summary.foreign);
    assert_int_equal(summary.n_modules, 5);
    assert_int_equal(summary.n_unknown, 0);
    nb_checkpoint_close(deltas);
}

/* W1 is 4 x 4 and W2 6 x 4: together of rank 16, all that to_q can have. */
static void refuses_high_ranks(void **state)
{
    const nb_stored whole[] = {f32(Q ".lokr_w1", 4, 4), f32(Q ".lokr_w2", 6, 4)};
    const char *said = Q ".lokr_w1: part of a LoKr adapter of rank 16, which cannot be applied";
    assert_fails(OPEN(whole), NB_E_DATA, said);
    const nb_stored beside[] = {whole[0], whole[1], f32(Q ".diff_b", N, 0)};
    assert_fails(OPEN(beside), NB_E_DATA, said);
    assert_ok(open_tensors(state, beside, COUNT(beside), 1)); /* all but that */
    assert_int_equal(nb_loras_n_terms(fixture.loras), 1);
    const nb_stored half[] = {f32(Q ".hada_w1_a", N, 2), f32(Q ".hada_w1_b", 2, K),
                              f32(Q ".hada_w2_a", N, 4), f32(Q ".hada_w2_b", 4, K)};
    assert_fails(OPEN(half), NB_E_DATA, "LoHa adapter of rank 8");
}

static void refuses_what_does_not_fit(void **state)
{
    const nb_stored a = f32(Q ".hada_w1_a", N, 1), b = f32(Q ".hada_w1_b", 1, K);
    const nb_stored c = f32(Q ".hada_w2_a", N, 1), d = f32(Q ".hada_w2_b", 1, K);
    const nb_stored missing[] = {a, b, c};
    assert_fails(OPEN(missing), NB_E_DATA, "other parts of its LoHa adapter are missing");
    const nb_stored rows[] = {a, b, f32(Q ".hada_w2_a", 23, 1), d};
    assert_fails(OPEN(rows), NB_E_DATA, Q ".hada_w2_a: wanted [24, 1], found [23, 1]");
    const nb_stored ranks[] = {a, b, c, f32(Q ".hada_w2_b", 2, K)};
    assert_fails(OPEN(ranks), NB_E_DATA, Q ".hada_w2_b: wanted [1, 16], found [2, 16]");
    const nb_stored kinds[] = {a, b, f32(Q ".lokr_w2_a", N, 1), d};
    assert_fails(OPEN(kinds), NB_E_DATA, "part of a LoKr adapter beside another one");
    const nb_stored pair[] = {
        a, b, c, d, f32(Q ".lora_A.weight", 1, K), f32(Q ".lora_B.weight", N, 1)};
    assert_fails(OPEN(pair), NB_E_DATA, "part of a LoHa adapter beside another one");
    const nb_stored twice[] = {f32(Q ".lokr_w1", 1, 1), f32(Q ".lokr_w1_a", 1, 1),
                               f32(Q ".lokr_w2_a", N, 1), f32(Q ".lokr_w2_b", 1, K)};
    assert_fails(OPEN(twice), NB_E_DATA, Q ".lokr_w1_a means the same");
    const nb_stored other[] = {f32(Q ".lokr_w1", 1, 1), f32(Q ".lokr_w2_a", 23, 1),
                               f32(Q ".lokr_w2_b", 1, K)};
    assert_fails(OPEN(other), NB_E_DATA, "its LoKr adapter has 23 rows, wanted 24");
    const nb_stored columns[] = {f32(Q ".lokr_w1", 1, 1), f32(Q ".lokr_w2_a", N, 1),
                                 f32(Q ".lokr_w2_b", 1, K - 1)};
    nb_weight w = {.n = N, .k = K, .scale = 1};
    assert_ok(OPEN(columns));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".lokr_w1: wanted [24, 16], found [24, 15]");
    const nb_stored nowhere[] = {f32("x.lokr_w1", 1, 1), a, b, c, d};
    assert_fails(OPEN(nowhere), NB_E_DATA, "x.lokr_w1");
    assert_ok(open_tensors(state, nowhere, COUNT(nowhere), 1));
}

/* Finite parts whose product is not. */
static void refuses_overflow(void **state)
{
    float large[K];
    nb_weight w = {.n = N, .k = K, .scale = 1};
    for (int i = 0; i < K; i++) large[i] = 1e30f;
    nb_stored t[] = {f32(Q ".hada_w1_a", N, 1), f32(Q ".hada_w1_b", 1, K),
                     f32(Q ".hada_w2_a", N, 1), f32(Q ".hada_w2_b", 1, K)};
    t[1].data = t[3].data = large;
    assert_ok(OPEN(t));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".hada_w1_a: its adapter has numbers that are too large for F32");
    large[3] = NAN;
    assert_ok(OPEN(t));
    assert_fails(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, NULL), NB_E_DATA,
                 Q ".hada_w1_b: element 3 is not finite");
}

static void adds_differences_of_biases(void **state)
{
    float bias[N] = {2};
    nb_weight w = {.n = N, .k = K, .scale = 1};
    const nb_stored t[] = {f32(Q ".lora_A.weight", 1, K), f32(Q ".lora_B.weight", N, 1),
                           f32(Q ".diff_b", N, 0), f32(Q ".alpha", 1, 0)};
    assert_ok(OPEN(t));
    assert_ok(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, bias));
    assert_true(bias[0] == 3 && bias[1] == 1 && bias[N - 1] == 1 && w.low_rank.rank == 1);
    w.low_rank = (nb_low_rank){.rank = 0};
    assert_ok(open_tensors(state, &t[2], 1, 0));
    assert_ok(nb_loras_apply(fixture.loras, Q, fixture.arena, &w, bias));
    assert_true(bias[0] == 4 && bias[N - 1] == 2 && w.low_rank.rank == 0);
    const nb_stored rows[] = {f32(Q ".diff_b", N - 1, 0)};
    assert_fails(OPEN(rows), NB_E_DATA, Q ".diff_b: wanted F32, F16 or BF16 [24]");
    const nb_stored full[] = {f32(Q ".diff", N, K)};
    assert_fails(OPEN(full), NB_E_DATA, "part of a full-difference adapter");
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(adds_what_peft_adds), T(refuses_high_ranks),         T(refuses_what_does_not_fit),
        T(refuses_overflow),    T(adds_differences_of_biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
