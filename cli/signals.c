/*
 * The first SIGINT or SIGTERM asks the work to stop, which ends with E_STOPPED (75); the second
 * finds the default action again and kills, as a shell sees by 130 or 143.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "cli/common.h"

static atomic_int stop;

static void raise_stop(int signal_number)
{
    (void)signal_number;
    atomic_store(&stop, 1);
}

const atomic_int *nb_signals_catch(void)
{
    static const int caught[] = {SIGINT, SIGTERM};
    struct sigaction action = {.sa_handler = raise_stop, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < NB_COUNT(caught); i++) sigaction(caught[i], &action, NULL);
    return &stop;
}
