/*
 * UTF-8 and growable byte strings, as the tokenizers need them.
 *
 * nb_str: zero-initialised is the empty string; the owner calls nb_str_fini. Bytes may be
 * anything, NUL included, and there is no terminator. Growing can fail with E_SYSTEM; the
 * string is unchanged then. The decoding functions below expect valid UTF-8: nb_utf8_check
 * first.
 */
#ifndef NB_TEXT_UTF8_H
#define NB_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef struct nb_str {
    char *data;
    size_t n, capacity;
} nb_str;

void nb_str_fini(nb_str *s);
nb_status nb_str_reserve(nb_str *s, size_t more) NB_MUST_CHECK;
nb_status nb_str_append(nb_str *s, const char *data, size_t n) NB_MUST_CHECK;
nb_status nb_str_append_char(nb_str *s, uint32_t c) NB_MUST_CHECK; /* a code point, as UTF-8 */

/* Appends bytes that need not be UTF-8: each maximal ill-formed sequence becomes one U+FFFD
 * (Unicode 3.9, "substitution of maximal subparts"; what Rust's from_utf8_lossy does). */
nb_status nb_str_append_lossy(nb_str *s, const char *data, size_t n) NB_MUST_CHECK;

/* Offset of the first byte that does not begin a well-formed character; n if all is well. */
size_t nb_utf8_check(const char *s, size_t n);

/* The character at s, and its number of bytes. */
uint32_t nb_utf8_decode(const char *s, int *bytes);

/* Bytes of the character that begins with this byte; 1 for a byte that cannot begin one. */
int nb_utf8_bytes(char lead);

/* Writes 1..4 bytes, returns how many. */
int nb_utf8_encode(uint32_t c, char out[4]);

/* Property White_Space: the 25 code points that Unicode promises not to change. */
int nb_is_white_space(uint32_t c);

/* Bytes of white space at the start and at the end of s. */
size_t nb_white_space_prefix(const char *s, size_t n);
size_t nb_white_space_suffix(const char *s, size_t n);

#endif
