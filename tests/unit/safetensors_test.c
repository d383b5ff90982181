#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/safetensors.h"
#include "tests/unit/scratch.h"

static void release_heap(void *data, size_t bytes, void *arg)
{
    (void)bytes;
    (void)arg;
    free(data);
}

/* Opens a copy that ends where its heap block ends: reading one byte too many is seen. */
static nb_status open_bytes(const void *data, size_t bytes, nb_safetensors **out)
{
    nb_buffer *buffer;
    void *copy = malloc(bytes ? bytes : 1);
    if (bytes) memcpy(copy, data, bytes);
    assert_ok(nb_buffer_take(copy, bytes, release_heap, NULL, &buffer));
    nb_status status = nb_safetensors_open_buffer("a.safetensors", buffer, out);
    nb_buffer_unref(buffer);
    return status;
}

static nb_status open_header(const char *header, size_t data_bytes, nb_safetensors **out)
{
    size_t bytes;
    unsigned char *file = safetensors_bytes(header, data_bytes, &bytes);
    nb_status status = open_bytes(file, bytes, out);
    free(file);
    return status;
}

static void reads_what_is_there(void **state)
{
    (void)state;
    nb_safetensors *f;
    assert_ok(open_header("{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
                          "\"__metadata__\":{\"format\":\"pt\",\"n\":5},"
                          "\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[],\"data_offsets\":[0,1]},"
                          "\"none\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[4,4]}}"
                          "   ",
                          32, &f));
    assert_int_equal(nb_safetensors_n_tensors(f), 3);
    const nb_stored *b = nb_safetensors_find(f, "b");
    assert_non_null(b);
    assert_string_equal(b->name, "b");
    assert_string_equal(b->file, "a.safetensors");
    assert_int_equal(b->dtype, NB_DTYPE_F32);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(*(const unsigned char *)b->data, 8);
    assert_int_equal(nb_stored_count(b), 6);
    assert_string_equal(nb_safetensors_tensor(f, 0)->name, "a");
    assert_string_equal(nb_safetensors_tensor(f, 1)->name, "none");
    assert_int_equal(nb_stored_count(nb_safetensors_find(f, "a")), 1);
    assert_null(nb_safetensors_find(f, "c"));
    assert_null(nb_safetensors_find(f, "__metadata__"));
    assert_string_equal(nb_safetensors_metadata(f, "format"), "pt");
    assert_null(nb_safetensors_metadata(f, "n"));
    assert_null(nb_safetensors_metadata(f, "x"));
    nb_safetensors_close(f);
}

static void accepts_odd_but_harmless(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t bytes;
    } files[] = {
        {"{}", 0},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[13,16]}}", 16}, /* a hole */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}," /* inside another */
         "\"b\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]}}",
         16},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5],\"more\":[1]}}", 5},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0]}}",
         0},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        nb_safetensors *f;
        assert_ok(open_header(files[i].header, files[i].bytes, &f));
        assert_null(nb_safetensors_metadata(f, "format"));
        nb_safetensors_close(f);
    }
}

#define A(dtype, shape, offsets)                                                               \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

