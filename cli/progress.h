/*
 * Progress of a picture: a bar on a terminal, plain lines elsewhere, JSON lines to a descriptor
 * that another program reads.
 */
#ifndef NB_CLI_PROGRESS_H
#define NB_CLI_PROGRESS_H

#include "cli/console.h"
#include "pipeline/txt2img.h"

typedef struct nb_progress {
    nb_console *console;
    int fd;         /* JSON lines go there too; -1: nowhere */
    int json;       /* lines on stderr are JSON (a terminal keeps its bar) */
    int n_pictures; /* of the run */
    double line_at; /* when the last plain line was written, in seconds */
} nb_progress;

/* What nb_txt2img_callbacks.progress is told. */
void nb_progress_step(nb_progress *p, nb_stage stage, int picture, int step, int of,
                      double seconds);

#endif
