/*
 * What files declare of their layers (models/declared.h), and what packed matrices make of it.
 * An input is a list of tensors (tests/fuzz/listed.h).
 */
#include <string.h>
#include <unistd.h>

#include "models/canonical.h"
#include "models/declared.h"
#include "models/inspect.h"
#include "tests/fuzz/bound.h"
#include "tests/fuzz/listed.h"
#include "tests/fuzz/target.h"

/* A checkpoint whose declarations are contradicted does not open. */
static void open_all(const char *path, int is_good)
{
    nb_checkpoint *c;
    nb_inspection *inspection;
    if (refused(nb_canonical_open(path, &c), path)) return;
    must(is_good);
    read_layers(c);
    nb_checkpoint_close(c);
    must(!nb_inspect(path, &inspection));
    nb_inspection_destroy(inspection);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[LISTED_PATH_BYTES];
    nb_container *f;
    int fd = listed_file(data, size);
    listed_path(fd, path);
    if (!refused(nb_container_open(path, &f), path)) {
        int is_good = !refused(nb_declared_read(f), path);
        nb_container_close(f);
        open_all(path, is_good);
    }
    close(fd);
    return 0;
}
