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

/* A module that was announced, made alone, is what it is among all others. */
static void make_module(const nb_checkpoint *files, const nb_stored *announced,
                        const nb_checkpoint *all)
{
    nb_checkpoint *made;
    char module[256] = {0};
    if (!nb_name_ends_with(announced->name, ".weight")) return;
    memcpy(module, announced->name, strlen(announced->name) - strlen(".weight"));
    must(!nb_nunchaku_make(files, module, &made));
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(made); i++) {
        const nb_stored *t = nb_checkpoint_tensor(made, i);
        const nb_stored *same = nb_checkpoint_find(all, t->name);
        must(same && same->dtype == t->dtype && same->bytes == t->bytes);
        must(memcmp(same->data, t->data, t->bytes) == 0);
    }
    nb_checkpoint_close(made);
}

static void make_all(const char *path, const nb_checkpoint *all)
{
    nb_checkpoint *files, *outline;
    must(!nb_checkpoint_open(path, &files));
    if (nb_nunchaku_is_one(files)) {
        must(!nb_nunchaku_outline(files, &outline));
        for (int64_t i = 0; i < nb_checkpoint_n_tensors(outline); i++)
            if (!nb_checkpoint_tensor(outline, i)->data)
                make_module(files, nb_checkpoint_tensor(outline, i), all);
        nb_checkpoint_close(outline);
    }
    nb_checkpoint_close(files);
}

static void open_all(const char *path, int is_folder)
{
    nb_checkpoint *c;
    json_t *config = NULL;
    if (refused(nb_canonical_open(path, &c), is_folder ? folder : path)) return;
    must(!nb_nunchaku_is_one(c)); /* no name of its own is left */
    make_all(is_folder ? folder : path, c);
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
