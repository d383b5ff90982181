/*
 * Checkpoints are written here with the repository's own writer, each with just the tensors of
 * one case.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "models/bind.h"
#include "tests/unit/scratch.h"

struct fixture {
    nb_checkpoint *checkpoint;
    nb_binder b;
};

static struct fixture fixture;

static int setup(void **state)
{
    memset(&fixture, 0, sizeof fixture);
    if (scratch_setup(state)) return -1;
    return nb_arena_create(&fixture.b.arena);
}

static int teardown(void **state)
{
    nb_checkpoint_close(fixture.checkpoint);
    nb_arena_destroy(fixture.b.arena);
    return scratch_teardown(state);
}

/* Fresh binder over a checkpoint of these tensors. */
static nb_binder *binder_of(void **state, const nb_stored *tensors, int64_t n)
{
    const char *path = scratch_path(state, "m.safetensors");
    nb_checkpoint_close(fixture.checkpoint);
    fixture.checkpoint = NULL;
    assert_ok(nb_safetensors_write(path, tensors, n, NULL));
    assert_ok(nb_checkpoint_open(path, &fixture.checkpoint));
    fixture.b = (nb_binder){.checkpoint = fixture.checkpoint, .arena = fixture.b.arena};
    return &fixture.b;
}

static const unsigned char zeros[1 << 16];
static unsigned char ones_e4m3[1 << 16];

/* A tensor of zeros (or, for F8, of ones) of that type and shape. */
static nb_stored tensor(const char *name, nb_dtype dtype, int rank, const int64_t *shape)
{
    nb_stored t = {.name = name, .dtype = dtype, .rank = rank, .data = zeros};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    t.bytes = (size_t)nb_stored_count(&t) * nb_dtype_bytes(dtype);
    assert_true(t.bytes <= sizeof zeros);
    memset(ones_e4m3, 0x38, sizeof ones_e4m3);
    if (dtype == NB_DTYPE_F8_E4M3) t.data = ones_e4m3;
    return t;
}

static nb_stored floats(const char *name, int rank, const int64_t *shape, const float *data)
{
    nb_stored t = tensor(name, NB_DTYPE_F32, rank, shape);
    t.data = data;
    return t;
}

#define S(...)                  ((const int64_t[]){__VA_ARGS__})
#define RANK(...)               ((int)(sizeof S(__VA_ARGS__) / sizeof(int64_t)))
#define TENSOR(name, type, ...) tensor(name, NB_DTYPE_##type, RANK(__VA_ARGS__), S(__VA_ARGS__))

static void assert_binder_fails(nb_binder *b, const char *sentence)
{
    assert_fails(b->status, NB_E_DATA, sentence);
    b->status = NB_OK;
}

static void binds_layers(void **state)
{
    const float bias[2] = {3, -4};
    const nb_stored t[] = {TENSOR("x.weight", BF16, 2, 3), floats("x.bias", 1, S(2), bias),
                           TENSOR("extra", I64, 7), TENSOR("y.weight", F16, 2, 3)};
    nb_binder *b = binder_of(state, t, 4);
    nb_layer l = nb_bind_layer(b, 2, 3, 1, "%c", 'x');
    assert_ok(b->status);
    assert_ptr_equal(l.w.data, nb_checkpoint_find(fixture.checkpoint, "x.weight")->data);
    assert_int_equal(l.w.dtype, NB_DTYPE_BF16);
    assert_int_equal(l.w.n, 2);
    assert_int_equal(l.w.k, 3);
    assert_int_equal(l.w.scale_kind, NB_SCALE_NONE);
    assert_true(l.w.scale == 1.0f);
    assert_int_equal(l.bias.shape[0], 2);
    assert_true(nb_tensor_f32(l.bias)[1] == -4);
    l = nb_bind_layer(b, 2, 3, 0, "y");
    assert_null(l.bias.data);
    assert_ok(b->status);
    assert_true(nb_bind_has(b, "%s.bias", "x"));
    assert_false(nb_bind_has(b, "y.bias"));
}

static void keeps_the_first_error(void **state)
{
    const nb_stored t[] = {TENSOR("x.weight", F32, 64, 256), TENSOR("x.bias", F32, 65)};
    nb_binder *b = binder_of(state, t, 2);
    nb_weight w = nb_bind_weight(b, 256, 64, "x.weight");
    assert_null(w.data);
    (void)nb_bind_weight(b, 1, 1, "none");
    assert_binder_fails(b, "m.safetensors: tensor x.weight: wanted [256, 64], found [64, 256]");
    (void)nb_bind_layer(b, 64, 256, 1, "x");
    assert_binder_fails(b, "m.safetensors: tensor x.bias: wanted [64], found [65]");
    (void)nb_bind_layer(b, 64, 256, 1, "z");
    assert_binder_fails(b, "m.safetensors: tensor z.weight: wanted [64, 256], found nothing");
}

