/*
 * What is built on the readers of safetensors and GGUF, over one file: checkpoint, canonical
 * names, inspection, configs off shapes. Every tensor of the renamed checkpoint can be read
 * from end to end, and what can be bound as a layer is read as one.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "models/canonical.h"
#include "models/shapes.h"
#include "tests/fuzz/bound.h"
#include "tests/fuzz/target.h"

static void read_all(const nb_checkpoint *c)
{
    static unsigned char sum;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        const unsigned char *data = t->data;
        for (size_t at = 0; at < t->bytes; at++) sum = (unsigned char)(sum + data[at]);
        int64_t n = nb_stored_count(t) / nb_dtype_elements(t->dtype);
        if (n * (int64_t)nb_dtype_bytes(t->dtype) != (int64_t)t->bytes) abort();
        if (nb_checkpoint_find(c, t->name) != t) abort();
    }
}

static void open_all(const char *path)
{
    nb_checkpoint *c;
    nb_inspection *inspection;
    json_t *config;
    if (nb_canonical_open(path, &c)) return;
    read_all(c);
    read_layers(c);
    nb_checkpoint_close(c);
    for (int kind = NB_KIND_FLUX; kind <= NB_KIND_VAE; kind++) {
        if (nb_canonical_open_part(path, (nb_component_kind)kind, &c)) continue;
        if (nb_config_from_shapes(c, (nb_component_kind)kind, &config) == NB_OK)
            json_decref(config);
        nb_checkpoint_close(c);
    }
    if (nb_inspect(path, &inspection)) abort(); /* what opens can be told about */
    nb_inspection_destroy(inspection);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("input", MFD_CLOEXEC);
    if (fd < 0) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (write(fd, data, size) == (ssize_t)size) open_all(path);
    close(fd);
    return 0;
}
