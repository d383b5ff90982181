/*
 * nunchaku's files: names, layers in their orders, the header's config. An input is a list of
 * tensors (tests/fuzz/listed.h); if a line "--" is in it, one for each file of the older
 * folder.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/canonical.h"
#include "models/nunchaku.h"
#include "models/shapes.h"
#include "tests/fuzz/bound.h"
#include "tests/fuzz/listed.h"
#include "tests/fuzz/target.h"

static const char *const names[2] = {"transformer_blocks.safetensors",
                                     "unquantized_layers.safetensors"};
static char folder[] = "/tmp/nibble-fuzz-XXXXXX";

static const char *link_path(int i)
{
    static char path[sizeof folder + 64];
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    return path;
}

static void remove_folder(void)
{
    for (int i = 0; i < 2; i++) unlink(link_path(i));
    rmdir(folder);
}

static void make_folder(void)
{
    static int ready;
    if (ready) return;
    must(mkdtemp(folder) != NULL);
    atexit(remove_folder);
    ready = 1;
}

static void open_all(const char *path, int is_folder)
{
    nb_checkpoint *c;
    json_t *config = NULL;
    if (refused(nb_canonical_open(path, &c), is_folder ? folder : path)) return;
    must(!nb_nunchaku_is_one(c)); /* no name of its own is left */
    read_layers(c);
    if (nb_config_from_shapes(c, NB_KIND_FLUX, &config) == NB_OK) json_decref(config);
    nb_checkpoint_close(c);
}

/* Where a line "--" begins, or NULL. */
static const uint8_t *find_mark(const uint8_t *data, size_t size)
{
    return memmem(data, size, "\n--\n", 4);
}

static void open_folder(const uint8_t *data, size_t size, const uint8_t *mark)
{
    char path[LISTED_PATH_BYTES];
    size_t first = (size_t)(mark - data), second = first + 4;
    int files[2] = {listed_file(data, first), listed_file(data + second, size - second)};
    make_folder();
    for (int i = 0; i < 2; i++) {
        listed_path(files[i], path);
        unlink(link_path(i));
        must(symlink(path, link_path(i)) == 0);
    }
    open_all(folder, 1);
    for (int i = 0; i < 2; i++) close(files[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[LISTED_PATH_BYTES];
    const uint8_t *mark = find_mark(data, size);
    if (mark) {
        open_folder(data, size, mark);
        return 0;
    }
    int fd = listed_file(data, size);
    listed_path(fd, path);
    open_all(path, 0);
    close(fd);
    return 0;
}