static void reads_shapes_as_matrices(void **state)
{
    const nb_stored t[] = {
        TENSOR("conv", F32, 8, 4, 3, 3),
        TENSOR("one", F32, 8, 4, 1, 1),
        TENSOR("last", F32, 8, 3, 3, 4),
        TENSOR("row", F32, 1, 32),
        TENSOR("column", F32, 32, 1),
        TENSOR("flat", F32, 288),
        tensor("scalar", NB_DTYPE_F32, 0, NULL),
    };
    nb_binder *b = binder_of(state, t, 7);
    (void)nb_bind_weight(b, 8, 36, "conv");
    (void)nb_bind_weight(b, 8, 4, "one");
    (void)nb_bind_weight(b, 1, 32, "row");
    (void)nb_bind_weight(b, 32, 1, "column");
    (void)nb_bind_vector(b, 32, "column");
    (void)nb_bind_vector(b, 1, "scalar");
    (void)nb_bind_weight(b, 1, 1, "scalar");
    assert_ok(b->status);
    (void)nb_bind_weight(b, 8, 36,
                         "last"); /* channels last: the numbers fit, the order does not */
    assert_binder_fails(b, "tensor last: wanted [8, 36], found [8, 3, 3, 4]");
    (void)nb_bind_weight(b, 8, 36, "flat");
    assert_binder_fails(b, "tensor flat: wanted [8, 36], found [288]");
    (void)nb_bind_vector(b, 32, "row");
    assert_binder_fails(b, "tensor row: wanted [32], found [1, 32]");
    (void)nb_bind_weight(b, 4, 8, "one");
    assert_binder_fails(b, "tensor one: wanted [4, 8], found [8, 4, 1, 1]");
}

static void wants_floats(void **state)
{
    const nb_stored t[] = {TENSOR("i.weight", I64, 2, 2), TENSOR("d.weight", F64, 2, 2),
                           TENSOR("u.weight", U8, 2, 2), TENSOR("i.bias", I32, 2)};
    nb_binder *b = binder_of(state, t, 4);
    (void)nb_bind_layer(b, 2, 2, 0, "i");
    assert_binder_fails(
        b, "tensor i.weight: wanted F32, F16, BF16, F8_E4M3 or F8_E5M2, found I64");
    (void)nb_bind_layer(b, 2, 2, 0, "d");
    assert_binder_fails(b, "found F64");
    (void)nb_bind_layer(b, 2, 2, 0, "u");
    assert_binder_fails(b, "tensor u.weight: u.weight_scale is missing");
    (void)nb_bind_vector(b, 2, "i.bias");
    assert_binder_fails(b, "tensor i.bias: wanted a floating type, found I32");
}

static void converts_vectors(void **state)
{
    static const uint16_t halves[2] = {0x3c00, 0xc000}, bf16s[2] = {0x3f80, 0xc000};
    static const double doubles[2] = {1, -2};
    static const uint8_t e5m2[2] = {0x3c, 0xc0};
    nb_stored t[] = {TENSOR("h", F16, 2), TENSOR("b", BF16, 2), TENSOR("d", F64, 2),
                     TENSOR("e", F8_E5M2, 2)};
    t[0].data = halves;
    t[1].data = bf16s;
    t[2].data = doubles;
    t[3].data = e5m2;
    nb_binder *b = binder_of(state, t, 4);
    for (int i = 0; i < 4; i++) {
        nb_tensor v = nb_bind_vector(b, 2, "%s", t[i].name);
        assert_ok(b->status);
        assert_int_equal(v.dtype, NB_DTYPE_F32);
        assert_true(nb_tensor_f32(v)[0] == 1 && nb_tensor_f32(v)[1] == -2);
    }
}

static void reads_a_plain_cast(void **state)
{
    const nb_stored t[] = {TENSOR("x.weight", F8_E4M3, 2, 3), TENSOR("x.bias", F8_E4M3, 2),
                           TENSOR("norm.scale", F32, 2)};
    nb_binder *b = binder_of(state, t, 3);
    nb_layer l = nb_bind_layer(b, 2, 3, 1, "x");
    assert_ok(b->status);
    assert_int_equal(l.w.dtype, NB_DTYPE_F8_E4M3);
    assert_true(l.w.scale == 1.0f);
    assert_true(nb_tensor_f32(l.bias)[0] == 1.0f);
}

