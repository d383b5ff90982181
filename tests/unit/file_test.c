#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/file.h"
#include "tests/unit/scratch.h"

static void maps_files(void **state)
{
    nb_buffer *b;
    const char *path = scratch_path(state, "f");
    scratch_write_text(path, "hello");
    assert_ok(nb_file_map(path, &b));
    assert_int_equal(nb_buffer_bytes(b), 5);
    assert_memory_equal(nb_buffer_data(b), "hello", 5);
    assert_int_equal(unlink(path), 0); /* a mapping outlives its name */
    assert_memory_equal(nb_buffer_data(b), "hello", 5);
    assert_ptr_equal(nb_buffer_ref(b), b);
    nb_buffer_unref(b);
    assert_memory_equal(nb_buffer_data(b), "hello", 5);
    nb_buffer_unref(b);
    scratch_write_text(path, "");
    assert_ok(nb_file_map(path, &b));
    assert_int_equal(nb_buffer_bytes(b), 0);
    nb_buffer_unref(b);
}

static void refuses_what_is_no_file(void **state)
{
    nb_buffer *b;
    assert_fails(nb_file_map(scratch_path(state, "none"), &b), NB_E_NOINPUT,
                 "/none: cannot be read: No such file");
    assert_fails(nb_file_map(*state, &b), NB_E_DATA, "not a regular file");
    assert_int_equal(mkfifo(scratch_path(state, "fifo"), 0600), 0);
    alarm(5); /* waiting for a writer would be for ever */
    assert_fails(nb_file_map(scratch_path(state, "fifo"), &b), NB_E_DATA, "not a regular file");
    alarm(0);
}

static void shows_only_finished_files(void **state)
{
    nb_file_writer *w;
    nb_buffer *b;
    const char *path = scratch_path(state, "out");
    scratch_write_text(path, "old");
    assert_ok(nb_file_writer_open(path, &w));
    assert_ok(nb_file_writer_write(w, "new", 3));
    assert_ok(nb_file_map(path, &b));
    assert_memory_equal(nb_buffer_data(b), "old", 3);
    nb_buffer_unref(b);
    nb_file_writer_abort(w);
    assert_ok(nb_file_map(path, &b));
    assert_memory_equal(nb_buffer_data(b), "old", 3);
    nb_buffer_unref(b);

    assert_ok(nb_file_writer_open(path, &w));
    assert_ok(nb_file_writer_write(w, "ne", 2));
    assert_ok(nb_file_writer_write(w, "wer", 3));
    assert_ok(nb_file_writer_commit(w));
    assert_ok(nb_file_map(path, &b));
    assert_int_equal(nb_buffer_bytes(b), 5);
    assert_memory_equal(nb_buffer_data(b), "newer", 5);
    nb_buffer_unref(b);
    /* Nothing is left beside it. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(*state), 0);
    assert_int_equal(mkdir(*state, 0700), 0);
    nb_file_writer_abort(NULL);
}

static void says_what_cannot_be_created(void **state)
{
    nb_file_writer *w;
    assert_fails(nb_file_writer_open(scratch_path(state, "no/out"), &w), NB_E_CANTCREATE,
                 "no/out: cannot be created");
    assert_fails(nb_file_writer_open(*state, &w), NB_E_CANTCREATE, "cannot be created");
}

static void leaves_nothing_when_it_fails(void **state)
{
    nb_file_writer *w;
    const char *path = scratch_path(state, "out");
    assert_ok(nb_file_writer_open(path, &w));
    assert_ok(nb_file_writer_write(w, "new", 3));
    assert_int_equal(mkdir(path, 0700), 0); /* in the way of the rename */
    assert_fails(nb_file_writer_commit(w), NB_E_CANTCREATE, "out: cannot be created");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(*state), 0);
    assert_int_equal(mkdir(*state, 0700), 0);
}

static void joins_paths(void **state)
{
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {".", "b/c", "./b/c"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = nb_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
    assert_true(nb_file_is_directory("/"));
    assert_true(nb_file_exists("/"));
    assert_false(nb_file_exists("/no/such/thing"));
    assert_false(nb_file_is_directory("/no/such/thing"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(maps_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(refuses_what_is_no_file, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(shows_only_finished_files, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(says_what_cannot_be_created, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(leaves_nothing_when_it_fails, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test(joins_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
