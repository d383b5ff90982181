/*
 * The log sink. Libraries never print: they hand a line to the sink, and the program decides
 * what becomes of it. Without a sink lines are dropped. The sink may be called from any thread.
 */
#ifndef NB_KERNELS_BASE_LOG_H
#define NB_KERNELS_BASE_LOG_H

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nb_log_level { NB_LOG_DEBUG, NB_LOG_INFO, NB_LOG_WARN } nb_log_level;

typedef void nb_log_sink(void *arg, nb_log_level level, const char *line);

/* Sets the sink of the process; call once, before any other thread runs. */
void nb_log_set_sink(nb_log_sink *sink, void *arg);

void nb_log(nb_log_level level, const char *format, ...) NB_PRINTF(2, 3);

#ifdef __cplusplus
}
#endif
#endif
