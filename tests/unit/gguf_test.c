#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/device.h"
#include "models/bind.h"
#include "models/canonical.h"
#include "models/gguf.h"
#include "tests/unit/scratch.h"

enum { U8 = 0, U32 = 4, I32 = 5, STRING = 8, ARRAY = 9, F32_ID = 0, Q8_0_ID = 8, Q4_K_ID = 12 };

/* A file that is put together number by number. */
struct file {
    unsigned char bytes[4096];
    size_t n;
};

static void put(struct file *f, const void *data, size_t n)
{
    assert_true(f->n + n <= sizeof f->bytes);
    memcpy(f->bytes + f->n, data, n);
    f->n += n;
}

static void put_u32(struct file *f, uint32_t value)
{
    put(f, &value, sizeof value);
}

static void put_u64(struct file *f, uint64_t value)
{
    put(f, &value, sizeof value);
}

static void put_text(struct file *f, const char *text)
{
    put_u64(f, strlen(text));
    put(f, text, strlen(text));
}

static void begin(struct file *f, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    f->n = 0;
    put(f, "GGUF", 4);
    put_u32(f, version);
    put_u64(f, n_tensors);
    put_u64(f, n_keys);
}

/* Sizes innermost first; 0 ends them. */
static void put_tensor(struct file *f, const char *name, uint64_t a, uint64_t b, uint32_t type,
                       uint64_t offset)
{
    put_text(f, name);
    put_u32(f, b ? 2 : 1);
    put_u64(f, a);
    if (b) put_u64(f, b);
    put_u32(f, type);
    put_u64(f, offset);
}

/* Up to the next multiple of `alignment`, and then n bytes of data 0, 1, 2 ... */
static void put_data(struct file *f, size_t alignment, size_t n)
{
    while (f->n % alignment) put(f, "", 1);
    for (size_t i = 0; i < n; i++) put(f, &(unsigned char){(unsigned char)i}, 1);
}

static nb_status open_file(const struct file *f, nb_gguf **out)
{
    nb_buffer *buffer;
    assert_ok(nb_buffer_take((void *)(uintptr_t)f->bytes, f->n, NULL, NULL, &buffer));
    nb_status status = nb_gguf_open_buffer("t.gguf", buffer, out);
    nb_buffer_unref(buffer);
    return status;
}

static void refused(const struct file *f, const char *sentence)
{
    nb_gguf *g;
    assert_fails(open_file(f, &g), NB_E_DATA, sentence);
    assert_int_equal(strncmp(nb_error_message(), "t.gguf: ", 8), 0);
}

/* Two tensors, keys of every kind, 64 as the alignment. */
static void whole_file(struct file *f, uint32_t version)
{
    begin(f, version, 2, 5);
    put_text(f, "general.architecture"), put_u32(f, STRING), put_text(f, "flux");
    put_text(f, "general.alignment"), put_u32(f, U32), put_u32(f, 64);
    put_text(f, "flag"), put_u32(f, U8), put(f, "\1", 1);
    put_text(f, "words"), put_u32(f, ARRAY), put_u32(f, STRING), put_u64(f, 2);
    put_text(f, "a"), put_text(f, "bc");
    put_text(f, "deep"), put_u32(f, ARRAY), put_u32(f, ARRAY), put_u64(f, 1);
    put_u32(f, U32), put_u64(f, 2), put_u32(f, 7), put_u32(f, 8);
    put_tensor(f, "m", 32, 2, Q8_0_ID, 64);
    put_tensor(f, "v", 3, 0, F32_ID, 0);
    put_data(f, 64, 64 + 68);
}

static void reads_both_versions(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct file f;
        nb_gguf *g;
        whole_file(&f, version);
        assert_ok(open_file(&f, &g));
        assert_int_equal(nb_gguf_n_tensors(g), 2);
        const nb_stored *m = nb_gguf_find(g, "m"), *v = nb_gguf_find(g, "v");
        assert_non_null(m);
        assert_ptr_equal(v, nb_gguf_tensor(g, 0)); /* in the order of the data */
        assert_int_equal(m->rank, 2);
        assert_int_equal(m->shape[0], 2); /* outermost first */
        assert_int_equal(m->shape[1], 32);
        assert_int_equal(m->dtype, NB_DTYPE_Q8_0);
        assert_int_equal(m->bytes, 68);
        assert_int_equal(*(const unsigned char *)m->data, 64);
        assert_int_equal(v->bytes, 12);
        assert_null(nb_gguf_find(g, "x"));
        assert_string_equal(nb_gguf_metadata(g, "general.architecture"), "flux");
        assert_null(nb_gguf_metadata(g, "words"));
        nb_gguf_close(g);
    }
}

