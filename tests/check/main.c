/* nb_check [--bench] [--threads N] [OP]: tests or times the variants of all operations, or one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check/check.h"

static void print_line(void *arg, const char *line)
{
    (void)arg;
    puts(line);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    nb_check_options options = {.print = print_line};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            options.bench = 1;
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            options.threads = (int)strtol(argv[++i], NULL, 10);
        else
            options.op = argv[i];
    }
    int n_failed = nb_check_run(&options);
    if (n_failed < 0) fprintf(stderr, "nb_check: there is no operation %s\n", options.op);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
