#include "kernels/base/buffer.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

struct nb_buffer {
    void *data;
    size_t bytes;
    nb_buffer_release *release;
    void *arg;
    atomic_size_t references;
};

static void release_heap(void *data, size_t bytes, void *arg)
{
    (void)bytes;
    (void)arg;
    free(data);
}

nb_status nb_buffer_create(size_t bytes, nb_buffer **out)
{
    if (bytes > SIZE_MAX - ALIGNMENT)
        return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", bytes);
    size_t rounded = (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    void *data = aligned_alloc(ALIGNMENT, rounded);
    if (!data) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", bytes);
    memset(data, 0, rounded);
    nb_status status = nb_buffer_take(data, bytes, release_heap, NULL, out);
    if (status) free(data);
    return status;
}

nb_status nb_buffer_take(void *data, size_t bytes, nb_buffer_release *release, void *arg,
                         nb_buffer **out)
{
    nb_buffer *b = malloc(sizeof *b);
    if (!b) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *b);
    b->data = data;
    b->bytes = bytes;
    b->release = release;
    b->arg = arg;
    atomic_init(&b->references, 1);
    *out = b;
    return NB_OK;
}

nb_buffer *nb_buffer_ref(nb_buffer *b)
{
    if (b) atomic_fetch_add_explicit(&b->references, 1, memory_order_relaxed);
    return b;
}

void nb_buffer_unref(nb_buffer *b)
{
    if (!b || atomic_fetch_sub_explicit(&b->references, 1, memory_order_acq_rel) != 1) return;
    if (b->release) b->release(b->data, b->bytes, b->arg);
    free(b);
}

void *nb_buffer_data(const nb_buffer *b)
{
    return b->data;
}

size_t nb_buffer_bytes(const nb_buffer *b)
{
    return b->bytes;
}
