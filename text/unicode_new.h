/*
 * Characters that are newer than somebody's tables, so that ids are those of the tokenizers
 * library (0.23) and do not depend on which PCRE2 and utf8proc are installed.
 *
 * The library classifies by Oniguruma with Unicode 16 and lowers by Rust with Unicode 17;
 * PCRE2 10.42 has Unicode 14, utf8proc 2.8 has 15. Its normal forms are those of Unicode 9:
 * marks and decompositions assigned later do not exist for it. The tables hold these
 * differences (UnicodeData.txt of the versions). A PCRE2 with more than Unicode 16 calls a
 * letter what the library does not yet.
 */
#ifndef NB_TEXT_UNICODE_NEW_H
#define NB_TEXT_UNICODE_NEW_H

#include <stdint.h>

/* Ranges of a general category - 'L', 'N', 'M', 'P' or 'S' - as the inside of a PCRE2 character
 * class; "" for any other. */
const char *nb_unicode_new_class(char category);

/* Lower case of a character that has one; U+0130, whose lower case is two characters, is the
 * caller's. */
uint32_t nb_unicode_lower(uint32_t c);

/* Is it a mark or a decomposable character that the library's normal forms leave alone? */
int nb_unicode_is_inert(uint32_t c);

#endif
