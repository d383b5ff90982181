/*
 * 4-bit and FP8 matrices in a safetensors file: their forms, the notes that say which they are,
 * and every value of what is bound. A matrix is refused with a sentence, or both ways of
 * reading it, to compute with and to convert, go through it from end to end.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/base/device.h"
#include "models/bind.h"
#include "models/canonical.h"
#include "models/quant_source.h"
#include "tests/fuzz/target.h"

static nb_stream *stream;

static void must(int condition)
{
    if (!condition) abort();
}

static void read_all(const nb_weight *w)
{
    float row[64];
    for (int64_t i = 0; i < w->n; i++)
        for (int64_t k = 0; k < w->k; k += 64) {
            int64_t count = w->k - k < 64 ? w->k - k : 64;
            nb_weight_decode_ref(w, i, k, count, row);
        }
}

static void bind(const nb_checkpoint *c, const nb_stored *t, int64_t n, int64_t k)
{
    nb_binder b = {.checkpoint = c, .device = stream->device, .arena = stream->arena};
    nb_weight w = nb_bind_weight(&b, n, k, "%s", t->name);
    must(b.status || (w.n == n && w.k == k));
    if (!b.status) read_all(&w);
}

static void convert(const nb_checkpoint *c, const nb_stored *t)
{
    nb_quant_source source;
    nb_weight w;
    const float *bias;
    if (nb_quant_source_find(c, t, &source)) return;
    if (nb_quant_source_weight(stream, c, &source, &w, &bias)) return;
    must(w.n == source.n && w.k == source.k);
    read_all(&w);
}

static void read_matrices(const nb_checkpoint *c)
{
    char module[NB_MODULE_BYTES];
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        if (!nb_quant_module_of(t, module)) continue;
        nb_arena_mark mark = nb_arena_save(stream->arena);
        int64_t k = t->dtype == NB_DTYPE_U8 ? 2 * t->shape[1] : t->shape[1];
        bind(c, t, t->shape[0], k);
        if (t->shape[0] > 1) bind(c, t, t->shape[0] - 1, k);
        convert(c, t);
        nb_arena_rewind(stream->arena, mark);
    }
}

static void open_stream(void)
{
    nb_device *device;
    must(!nb_device_open("cpu", &device));
    must(!nb_stream_create(device, NB_COMPUTE_F32, 1, NULL, &stream));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    nb_checkpoint *c;
    int fd = memfd_create("input", MFD_CLOEXEC);
    if (fd < 0) return 0;
    if (!stream) open_stream();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (write(fd, data, size) == (ssize_t)size && !nb_canonical_open(path, &c)) {
        read_matrices(c);
        nb_checkpoint_close(c);
    }
    close(fd);
    return 0;
}