static void refuses_what_is_cut_short(void **state)
{
    struct file f;
    nb_gguf *g;
    (void)state;
    whole_file(&f, 3);
    for (size_t n = f.n; n-- > 0;) {
        struct file cut = f;
        cut.n = n;
        assert_int_equal(open_file(&cut, &g), NB_E_DATA);
        assert_int_equal(strncmp(nb_error_message(), "t.gguf: ", 8), 0);
    }
}

static void refuses_bad_headers(void **state)
{
    struct file f;
    (void)state;
    begin(&f, 3, 0, 0);
    f.bytes[0] = 'g';
    refused(&f, "not a GGUF file");
    begin(&f, 1, 0, 0);
    refused(&f, "GGUF version 1, wanted 2 or 3");
    begin(&f, 0x03000000, 0, 0);
    refused(&f, "big-endian");
    begin(&f, 3, UINT64_MAX, 0);
    refused(&f, "18446744073709551615 tensors in a file of");
    begin(&f, 3, 0, 1u << 30);
    refused(&f, "1073741824 keys in a file of");
}

static void refuses_bad_keys(void **state)
{
    struct file f;
    (void)state;
    begin(&f, 3, 0, 1);
    put_text(&f, "k"), put_u32(&f, 13), put_u64(&f, 0);
    refused(&f, "unknown value type 13 in its keys");
    begin(&f, 3, 0, 1);
    put_text(&f, "k"), put_u32(&f, ARRAY), put_u32(&f, U32), put_u64(&f, UINT64_MAX / 4 + 2);
    refused(&f, "ends in its keys");
    begin(&f, 3, 0, 1);
    put_text(&f, "k"), put_u32(&f, ARRAY);
    for (int i = 0; i < 5; i++) put_u32(&f, ARRAY), put_u64(&f, 1);
    refused(&f, "arrays in arrays");
    begin(&f, 3, 0, 2);
    for (int i = 0; i < 2; i++) put_text(&f, "k"), put_u32(&f, U32), put_u32(&f, 1);
    refused(&f, "key k is there twice");
    begin(&f, 3, 0, 1);
    put_text(&f, "\xff"), put_u32(&f, U32), put_u32(&f, 1);
    refused(&f, "not UTF-8");
    for (uint32_t bad = 0; bad < 4; bad += 3) {
        begin(&f, 3, 0, 1);
        put_text(&f, "general.alignment"), put_u32(&f, U32), put_u32(&f, bad);
        refused(&f, "general.alignment: wanted a power of two");
    }
}

static void refuses_bad_tensors(void **state)
{
    static const struct {
        uint64_t a, b;
        uint32_t type;
        uint64_t offset;
        const char *sentence;
    } bad[] = {
        {4, 4, 99, 0, "tensor t: unknown type 99"},
        {256, 1, 16, 0, "tensor t: type 16 (IQ2_XXS) cannot be read"},
        {33, 1, Q8_0_ID, 0, "rows of 33 elements, wanted whole blocks of Q8_0, 32"},
        {128, 2, Q4_K_ID, 0, "rows of 128 elements, wanted whole blocks of Q4_K, 256"},
        {1ull << 62, 4, F32_ID, 0, "is too large"},
        {1ull << 63, 1, F32_ID, 0, "is not a size"},
        {1ull << 61, 1, F32_ID, 0, "is too large"},
        {4, 4, F32_ID, 1, "offset 1 is no multiple of the alignment, 32"},
        {4, 4, F32_ID, 64, "64 bytes at offset 64 go beyond the file's 64 bytes of data"},
        {4, 5, F32_ID, 0, "go beyond"},
        {4, 4, F32_ID, UINT64_MAX - 31, "go beyond"},
    };
    struct file f;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin(&f, 3, 1, 0);
        put_tensor(&f, "t", bad[i].a, bad[i].b, bad[i].type, bad[i].offset);
        put_data(&f, 32, 64);
        refused(&f, bad[i].sentence);
    }
    begin(&f, 3, 1, 0);
    put_text(&f, "t"), put_u32(&f, 5), put_data(&f, 32, 128);
    refused(&f, "tensor t: 5 dimensions, at most 4");
    begin(&f, 3, 2, 0);
    put_tensor(&f, "t", 4, 0, F32_ID, 0), put_tensor(&f, "t", 4, 0, F32_ID, 32);
    put_data(&f, 32, 64);
    refused(&f, "tensor t: is there twice");
    begin(&f, 3, 2, 0);
    put_tensor(&f, "s", 12, 0, F32_ID, 0), put_tensor(&f, "t", 4, 0, F32_ID, 32);
    put_data(&f, 32, 64);
    refused(&f, "tensors s and t overlap");
}

