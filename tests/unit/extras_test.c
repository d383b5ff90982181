/*
 * What stands beside a matrix: products with it equal to what Model-Optimizer computes
 * (golden/make_svd.py), its two meanings of a branch, and what is refused.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/cpu.h"
#include "models/bind.h"
#include "tests/unit/scratch.h"

static nb_device *device;

static int open_device(void **state)
{
    (void)state;
    return nb_device_open_cpu(nb_cpu_caps(), &device) != NB_OK;
}

static int close_device(void **state)
{
    (void)state;
    nb_device_close(device);
    return 0;
}

static nb_binder bind_from(const nb_checkpoint *c)
{
    nb_binder b = {.checkpoint = c, .device = device};
    assert_ok(nb_arena_create(&b.arena));
    return b;
}

/* y = x Wᵀ + b, of a layer and F32 data. */
static void multiply(const nb_layer *l, const float *x, int64_t m, float *y)
{
    nb_stream *s;
    assert_ok(nb_stream_create(device, NB_COMPUTE_F32, 1, NULL, &s));
    nb_tensor in =
        nb_tensor_view(device, (void *)(uintptr_t)x, NB_DTYPE_F32, 2, NB_SHAPE(m, l->w.k));
    nb_tensor out = nb_tensor_view(device, y, NB_DTYPE_F32, 2, NB_SHAPE(m, l->w.n));
    nb_layer_forward(s, l, out, in, NB_ACT_NONE);
    assert_ok(nb_stream_sync(s));
    nb_stream_destroy(s);
}

/* --- Model-Optimizer's own layers --- */

static void compare(nb_binder *b, const char *module)
{
    static float got[1 << 12];
    char name[96];
    snprintf(name, sizeof name, "%s.input", module);
    const nb_stored *x = nb_checkpoint_find(b->checkpoint, name);
    snprintf(name, sizeof name, "%s.output", module);
    const nb_stored *y = nb_checkpoint_find(b->checkpoint, name);
    assert_true(x && y && nb_stored_count(y) <= 1 << 12);
    nb_layer l = nb_bind_layer(b, y->shape[1], x->shape[1], 1, "%s", module);
    assert_ok(b->status);
    assert_non_null(l.w.column_scales);
    multiply(&l, x->data, x->shape[0], got);
    float low = INFINITY, high = -INFINITY, worst = 0;
    for (int64_t i = 0; i < nb_stored_count(y); i++) {
        float wanted = nb_load_f32(y->dtype, y->data, i);
        low = fminf(low, wanted);
        high = fmaxf(high, wanted);
        worst = fmaxf(worst, fabsf(got[i] - wanted));
    }
    if (!(worst <= 1e-5f * (high - low)))
        fail_msg("%s: off by %g of %g", module, (double)worst, (double)(high - low));
}

static void multiplies_as_model_optimizer(void **state)
{
    static const char *const files[] = {"modelopt-awq", "modelopt-svdquant"};
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[96];
        int n = 0;
        nb_checkpoint *c;
        snprintf(path, sizeof path, "golden/fp4/%s.safetensors", files[i]);
        assert_ok(nb_checkpoint_open(path, &c));
        nb_binder b = bind_from(c);
        for (int64_t t = 0; t < nb_checkpoint_n_tensors(c); t++) {
            char module[64];
            const char *name = nb_checkpoint_tensor(c, t)->name;
            if (!nb_name_ends_with(name, ".input")) continue;
            snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".input")),
                     name);
            compare(&b, module);
            n++;
        }
        assert_int_equal(n, 4);
        nb_arena_destroy(b.arena);
        nb_checkpoint_close(c);
    }
}

/* --- the two families --- */

#define V(name_, n, data_)                                                                     \
    {                                                                                          \
        .name = name_, .dtype = NB_DTYPE_F32, .rank = 1, .shape = {n}, .data = data_,          \
        .bytes = (n) * sizeof(float)                                                           \
    }
#define M(name_, n, k, data_)                                                                  \
    {                                                                                          \
        .name = name_, .dtype = NB_DTYPE_F32, .rank = 2, .shape = {n, k}, .data = data_,       \
        .bytes = (n) * (k) * sizeof(float)                                                     \
    }

static const float W[] = {1, 2, 3, 4}, SCALES[] = {0.5f, 3}, DOWN[] = {1, -1}, UP[] = {2, 5};
static const uint16_t UP_BF16[] = {0x4000, 0x40a0}; /* 2, 5 */
static const float INFINITE[] = {1, INFINITY};
static const float FOUR_D[] = {1, 2, 3, 4};

