#include "kernels/base/log.h"

#include <stdarg.h>
#include <stdio.h>

static nb_log_sink *current_sink;
static void *sink_arg;

void nb_log_set_sink(nb_log_sink *sink, void *arg)
{
    current_sink = sink;
    sink_arg = arg;
}

void nb_log(nb_log_level level, const char *format, ...)
{
    char line[1024];
    va_list args;
    if (!current_sink) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    current_sink(sink_arg, level, line);
}
