/*
 * Time and amounts, as commands show them.
 */
#ifndef NB_CLI_MEASURE_H
#define NB_CLI_MEASURE_H

#include <time.h>

double nb_clock_seconds(clockid_t clock);

/* Of the clock that only goes forward, from some moment on. */
double nb_seconds(void);

/* "11.9 G", "23.8 GB" with the unit "B": three figures and a prefix, in steps of a thousand.
 * Returns `text`. */
enum { NB_AMOUNT_BYTES = 32 };
const char *nb_amount_text(double value, const char *unit, char text[NB_AMOUNT_BYTES]);

#endif
