/*
 * What the golden tests share: running the program under test with its output in files, and
 * paths. A broken set-up (no such file, no memory) prints a sentence and exits with 99, so that
 * it cannot pass for a failed or a skipped test.
 */
#ifndef TESTS_GOLDEN_RUN_H
#define TESTS_GOLDEN_RUN_H

#include <stddef.h>

enum { RUN_SKIP = 77, RUN_BROKEN = 99, RUN_MAX_ARGS = 64 };

/* Prints "golden: ..." and exits with RUN_BROKEN. */
_Noreturn void run_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The formatted text in a fresh string. */
char *run_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* argv[0] with argv (NULL-terminated); standard input and output are files, NULL: /dev/null and
 * inherited. Returns the exit status, or 128 + the signal that ended it. */
int run_program(const char *const *argv, const char *in, const char *out);

/* A whole file as a string. */
char *run_read(const char *path);

/* A new empty folder, and its removal with the files in it (no folders). */
char *run_temp_folder(void);
void run_remove_folder(const char *folder);

#endif
