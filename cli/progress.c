#include "cli/progress.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/measure.h"

enum { BAR_COLUMNS = 24 };

/* Plain lines are read in log files: one a second is plenty. */
static const double line_every = 1.0;

/* Where a stage stands. */
struct state {
    nb_stage stage;
    int picture, step, of;
    double seconds, per_step, left; /* left: of the stage, over all pictures to come */
};

static const char *duration(double seconds, char text[32])
{
    long s = (long)(seconds + 0.5);
    if (s < 3600)
        snprintf(text, 32, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    return text;
}

/* "denoise 3/28, 1.25 s/it, ETA 0:31", with the picture's number if there are several. */
static void describe(const nb_progress *p, const struct state *s, char *text, size_t bytes)
{
    char eta[32], picture[48] = "";
    if (p->n_pictures > 1 && s->stage >= NB_STAGE_DENOISE)
        snprintf(picture, sizeof picture, "picture %d/%d, ", s->picture + 1, p->n_pictures);
    if (s->step == 0)
        snprintf(text, bytes, "%s%s 0/%d", picture, nb_stage_name(s->stage), s->of);
    else
        snprintf(text, bytes, "%s%s %d/%d, %.3g s/it, ETA %s", picture, nb_stage_name(s->stage),
                 s->step, s->of, s->per_step, duration(s->left, eta));
}

static void draw_bar(const nb_progress *p, const struct state *s)
{
    char text[160], bar[BAR_COLUMNS + 1], line[256];
    int full = s->of ? BAR_COLUMNS * s->step / s->of : 0;
    memset(bar, '.', BAR_COLUMNS);
    memset(bar, '#', (size_t)full);
    bar[BAR_COLUMNS] = 0;
    describe(p, s, text, sizeof text);
    snprintf(line, sizeof line, "[%s] %s", bar, text);
    nb_console_bar(p->console, line);
}

static json_t *state_json(const struct state *s)
{
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:f}", "event", "progress", "stage",
                     nb_stage_name(s->stage), "picture", s->picture, "step", s->step, "of",
                     s->of, "seconds", s->seconds, "left", s->left);
}

static void write_json(int fd, const struct state *s)
{
    json_t *object = state_json(s);
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(object);
    /* A reader that went away does not end the work. */
    if (line && dprintf(fd, "%s\n", line) < 0) clearerr(stderr);
    free(line);
}

/* One line for each stage that takes long enough, and for its end. */
static void write_plain(nb_progress *p, const struct state *s)
{
    char text[160];
    double t = nb_seconds();
    if (s->stage != NB_STAGE_DENOISE && s->stage != NB_STAGE_DECODE) return;
    if (s->step == 0 || (s->step < s->of && t - p->line_at < line_every)) return;
    if (s->stage == NB_STAGE_DECODE && s->of == 1) return;
    p->line_at = t;
    describe(p, s, text, sizeof text);
    nb_console_say(p->console, NB_LOG_INFO, "%s", text);
}

void nb_progress_step(nb_progress *p, nb_stage stage, int picture, int step, int of,
                      double seconds)
{
    struct state s = {
        .stage = stage, .picture = picture, .step = step, .of = of, .seconds = seconds};
    if (step) s.per_step = seconds / step;
    int more = stage == NB_STAGE_DENOISE ? (p->n_pictures - picture - 1) * of : 0;
    s.left = s.per_step * (of - step + more);
    if (p->fd >= 0) write_json(p->fd, &s);
    if (p->console->quiet) return;
    if (p->console->terminal)
        draw_bar(p, &s);
    else if (p->json || p->console->json)
        write_json(STDERR_FILENO, &s);
    else
        write_plain(p, &s);
}
