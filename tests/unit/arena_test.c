#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/arena.h"

static nb_arena *arena;

static int setup(void **state)
{
    (void)state;
    return nb_arena_create(&arena);
}

static int teardown(void **state)
{
    (void)state;
    nb_arena_destroy(arena);
    return 0;
}

static void hands_out_separate_aligned_memory(void **state)
{
    (void)state;
    enum { N = 200 };
    unsigned char *blocks[N];
    for (size_t i = 0; i < N; i++) {
        blocks[i] = nb_arena_alloc(arena, i * 701);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        memset(blocks[i], (int)i, i * 701);
    }
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < i * 701; j += 97) assert_int_equal(blocks[i][j], i);
}

/* The second round of the same work asks the system for nothing. */
static void reuses_what_it_has(void **state)
{
    (void)state;
    void *first[8], *again[8];
    nb_arena_stats after_one = {0};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 8; i++)
            (round ? again : first)[i] = nb_arena_alloc(arena, (i + 1) << 20);
        if (round) assert_memory_equal(first, again, sizeof first);
        if (!round) after_one = nb_arena_get_stats(arena);
        nb_arena_reset(arena);
    }
    nb_arena_stats stats = nb_arena_get_stats(arena);
    assert_int_equal(stats.chunk_allocations, after_one.chunk_allocations);
    assert_int_equal(stats.bytes_reserved, after_one.bytes_reserved);
    assert_int_equal(stats.bytes_peak, 36u << 20);
    nb_arena_trim(arena);
    assert_int_equal(nb_arena_get_stats(arena).bytes_reserved, 0);
    assert_non_null(nb_arena_alloc(arena, 1));
}

static void rewinds_over_chunks(void **state)
{
    (void)state;
    char *kept = nb_arena_alloc(arena, 100);
    memset(kept, 7, 100);
    nb_arena_mark mark = nb_arena_save(arena);
    void *next = nb_arena_alloc(arena, 100);
    for (int i = 0; i < 5; i++) assert_non_null(nb_arena_alloc(arena, 6u << 20));
    nb_arena_rewind(arena, mark);
    assert_ptr_equal(nb_arena_alloc(arena, 100), next);
    for (int i = 0; i < 100; i++) assert_int_equal(kept[i], 7);
    nb_arena_trim(arena);
    for (int i = 0; i < 100; i++) assert_int_equal(kept[i], 7);
}

static void says_no_to_too_much(void **state)
{
    (void)state;
    void *before = nb_arena_alloc(arena, 64);
    assert_null(nb_arena_alloc(arena, SIZE_MAX));
    assert_null(nb_arena_alloc(arena, SIZE_MAX - 4096));
    assert_null(nb_arena_alloc(arena, SIZE_MAX / 2));
    assert_non_null(strstr(nb_error_message(), "out of memory"));
    assert_ptr_equal(nb_arena_alloc(arena, 64), (char *)before + 64);
    nb_arena_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hands_out_separate_aligned_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(reuses_what_it_has, setup, teardown),
        cmocka_unit_test_setup_teardown(rewinds_over_chunks, setup, teardown),
        cmocka_unit_test_setup_teardown(says_no_to_too_much, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
