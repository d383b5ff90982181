/*
 * SentencePiece's precompiled character map ("nmt_nfkc" and others): a trie of what to replace
 * and the replacements.
 *
 * Blob: u32 LE bytes of the trie, the trie as u32 LE units of a Darts-clone double array, then
 * NUL-terminated UTF-8 replacements. A unit: bit 8 leaf follows; bits 0-7 and 31 label; offset
 * = (unit >> 10) << ((unit & 0x200) >> 6); of a leaf, the low 31 bits are the offset of the
 * replacement. Source: github.com/s-yata/darts-clone, sentencepiece's builder.cc.
 *
 * The rule is that of the tokenizers library, not SentencePiece's longest match: an extended
 * grapheme cluster of fewer than 6 bytes, of which any beginning matches, is replaced as a
 * whole by the replacement of the *shortest* match; otherwise its characters are looked up
 * alone.
 */
#ifndef NB_TEXT_CHARSMAP_H
#define NB_TEXT_CHARSMAP_H

#include "text/utf8.h"

typedef struct nb_charsmap nb_charsmap;

/* Copies the blob. `path` names the file in errors. E_DATA, E_SYSTEM. */
nb_status nb_charsmap_create(const char *path, const char *blob, size_t bytes,
                             nb_charsmap **out) NB_MUST_CHECK;
/* The same from base64, as tokenizer.json has it. */
nb_status nb_charsmap_create_base64(const char *path, const char *base64,
                                    nb_charsmap **out) NB_MUST_CHECK;
void nb_charsmap_destroy(nb_charsmap *map);

nb_status nb_charsmap_apply(const nb_charsmap *map, const char *text, size_t n,
                            nb_str *out) NB_MUST_CHECK;

#endif
