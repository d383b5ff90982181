/*
 * Files of tensors for fuzzing what is built on a container, from text that survives being
 * changed: a line is a tensor,
 *
 *     NAME DTYPE SIZE SIZE ... = DATA
 *
 * where DATA, to the end of the line, is repeated until the tensor is full (without any: bytes
 * 0 and 0x3c in turn, 1.0 as F16), and a lone size * is as long as DATA. A line
 *
 *     # KEY = TEXT
 *
 * is an entry of the header's metadata. What is no such line is left out, and so is a tensor of
 * more than a megabyte. The container itself is fuzzed elsewhere.
 */
#ifndef NB_TESTS_FUZZ_LISTED_H
#define NB_TESTS_FUZZ_LISTED_H

#include <stddef.h>
#include <stdint.h>

/* A nameless file in memory with a safetensors container of those tensors; its descriptor, to
 * be closed, or -1. */
int listed_file(const uint8_t *text, size_t bytes);

enum { LISTED_PATH_BYTES = 64 };

/* Where such a file can be opened. */
void listed_path(int fd, char path[LISTED_PATH_BYTES]);

#endif