/* Headers over 16 bytes of data, and what must be said about them. */
static const struct hostile {
    const char *header, *sentence;
} hostile[] = {
    {"", "not valid JSON"},
    {"[", "not valid JSON"},
    {"{\"a\":", "not valid JSON"},
    {"{} {}", "not valid JSON"},
    {"{\"\\u0000\":{}}", "not valid JSON"},
    {"{\"\xff\":{}}", "not valid JSON"},
    {"[]", "not a JSON object"},
    {"3", "not a JSON object"},
    {"{\"__metadata__\":3}", "__metadata__ is not a JSON object"},
    {"{\"a\":3}", "tensor a: its entry is not an object"},
    {"{\"a\":{}}", "tensor a: has no dtype"},
    {A("7", "[1]", "[0,1]"), "tensor a: has no dtype"},
    {A("\"F7\"", "[1]", "[0,1]"), "tensor a: unknown dtype F7"},
    {A("\"U8\"", "1", "[0,1]"), "tensor a: has no shape"},
    {A("\"U8\"", "[-1]", "[0,1]"), "tensor a: dimension 0 is not a size"},
    {A("\"U8\"", "[1,1.5]", "[0,1]"), "tensor a: dimension 1 is not a size"},
    {A("\"U8\"", "[1,\"1\"]", "[0,1]"), "tensor a: dimension 1 is not a size"},
    {A("\"U8\"", "[99999999999999999999]", "[0,1]"), "not valid JSON"},
    {A("\"F64\"", "[2305843009213693952]", "[0,16]"), "tensor a: the shape is too large"},
    {A("\"U8\"", "[4294967296,4294967296]", "[0,0]"), "tensor a: the shape is too large"},
    {A("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "tensor a: 9 dimensions, at most 8"},
    {A("\"U8\"", "[1]", "[0]"), "tensor a: data_offsets are not two integers"},
    {A("\"U8\"", "[1]", "[0,1,2]"), "tensor a: data_offsets are not two integers"},
    {A("\"U8\"", "[1]", "[0,1.0]"), "tensor a: data_offsets are not two integers"},
    {A("\"U8\"", "[1]", "null"), "tensor a: data_offsets are not two integers"},
    {A("\"U8\"", "[1]", "[2,1]"), "tensor a: data_offsets [2, 1] are not a range"},
    {A("\"U8\"", "[1]", "[-1,0]"), "tensor a: data_offsets [-1, 0] are not a range"},
    {A("\"U8\"", "[1]", "[16,17]"), "go beyond the file's 16 bytes of data"},
    {A("\"U8\"", "[1]", "[9223372036854775806,9223372036854775807]"), "go beyond"},
    {A("\"F32\"", "[4]", "[0,4]"), "tensor a: F32 of [4] is 16 bytes, data_offsets hold 4"},
    {A("\"F32\"", "[]", "[0,0]"), "tensor a: F32 of [] is 4 bytes, data_offsets hold 0"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[7,15]}}",
     "tensors a and b overlap"},
    {"{}", "wanted 0 bytes of tensors, found 16"},
    {A("\"U8\"", "[12]", "[0,12]"), "wanted 12 bytes of tensors, found 16"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
     "tensors a and b overlap"},
    {"{\"big\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]},"
     "\"empty\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]},"
     "\"in\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}",
     "tensors big and in overlap"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     "duplicate object key near '\"a\"'"},
};

static void refuses_hostile_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        nb_safetensors *f = (void *)&hostile;
        assert_fails(open_header(hostile[i].header, 16, &f), NB_E_DATA, hostile[i].sentence);
        assert_ptr_equal(strstr(nb_error_message(), "a.safetensors: "), nb_error_message());
        assert_ptr_equal(f, &hostile); /* untouched */
    }
}

static void refuses_hostile_lengths(void **state)
{
    (void)state;
    static const unsigned char zeros[16];
    nb_safetensors *f;
    for (size_t n = 0; n < 8; n++)
        assert_fails(open_bytes(zeros, n, &f), NB_E_DATA, "not a safetensors file: only");
    assert_fails(open_bytes(zeros, 8, &f), NB_E_DATA, "not valid JSON");
    unsigned char file[12] = {5, 0, 0, 0, 0, 0, 0, 0, '{', '}', ' ', ' '};
    assert_fails(open_bytes(file, 12, &f), NB_E_DATA, "a header of 5 bytes in a file of 12");
    file[0] = 4;
    assert_ok(open_bytes(file, 12, &f));
    nb_safetensors_close(f);
    memset(file, 0xff, 8);
    assert_fails(open_bytes(file, 12, &f), NB_E_DATA, "at most 100000000 are allowed");
    uint64_t claimed = 100000001;
    memcpy(file, &claimed, 8);
    assert_fails(open_bytes(file, 12, &f), NB_E_DATA, "a header of 100000001 bytes");
}

static void refuses_deep_nesting(void **state)
{
    (void)state;
    enum { DEPTH = 200000 };
    char *deep = calloc(1, DEPTH + 1);
    nb_safetensors *f;
    memset(deep, '[', DEPTH);
    assert_fails(open_header(deep, 0, &f), NB_E_DATA, "maximum parsing depth");
    free(deep);
}