/* A tensor t [2, 32] in the file, whose key says what it was. */
static void with_shape(struct file *f, uint32_t type, uint32_t n, const int32_t *sizes)
{
    begin(f, 3, 1, 1);
    put_text(f, "comfy.gguf.orig_shape.t"), put_u32(f, ARRAY), put_u32(f, I32), put_u64(f, n);
    put(f, sizes, n * sizeof *sizes);
    put_tensor(f, "t", 32, 2, type, 0);
    put_data(f, 32, 256);
}

static void gives_the_original_shape(void **state)
{
    struct file f;
    nb_gguf *g;
    (void)state;
    with_shape(&f, F32_ID, 4, (const int32_t[]){4, 4, 2, 2});
    assert_ok(open_file(&f, &g));
    const nb_stored *t = nb_gguf_find(g, "t");
    assert_int_equal(t->rank, 4);
    assert_int_equal(t->shape[0], 4);
    assert_int_equal(t->shape[3], 2);
    nb_gguf_close(g);
    with_shape(&f, Q8_0_ID, 3, (const int32_t[]){1, 4, 16});
    assert_ok(open_file(&f, &g));
    assert_int_equal(nb_gguf_find(g, "t")->rank, 3);
    nb_gguf_close(g);
    with_shape(&f, F32_ID, 2, (const int32_t[]){3, 32});
    refused(&f, "tensor t: orig_shape gives it [3, 32], which is not its 64 elements");
    with_shape(&f, F32_ID, 2, (const int32_t[]){-2, -32});
    refused(&f, "orig_shape gives it");
    with_shape(&f, Q8_0_ID, 2, (const int32_t[]){4, 16});
    refused(&f, "whose rows are not whole blocks of Q8_0");
}

static void gives_t5_its_canonical_names(void **state)
{
    const char *path = scratch_path(state, "t5.gguf");
    struct file f;
    nb_checkpoint *c;
    begin(&f, 3, 3, 0);
    put_tensor(&f, "token_embd.weight", 32, 2, Q8_0_ID, 0);
    put_tensor(&f, "enc.blk.7.attn_rel_b.weight", 1, 0, F32_ID, 96);
    put_tensor(&f, "enc.blk.11.ffn_gate.weight", 1, 0, F32_ID, 128);
    put_data(&f, 32, 132);
    scratch_write(path, f.bytes, f.n);
    assert_ok(nb_canonical_open(path, &c));
    assert_int_equal(nb_checkpoint_n_tensors(c), 3);
    assert_non_null(nb_checkpoint_find(c, "shared.weight"));
    assert_non_null(nb_checkpoint_find(
        c, "encoder.block.7.layer.0.SelfAttention.relative_attention_bias.weight"));
    assert_non_null(
        nb_checkpoint_find(c, "encoder.block.11.layer.1.DenseReluDense.wi_0.weight"));
    nb_checkpoint_close(c);
    /* The ending says what it should have been. */
    scratch_write(path, "no", 2);
    assert_fails(nb_canonical_open(path, &c), NB_E_DATA, "t5.gguf: not a GGUF file");
}

/* Blocks are multiplied by nothing: what is beside them would be left out, or worse. */
static void refuses_scales_beside_blocks(void **state)
{
    static const char *const names[] = {"m.scale", "m.weight_scale", "m.scale_weight",
                                        "m.weight_scale_inv"};
    const char *path = scratch_path(state, "m.gguf");
    nb_device *device;
    nb_arena *arena;
    assert_ok(nb_device_open("cpu", &device));
    assert_ok(nb_arena_create(&arena));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct file f;
        nb_checkpoint *c;
        begin(&f, 3, 2, 0);
        put_tensor(&f, "m.weight", 32, 2, Q8_0_ID, 0);
        put_tensor(&f, names[i], 1, 0, F32_ID, 96);
        put_data(&f, 32, 96);
        put(&f, &(float){2}, sizeof(float));
        scratch_write(path, f.bytes, f.n);
        assert_ok(nb_canonical_open(path, &c));
        nb_binder b = {.checkpoint = c, .device = device, .arena = arena};
        nb_bind_layer(&b, 2, 32, 0, "m");
        assert_fails(b.status, NB_E_DATA, "a scale beside blocks of Q8_0");
        assert_non_null(strstr(nb_error_message(), names[i]));
        nb_checkpoint_close(c);
    }
    nb_arena_destroy(arena);
    nb_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_versions),
        cmocka_unit_test(refuses_what_is_cut_short),
        cmocka_unit_test(refuses_bad_headers),
        cmocka_unit_test(refuses_bad_keys),
        cmocka_unit_test(refuses_bad_tensors),
        cmocka_unit_test(gives_the_original_shape),
        cmocka_unit_test_setup_teardown(refuses_scales_beside_blocks, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(gives_t5_its_canonical_names, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
