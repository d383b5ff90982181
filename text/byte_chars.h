/*
 * GPT-2's byte alphabet: each byte has a printable character. Bytes 33-126, 161-172 and 174-255
 * stand for themselves, the other 68 in increasing order are U+0100, U+0101, ...
 * Source: Radford et al. 2019, encoder.py, bytes_to_unicode.
 */
#ifndef NB_TEXT_BYTE_CHARS_H
#define NB_TEXT_BYTE_CHARS_H

#include "text/utf8.h"

/* Appends bytes as characters. */
nb_status nb_byte_chars_encode(const char *bytes, size_t n, nb_str *out) NB_MUST_CHECK;

/* Appends the bytes that the characters stand for; if one stands for no byte, the UTF-8 of the
 * whole text as it is. */
nb_status nb_byte_chars_decode(const char *text, size_t n, nb_str *out) NB_MUST_CHECK;

#endif