/* Every byte of a good file changed in turn: it opens or it is refused, and nothing else. */
static void survives_any_changed_byte(void **state)
{
    (void)state;
    size_t bytes;
    unsigned char *file =
        safetensors_bytes("{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                          "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[8,16]}}",
                          16, &bytes);
    int opened = 0, refused = 0;
    for (size_t i = 0; i < bytes - 16; i++) {
        unsigned char good = file[i];
        for (int value = 0; value < 256; value++) {
            nb_safetensors *f;
            file[i] = (unsigned char)value;
            nb_status status = open_bytes(file, bytes, &f);
            if (status) assert_int_equal(status, NB_E_DATA);
            if (!status) nb_safetensors_close(f);
            *(status ? &refused : &opened) += 1;
        }
        file[i] = good;
    }
    assert_true(opened > (int)bytes - 16); /* at least the unchanged ones */
    assert_true(refused > 20000);
    free(file);
}

static void names_missing_files(void **state)
{
    nb_safetensors *f;
    assert_fails(nb_safetensors_open(scratch_path(state, "none.safetensors"), &f), NB_E_NOINPUT,
                 "none.safetensors: cannot be read");
    assert_fails(nb_safetensors_open(*state, &f), NB_E_DATA, "not a regular file");
    scratch_write_text(scratch_path(state, "empty.safetensors"), "");
    assert_fails(nb_safetensors_open(scratch_path(state, "empty.safetensors"), &f), NB_E_DATA,
                 "only 0 bytes");
}

static void writes_what_it_reads(void **state)
{
    const char *path = scratch_path(state, "w.safetensors");
    const uint8_t byte[3] = {1, 2, 3};
    const float matrix[4] = {1, 2, 3, 4};
    const int64_t wide = 77;
    const nb_stored tensors[] = {
        {.name = "odd",
         .dtype = NB_DTYPE_U8,
         .rank = 1,
         .shape = {3},
         .data = byte,
         .bytes = 3},
        {.name = "m",
         .dtype = NB_DTYPE_F32,
         .rank = 2,
         .shape = {2, 2},
         .data = matrix,
         .bytes = 16},
        {.name = "s", .dtype = NB_DTYPE_I64, .rank = 0, .data = &wide, .bytes = 8},
        {.name = "e",
         .dtype = NB_DTYPE_F32,
         .rank = 1,
         .shape = {0},
         .data = matrix,
         .bytes = 0},
    };
    nb_safetensors *f;
    assert_ok(nb_safetensors_write(path, tensors, 4, (const char *const[]){"k", "v", NULL}));
    assert_ok(nb_safetensors_open(path, &f));
    assert_int_equal(nb_safetensors_n_tensors(f), 4);
    assert_string_equal(nb_safetensors_metadata(f, "k"), "v");
    for (int i = 0; i < 4; i++) {
        const nb_stored *t = nb_safetensors_find(f, tensors[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, tensors[i].dtype);
        assert_int_equal(t->rank, tensors[i].rank);
        assert_memory_equal(t->shape, tensors[i].shape, sizeof t->shape);
        assert_int_equal(t->bytes, tensors[i].bytes);
        if (t->bytes) assert_memory_equal(t->data, tensors[i].data, t->bytes);
        assert_int_equal((uintptr_t)t->data % nb_dtype_bytes(t->dtype), 0);
    }
    /* No holes, as the format wants it: the data is exactly as long as the tensors. */
    const nb_buffer *file = nb_safetensors_buffer(f);
    uint64_t header;
    memcpy(&header, nb_buffer_data(file), 8);
    assert_int_equal(nb_buffer_bytes(file), 8 + header + 27);
    nb_safetensors_close(f);
    assert_ok(nb_safetensors_write(path, tensors, 0, NULL));
    assert_ok(nb_safetensors_open(path, &f));
    assert_int_equal(nb_safetensors_n_tensors(f), 0);
    nb_safetensors_close(f);
    assert_fails(nb_safetensors_write(scratch_path(state, "no/such/w"), tensors, 4, NULL),
                 NB_E_CANTCREATE, "no/such/w");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(accepts_odd_but_harmless),
        cmocka_unit_test(refuses_hostile_headers),
        cmocka_unit_test(refuses_hostile_lengths),
        cmocka_unit_test(refuses_deep_nesting),
        cmocka_unit_test(survives_any_changed_byte),
        cmocka_unit_test_setup_teardown(names_missing_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(writes_what_it_reads, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
