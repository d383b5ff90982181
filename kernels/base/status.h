/*
 * Status codes and the one error message.
 *
 * Every function that can meet the world's faults (a file, memory, a device, what the user
 * typed) returns an nb_status; 0 is success everywhere. Whoever detects a fault writes one
 * sentence with nb_fail() - which file, which tensor, what was wanted, what was found - and
 * everybody else only forwards the code. The sentence is kept per thread until the next
 * nb_fail() of that thread. Programming errors are asserts, not statuses.
 *
 * The codes follow sysexits(3), so the program's exit code is nb_status_exit_code(status).
 */
#ifndef NB_KERNELS_BASE_STATUS_H
#define NB_KERNELS_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NB_MUST_CHECK        __attribute__((warn_unused_result))
#define NB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define NB_MUST_CHECK
#define NB_PRINTF(fmt, args)
#endif

/* X(name, exit code, what it means) */
#define NB_STATUS_LIST(X)                                                                      \
    X(OK, 0, "success")                                                                        \
    X(E_USAGE, 64, "wrong arguments")                                                          \
    X(E_DATA, 65, "a file or a line has wrong content")                                        \
    X(E_NOINPUT, 66, "an input is missing")                                                    \
    X(E_UNAVAILABLE, 69, "a device, driver or service is not available")                       \
    X(E_BUG, 70, "a bug in nibble")                                                            \
    X(E_SYSTEM, 71, "out of memory or a system limit")                                         \
    X(E_CANTCREATE, 73, "an output cannot be created")                                         \
    X(E_IO, 74, "reading or writing failed")                                                   \
    X(E_STOPPED, 75, "stopped early")

typedef enum nb_status {
#define NB_STATUS_ENUM(name, code, text) NB_##name,
    NB_STATUS_LIST(NB_STATUS_ENUM)
#undef NB_STATUS_ENUM
} nb_status;

/* Writes the thread's error sentence (no newline, no trailing full stop needed) and returns
 * `status`, so that a detector reads `return nb_fail(NB_E_DATA, "%s: ...", path, ...)`. */
nb_status nb_fail(nb_status status, const char *format, ...) NB_PRINTF(2, 3);

/* Puts "context: " in front of the current sentence; for the rare caller that knows more. */
nb_status nb_fail_context(nb_status status, const char *format, ...) NB_PRINTF(2, 3);

/* The sentence of the last failure in this thread, "" if there was none. Owned by the thread.
 */
const char *nb_error_message(void);

const char *nb_status_name(nb_status status); /* "E_DATA" */
const char *nb_status_text(nb_status status); /* "a file or a line has wrong content" */
int nb_status_exit_code(nb_status status);

/* Forward a failure to the caller. */
#define NB_TRY(expr)                                                                           \
    do {                                                                                       \
        nb_status nb_try_status_ = (expr);                                                     \
        if (nb_try_status_ != NB_OK) return nb_try_status_;                                    \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
