#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/locate.h"
#include "tests/unit/scratch.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

/* The environment of a test: one variable. */
static const char *variable, *value;

static const char *one_variable(const char *name)
{
    return variable && strcmp(name, variable) == 0 ? value : NULL;
}

static void assert_found(const char *name, const char *wanted)
{
    char *path;
    assert_ok(nb_model_locate(name, one_variable, &path));
    assert_string_equal(path, wanted);
    free(path);
}

static void assert_not_found(const char *name, nb_status status, const char *sentence)
{
    char *path = NULL;
    assert_fails(nb_model_locate(name, one_variable, &path), status, sentence);
    assert_null(path);
}

static void make_folders(void **state, const char *below)
{
    char command[1024];
    snprintf(command, sizeof command, "mkdir -p '%s/%s'", (char *)*state, below);
    assert_int_equal(system(command), 0);
}

static void set(const char *name, const char *content)
{
    variable = name;
    value = content;
}

static void takes_paths_as_they_are(void **state)
{
    set(NULL, NULL);
    assert_found(*state, *state);
    assert_found("/", "/");
    assert_not_found("none", NB_E_NOINPUT, "none: no such file or folder");
    assert_not_found("black-forest-labs/FLUX.1-dev", NB_E_NOINPUT, "no Hugging Face cache");
}

static void looks_in_the_cache(void **state)
{
    make_folders(state, "hub/models--org--na.me/refs");
    make_folders(state, "hub/models--org--na.me/snapshots/" COMMIT);
    const char *hub = scratch_path(state, "hub");
    const char *ref = scratch_path(state, "hub/models--org--na.me/refs/main");
    const char *snapshot = scratch_path(state, "hub/models--org--na.me/snapshots/" COMMIT);
    set("HF_HUB_CACHE", hub);
    assert_not_found("org/na.me", NB_E_NOINPUT, ref);
    scratch_write_text(ref, COMMIT);
    assert_found("org/na.me", snapshot);
    assert_found("org/na.me@main", snapshot);
    assert_found("org/na.me@" COMMIT, snapshot);
    set("HF_HOME", *state);
    assert_found("org/na.me", snapshot);
    assert_not_found("org/na.me@v2", NB_E_NOINPUT, "refs/v2");
    assert_not_found("org/other", NB_E_NOINPUT, "models--org--other/refs/main");
    set("HF_HOME", "");
    assert_not_found("org/na.me", NB_E_NOINPUT, "no Hugging Face cache");
    make_folders(state, "huggingface");
    make_folders(state, ".cache/huggingface");
    assert_int_equal(symlink("../hub", scratch_path(state, "huggingface/hub")), 0);
    set("XDG_CACHE_HOME", *state);
    assert_found("org/na.me",
                 scratch_path(state, "huggingface/hub/models--org--na.me/snapshots/" COMMIT));
    assert_int_equal(symlink("../../hub", scratch_path(state, ".cache/huggingface/hub")), 0);
    set("HOME", *state);
    assert_found("org/na.me", scratch_path(state, ".cache/huggingface/hub/models--org--na.me/"
                                                  "snapshots/" COMMIT));
}

static void stays_in_the_cache(void **state)
{
    static const char *const names[] = {
        "org/..", "../no/such", "org/name/x", "/org/name",     "org/na me",
        "org/",   "/x",         "org/.name",  "org/x@../main", "org/x@a/b",
        "org/x@", "o@rg/x",     "",           "org/x@.",       "@a/b"};
    set("HF_HUB_CACHE", *state);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_not_found(names[i], NB_E_NOINPUT, ": no such file or folder");
        assert_null(strstr(nb_error_message(), "cache")); /* it was not looked for there */
    }
}

static void refuses_broken_references(void **state)
{
    make_folders(state, "models--a--b/refs");
    const char *ref = scratch_path(state, "models--a--b/refs/main");
    set("HF_HUB_CACHE", *state);
    scratch_write_text(ref, "../../../../../../etc/../etc/../etc/../etc");
    assert_not_found("a/b", NB_E_DATA, "refs/main: holds no commit");
    scratch_write_text(ref, "");
    assert_not_found("a/b", NB_E_DATA, "holds no commit");
    scratch_write_text(ref, COMMIT);
    assert_not_found("a/b", NB_E_NOINPUT, "snapshots/" COMMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_paths_as_they_are, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(looks_in_the_cache, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(stays_in_the_cache, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(refuses_broken_references, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