static void assert_decodes(const nb_weight *w, int64_t row, int64_t column, float wanted)
{
    float value;
    nb_weight_decode_ref(w, row, column, 1, &value);
    if (value != wanted)
        fail_msg("[%d][%d]: wanted %g, found %g", (int)row, (int)column, (double)wanted,
                 (double)value);
}

static void reads_scales_of_a_tensor_and_of_rows(void **state)
{
    static const float one[1] = {0.25f}, rows[3] = {1, 0, 3};
    const nb_stored t[] = {
        TENSOR("a.weight", F8_E4M3, 3, 2), floats("a.weight_scale", 0, NULL, one),
        TENSOR("b.weight", F8_E4M3, 3, 2), floats("b.scale_weight", 1, S(1), one),
        TENSOR("c.weight", F8_E4M3, 3, 2), floats("c.weight_scale", 1, S(3), rows),
        TENSOR("d.weight", F8_E4M3, 3, 2), floats("d.weight_scale", 2, S(3, 1), rows),
        TENSOR("e.weight", F8_E5M2, 3, 2), floats("e.scale_weight", 2, S(1, 1), one),
        TENSOR("f.weight", BF16, 3, 2), /* beside scaled ones, not scaled itself */
        TENSOR("a.input_scale", F32, 1),   TENSOR("scaled_fp8", F8_E4M3, 2),
    };
    nb_binder *b = binder_of(state, t, 13);
    for (const char *name = "ab"; *name; name++) {
        nb_layer l = nb_bind_layer(b, 3, 2, 0, "%c", *name);
        assert_ok(b->status);
        assert_int_equal(l.w.scale_kind, NB_SCALE_NONE);
        assert_decodes(&l.w, 2, 1, 0.25f);
    }
    for (const char *name = "cd"; *name; name++) {
        nb_layer l = nb_bind_layer(b, 3, 2, 0, "%c", *name);
        assert_ok(b->status);
        assert_int_equal(l.w.scale_kind, NB_SCALE_ROW);
        assert_decodes(&l.w, 0, 1, 1);
        assert_decodes(&l.w, 1, 0, 0);
        assert_decodes(&l.w, 2, 0, 3);
    }
    assert_true(nb_bind_layer(b, 3, 2, 0, "e").w.scale == 0.25f);
    assert_true(nb_bind_layer(b, 3, 2, 0, "f").w.scale == 1.0f);
    assert_ok(b->status);
}

static void reads_scales_of_blocks(void **state)
{
    static const float blocks[6] = {1, 2, 3, 4, 5, 6};
    const nb_stored t[] = {
        TENSOR("a.weight", F8_E4M3, 300, 130), floats("a.weight_scale_inv", 2, S(3, 2), blocks),
        TENSOR("b.weight", F8_E4M3, 300, 100), floats("b.weight_scale_inv", 2, S(3, 1), blocks),
        TENSOR("c.weight", F8_E4M3, 300, 130), floats("c.weight_scale_inv", 2, S(2, 3), blocks),
        TENSOR("d.weight", F8_E4M3, 300, 130), floats("d.weight_scale_inv", 1, S(6), blocks),
    };
    nb_binder *b = binder_of(state, t, 8);
    nb_layer l = nb_bind_layer(b, 300, 130, 0, "a");
    assert_ok(b->status);
    assert_decodes(&l.w, 127, 127, 1);
    assert_decodes(&l.w, 127, 128, 2);
    assert_decodes(&l.w, 128, 0, 3);
    assert_decodes(&l.w, 299, 129, 6);
    l = nb_bind_layer(b, 300, 100, 0, "b");
    assert_ok(b->status);
    assert_int_equal(l.w.scale_kind, NB_SCALE_BLOCK128);
    assert_decodes(&l.w, 256, 99, 3);
    (void)nb_bind_layer(b, 300, 130, 0, "c");
    assert_binder_fails(b, "tensor c.weight_scale_inv: wanted [3, 2], found [2, 3]");
    (void)nb_bind_layer(b, 300, 130, 0, "d");
    assert_binder_fails(b, "tensor d.weight_scale_inv: wanted [3, 2], found [6]");
}

