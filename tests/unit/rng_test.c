/*
 * Engines against published numbers: MT19937's 10000th draw (the C++ standard), its first draws
 * as torch makes them, and Philox4x32-10's known answers (Salmon et al., Random123
 * kat_vectors).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/rng.h"

static void mt19937_draws_the_published_numbers(void **state)
{
    (void)state;
    static const uint32_t first[] = {2357136044u, 2546248239u, 3071714933u, 3626093760u};
    nb_mt19937 g;
    nb_mt19937_init(&g, 0);
    for (int i = 0; i < 4; i++) assert_int_equal(nb_mt19937_next(&g), first[i]);
    nb_mt19937_init(&g, 5489);
    assert_int_equal(nb_mt19937_next(&g), 3499211612u);
    for (int i = 2; i < 10000; i++) (void)nb_mt19937_next(&g);
    assert_int_equal(nb_mt19937_next(&g), 4123659995u);
}

static void philox_gives_the_published_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        nb_philox4x32(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mt19937_draws_the_published_numbers),
        cmocka_unit_test(philox_gives_the_published_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
