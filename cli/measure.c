#include "cli/measure.h"

#include <stdio.h>

double nb_clock_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double nb_seconds(void)
{
    return nb_clock_seconds(CLOCK_MONOTONIC);
}

const char *nb_amount_text(double value, const char *unit, char text[NB_AMOUNT_BYTES])
{
    static const char prefixes[] = " kMGT";
    int i = 0;
    for (; value >= 999.5 && i < 4; i++) value /= 1000;
    if (i)
        snprintf(text, NB_AMOUNT_BYTES, "%.3g %c%s", value, prefixes[i], unit);
    else
        snprintf(text, NB_AMOUNT_BYTES, "%.0f%s%s", value, *unit ? " " : "", unit);
    return text;
}