static void refuses_bad_scales(void **state)
{
    static const float zero[3], nan[1] = {NAN}, inf[3] = {1, INFINITY, 1}, good[3] = {1, 1, 1};
    const nb_stored t[] = {
        TENSOR("zero.weight", F8_E4M3, 3, 2),
        floats("zero.weight_scale", 0, NULL, zero),
        TENSOR("zeros.weight", F8_E4M3, 3, 2),
        floats("zeros.weight_scale", 1, S(3), zero),
        TENSOR("nan.weight", F8_E4M3, 3, 2),
        floats("nan.scale_weight", 1, S(1), nan),
        TENSOR("inf.weight", F8_E4M3, 3, 2),
        floats("inf.weight_scale", 1, S(3), inf),
        TENSOR("long.weight", F8_E4M3, 2, 2),
        floats("long.weight_scale", 1, S(3), good),
        TENSOR("int.weight", F8_E4M3, 3, 2),
        TENSOR("int.weight_scale", I32, 1),
        TENSOR("two.weight", F8_E4M3, 3, 2),
        floats("two.weight_scale", 1, S(3), good),
        floats("two.scale_weight", 1, S(3), good),
        TENSOR("none.weight", F8_E4M3, 3, 2),
        TENSOR("none.bias", F8_E5M2, 3),
        TENSOR("empty.weight", F8_E4M3, 3, 2),
        floats("empty.weight_scale", 1, S(0), good),
    };
    static const struct {
        int64_t n;
        const char *name, *sentence;
    } bad[] = {
        {3, "zero", "tensor zero.weight_scale: the scale is zero"},
        {3, "zeros", "tensor zeros.weight_scale: the scale is zero"},
        {3, "nan", "tensor nan.scale_weight: scale 0 is not finite"},
        {3, "inf", "tensor inf.weight_scale: scale 1 is not finite"},
        {2, "long", "tensor long.weight_scale: wanted [2], found [3]"},
        {3, "int", "tensor int.weight_scale: wanted a floating type, found I32"},
        {3, "two", "has two scales, two.weight_scale and two.scale_weight"},
        {3, "none", "tensor none.weight: F8_E4M3 without a scale in a scaled checkpoint"},
        {3, "empty", "tensor empty.weight_scale: wanted [3], found [0]"},
    };
    nb_binder *b = binder_of(state, t, sizeof t / sizeof *t);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)nb_bind_layer(b, bad[i].n, 2, 0, "%s", bad[i].name);
        assert_binder_fails(b, bad[i].sentence);
    }
    (void)nb_bind_vector(b, 3, "none.bias");
    assert_binder_fails(b, "tensor none.bias: F8_E5M2 without a scale");
}

/* A marker alone says that scales belong there. */
static void believes_the_marker(void **state)
{
    const nb_stored t[] = {TENSOR("x.weight", F8_E4M3, 3, 2), TENSOR("scaled_fp8", F8_E4M3, 0)};
    nb_binder *b = binder_of(state, t, 2);
    (void)nb_bind_layer(b, 3, 2, 0, "x");
    assert_binder_fails(b, "without a scale");
}

/* Rows of scales that lie at an odd address are used from an aligned copy. */
static void aligns_scales(void **state)
{
    static const char header[] =
        "{\"x.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,1],\"data_offsets\":[0,2]},"
        "\"x.weight_scale\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]}}";
    static const float scales[2] = {0.5f, 2};
    for (size_t shift = 0; shift < 4; shift++) {
        char padded[sizeof header + 4];
        size_t bytes;
        snprintf(padded, sizeof padded, "%s%*s", header, (int)shift, "");
        unsigned char *file = safetensors_bytes(padded, 11, &bytes);
        memcpy(file + bytes - 8, scales, 8);
        memset(file + bytes - 11, 0x38, 2);
        const char *path = scratch_path(state, "odd.safetensors");
        scratch_write(path, file, bytes);
        free(file);
        nb_checkpoint_close(fixture.checkpoint);
        fixture.checkpoint = NULL;
        assert_ok(nb_checkpoint_open(path, &fixture.checkpoint));
        nb_binder b = {.checkpoint = fixture.checkpoint, .arena = fixture.b.arena};
        nb_layer l = nb_bind_layer(&b, 2, 1, 0, "x");
        assert_ok(b.status);
        assert_int_equal((uintptr_t)l.w.scales % sizeof(float), 0);
        assert_decodes(&l.w, 0, 0, 0.5f);
        assert_decodes(&l.w, 1, 0, 2);
    }
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(binds_layers),
        T(keeps_the_first_error),
        T(reads_shapes_as_matrices),
        T(wants_floats),
        T(converts_vectors),
        T(reads_a_plain_cast),
        T(reads_scales_of_a_tensor_and_of_rows),
        T(reads_scales_of_blocks),
        T(refuses_bad_scales),
        T(believes_the_marker),
        T(aligns_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
