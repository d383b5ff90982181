#include "kernels/base/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048 };

static _Thread_local char message[MESSAGE_BYTES];

static const struct {
    const char *name, *text;
    int code;
} statuses[] = {
#define ROW(name_, code_, text_) {#name_, text_, code_},
    NB_STATUS_LIST(ROW)
#undef ROW
};

/* Names come out of files: none may end the line or steer the terminal. */
static void blank_controls(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

nb_status nb_fail(nb_status status, const char *format, ...)
{
    /* Formatted aside first: an argument may be the current message itself. */
    char fresh[MESSAGE_BYTES];
    va_list args;
    assert(status != NB_OK);
    va_start(args, format);
    vsnprintf(fresh, sizeof fresh, format, args);
    va_end(args);
    blank_controls(fresh);
    memcpy(message, fresh, sizeof message);
    return status;
}

nb_status nb_fail_context(nb_status status, const char *format, ...)
{
    char context[MESSAGE_BYTES / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    return nb_fail(status, "%s: %s", context, message);
}

const char *nb_error_message(void)
{
    return message;
}

const char *nb_status_name(nb_status status)
{
    return statuses[status].name;
}

const char *nb_status_text(nb_status status)
{
    return statuses[status].text;
}

int nb_status_exit_code(nb_status status)
{
    return statuses[status].code;
}
