#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/file.h"
#include "models/checkpoint.h"
#include "tests/unit/scratch.h"

#define ONE(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

static void assert_opens(const char *path, int64_t n_tensors, int n_files)
{
    nb_checkpoint *c;
    assert_ok(nb_checkpoint_open(path, &c));
    assert_string_equal(nb_checkpoint_path(c), path);
    assert_int_equal(nb_checkpoint_n_tensors(c), n_tensors);
    assert_int_equal(nb_checkpoint_n_files(c), n_files);
    nb_checkpoint_prefetch(c);
    nb_checkpoint_close(c);
}

static void assert_refused(const char *path, nb_status status, const char *sentence)
{
    nb_checkpoint *c = (void *)&path;
    assert_fails(nb_checkpoint_open(path, &c), status, sentence);
    assert_ptr_equal(c, &path);
}

static void finds_the_file_in_a_folder(void **state)
{
    const char *folder = *state;
    assert_refused(scratch_path(state, "none"), NB_E_NOINPUT, "/none: cannot be read");
    assert_refused(folder, NB_E_NOINPUT, "no model.safetensors");
    scratch_write_safetensors(scratch_path(state, "z.safetensors"), ONE("z"), 4);
    scratch_write_text(scratch_path(state, "z.safetensors.tmp"), "");
    assert_opens(folder, 1, 1);
    assert_opens(scratch_path(state, "z.safetensors"), 1, 1);
    scratch_write_safetensors(scratch_path(state, "y.safetensors"), ONE("y"), 4);
    assert_refused(folder, NB_E_NOINPUT, "several *.safetensors files");
    scratch_write_text(scratch_path(state, "q.safetensors.index.json"),
                       "{\"weight_map\":{\"z\":\"z.safetensors\",\"y\":\"y.safetensors\"}}");
    assert_opens(folder, 2, 2);
    scratch_write_safetensors(scratch_path(state, "model.safetensors"), "{}", 0);
    assert_opens(folder, 0, 1);
}

static void reads_shards(void **state)
{
    nb_checkpoint *c;
    scratch_write_safetensors(scratch_path(state, "1.safetensors"), ONE("b"), 4);
    scratch_write_safetensors(scratch_path(state, "2.safetensors"), ONE("a"), 4);
    scratch_write_text(scratch_path(state, "model.safetensors.index.json"),
                       "{\"metadata\":{},\"weight_map\":{\"a\":\"2.safetensors\","
                       "\"b\":\"./1.safetensors\"}}");
    assert_ok(nb_checkpoint_open(*state, &c));
    assert_int_equal(nb_checkpoint_n_tensors(c), 2);
    assert_string_equal(nb_checkpoint_tensor(c, 0)->name, "a");
    assert_string_equal(nb_checkpoint_tensor(c, 1)->name, "b");
    assert_ptr_equal(nb_checkpoint_find(c, "b"), nb_checkpoint_tensor(c, 1));
    assert_null(nb_checkpoint_find(c, "c"));
    assert_non_null(strstr(nb_checkpoint_find(c, "a")->file, "/2.safetensors"));
    assert_int_equal(nb_checkpoint_bytes(c), 2 * (8 + strlen(ONE("a")) + 4));
    nb_checkpoint_close(c);
}

static void refuses_bad_indexes(void **state)
{
    static const struct {
        const char *index, *sentence;
        nb_status status;
    } bad[] = {
        {"[]", "wanted an object, found an array", NB_E_DATA},
        {"{\"weight_map\":[]}", "weight_map is no object", NB_E_DATA},
        {"{\"weight_map\":{\"a\":5}}", "gives no file for tensor a", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"\"}}", "not inside the folder", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "shard /etc/passwd is not inside",
         NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"..\"}}", "shard .. is not inside", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "not inside", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"x/../../1.safetensors\"}}", "not inside", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"x/..\"}}", "not inside", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"3.safetensors\"}}",
         "model.safetensors.index.json wants a shard: ", NB_E_NOINPUT},
        {"{\"weight_map\":{\"a\":\"..3.safetensors\"}}", "/..3.safetensors: cannot be read",
         NB_E_NOINPUT},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"x\":\"1.safetensors\"}}",
         "tensor x should be in 1.safetensors, and is not", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}",
         "2.safetensors: tensor a is also in ", NB_E_DATA},
        {"{\"weight_map\":{\"a\":\"bad.safetensors\"}}",
         "bad.safetensors: not a safetensors file", NB_E_DATA},
    };
    scratch_write_safetensors(scratch_path(state, "1.safetensors"), ONE("a"), 4);
    scratch_write_safetensors(scratch_path(state, "2.safetensors"),
                              "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                              "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
                              8);
    scratch_write_text(scratch_path(state, "bad.safetensors"), "1234");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_write_text(scratch_path(state, "model.safetensors.index.json"), bad[i].index);
        assert_refused(*state, bad[i].status, bad[i].sentence);
    }
}

static void digest_of(void **state, const char *header, size_t data_bytes, size_t changed,
                      char digest[65])
{
    const char *path = scratch_path(state, "d.safetensors");
    nb_checkpoint *c;
    size_t bytes;
    unsigned char *file = safetensors_bytes(header, data_bytes, &bytes);
    file[bytes - data_bytes + changed] ^= 0x80;
    scratch_write(path, file, bytes);
    free(file);
    assert_ok(nb_checkpoint_open(path, &c));
    nb_checkpoint_digest(c, digest);
    assert_int_equal(strlen(digest), 64);
    nb_checkpoint_close(c);
}

#define D(name, shape)                                                                         \
    "{\"" name "\":{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":[0,20000]}}"

static void digests_tell_checkpoints_apart(void **state)
{
    char first[65], other[65];
    digest_of(state, D("a", "[20000]"), 20000, 9000, first);
    digest_of(state, D("a", "[20000]") "   ", 20000, 9000,
              other); /* where it lies is no matter */
    assert_string_equal(first, other);
    digest_of(state, D("b", "[20000]"), 20000, 9000, other);
    assert_string_not_equal(first, other);
    digest_of(state, D("a", "[2,10000]"), 20000, 9000, other);
    assert_string_not_equal(first, other);
    digest_of(state, D("a", "[20000]"), 20000, 4095, other);
    assert_string_not_equal(first, other);
    digest_of(state, D("a", "[20000]"), 20000, 20000 - 4096, other);
    assert_string_not_equal(first, other);
}

static void reads_what_the_reference_wrote(void **state)
{
    (void)state;
    assert_opens("golden/flux/models/sharded/transformer", 112, 4);
    assert_opens("golden/flux/models/dev/transformer", 112, 1);
    assert_opens("golden/flux/models/dev/text_encoder_2", 21, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(finds_the_file_in_a_folder, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(reads_shards, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(refuses_bad_indexes, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(digests_tell_checkpoints_apart, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test(reads_what_the_reference_wrote),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
