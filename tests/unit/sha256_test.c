/*
 * FIPS 180-4's examples, and every split of a message over updates.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/sha256.h"

static void assert_digest(nb_sha256 *h, const char *wanted)
{
    unsigned char digest[NB_SHA256_BYTES];
    char hex[65];
    nb_sha256_final(h, digest);
    nb_sha256_hex(digest, hex);
    assert_string_equal(hex, wanted);
}

static void gives_the_published_digests(void **state)
{
    (void)state;
    static const struct {
        const char *message, *digest;
    } known[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    nb_sha256 h;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        nb_sha256_init(&h);
        nb_sha256_update(&h, known[i].message, strlen(known[i].message));
        assert_digest(&h, known[i].digest);
    }
    nb_sha256_init(&h);
    for (int i = 0; i < 1000000; i++) nb_sha256_update(&h, "a", 1);
    assert_digest(&h, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void does_not_depend_on_the_split(void **state)
{
    (void)state;
    unsigned char message[200], whole[NB_SHA256_BYTES], parts[NB_SHA256_BYTES];
    for (size_t i = 0; i < sizeof message; i++) message[i] = (unsigned char)(i * 7);
    for (size_t n = 0; n <= sizeof message; n++) {
        nb_sha256 h;
        nb_sha256_init(&h);
        nb_sha256_update(&h, message, n);
        nb_sha256_final(&h, whole);
        for (size_t cut = 0; cut <= n; cut++) {
            nb_sha256_init(&h);
            nb_sha256_update(&h, message, cut);
            nb_sha256_update(&h, message + cut, n - cut);
            nb_sha256_final(&h, parts);
            assert_memory_equal(parts, whole, sizeof whole);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_published_digests),
        cmocka_unit_test(does_not_depend_on_the_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
