/*
 * A fuzz target: one function of bytes, libFuzzer's way. Built with NB_FUZZ (clang) it is a
 * fuzzer, else a program that replays tests/fuzz/corpus/NAME.
 */
#ifndef NB_TESTS_FUZZ_TARGET_H
#define NB_TESTS_FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>

/* Always 0. A fault is a crash, an abort or a sanitizer's report. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