static const nb_stored tensors[] = {
    M("svd.weight", 2, 2, W),
    V("svd.pre_quant_scale", 2, SCALES),
    M("svd.svdquant_lora_a", 1, 2, DOWN),
    {.name = "svd.svdquant_lora_b",
     .dtype = NB_DTYPE_BF16,
     .rank = 2,
     .shape = {2, 1},
     .data = UP_BF16,
     .bytes = sizeof UP_BF16},
    M("raw.weight", 2, 2, W),
    V("raw.column_scales", 2, SCALES),
    M("raw.low_rank_down", 1, 2, DOWN),
    M("raw.low_rank_up", 2, 1, UP),
    M("branch.weight", 2, 2, W),
    M("branch.svdquant_lora_a", 1, 2, DOWN),
    M("branch.svdquant_lora_b", 2, 1, UP),
    M("long.weight", 2, 2, W),
    V("long.pre_quant_scale", 1, SCALES),
    M("down.weight", 2, 2, W),
    M("down.svdquant_lora_a", 1, 2, DOWN),
    M("up.weight", 2, 2, W),
    M("up.low_rank_up", 2, 1, UP),
    M("wide.weight", 2, 2, W),
    M("wide.svdquant_lora_a", 2, 1, DOWN),
    M("wide.svdquant_lora_b", 2, 2, W),
    M("ranks.weight", 2, 2, W),
    M("ranks.svdquant_lora_a", 1, 2, DOWN),
    M("ranks.svdquant_lora_b", 2, 2, W),
    M("infinite.weight", 2, 2, W),
    V("infinite.pre_quant_scale", 2, INFINITE),
    M("zeros.weight", 2, 2, W),
    V("zeros.weight_zero_point", 2, SCALES),
    M("table.weight", 2, 2, W),
    V("table.pre_quant_scale", 2, SCALES),
    {.name = "conv.weight",
     .dtype = NB_DTYPE_F32,
     .rank = 4,
     .shape = {2, 2, 1, 1},
     .data = FOUR_D,
     .bytes = sizeof FOUR_D},
    M("conv.low_rank_down", 1, 2, DOWN),
    M("conv.low_rank_up", 2, 1, UP),
};

static nb_checkpoint *open_tensors(void **state)
{
    nb_checkpoint *c;
    const char *path = scratch_path(state, "m.safetensors");
    assert_ok(nb_safetensors_write(path, tensors, sizeof tensors / sizeof *tensors, NULL));
    assert_ok(nb_checkpoint_open(path, &c));
    return c;
}

static void knows_what_a_branch_is_of(void **state)
{
    static const float x[] = {1, 10};
    static const struct {
        const char *module;
        float y[2];
    } cases[] = {
        /* (x s) = [0.5, 30]; W of it = [60.5, 121.5]; down of it = -29.5; down of x = -9 */
        {"svd", {60.5f - 2 * 29.5f, 121.5f - 5 * 29.5f}},
        {"raw", {60.5f - 2 * 9, 121.5f - 5 * 9}},
        {"branch", {21 - 2 * 9, 43 - 5 * 9}},
    };
    nb_checkpoint *c = open_tensors(state);
    nb_binder b = bind_from(c);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float y[2];
        nb_layer l = nb_bind_layer(&b, 2, 2, 0, "%s", cases[i].module);
        assert_ok(b.status);
        multiply(&l, x, 1, y);
        if (y[0] != cases[i].y[0] || y[1] != cases[i].y[1])
            fail_msg("%s: %g, %g", cases[i].module, (double)y[0], (double)y[1]);
    }
    nb_arena_destroy(b.arena);
    nb_checkpoint_close(c);
}

static void refuses(void **state)
{
    static const struct {
        const char *module, *sentence;
    } refusals[] = {
        {"long", "tensor long.pre_quant_scale: wanted [2], found [1]"},
        {"down", "tensor down.svdquant_lora_a: down.svdquant_lora_b is missing"},
        {"up", "tensor up.low_rank_up: up.low_rank_down is missing"},
        {"wide", "tensor wide.svdquant_lora_a: wanted [2, 2], found [2, 1]"},
        {"ranks", "tensor ranks.svdquant_lora_b: wanted [2, 1], found [2, 2]"},
        {"infinite", "tensor infinite.pre_quant_scale: element 1 is not finite"},
        {"zeros", "a weight with weight_zero_point cannot be computed yet"},
    };
    nb_checkpoint *c = open_tensors(state);
    nb_binder b = bind_from(c);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        (void)nb_bind_layer(&b, 2, 2, 0, "%s", refusals[i].module);
        assert_fails(b.status, NB_E_DATA, refusals[i].sentence);
        b.status = NB_OK;
    }
    (void)nb_bind_weight(&b, 2, 2, "table.weight");
    assert_fails(b.status, NB_E_DATA,
                 "tensor table.weight: pre_quant_scale belongs beside a linear layer");
    b.status = NB_OK;
    b.no_extras = 1;
    (void)nb_bind_layer(&b, 2, 2, 0, "conv");
    assert_fails(b.status, NB_E_DATA,
                 "tensor conv.weight: low_rank_down belongs beside a linear layer");
    nb_arena_destroy(b.arena);
    nb_checkpoint_close(c);
}

#define T(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(multiplies_as_model_optimizer),
        T(knows_what_a_branch_is_of),
        T(refuses),
    };
    return cmocka_run_group_tests(all, open_device, close_device);
}
