/*
 * Refcounted storage with a release callback: heap memory, a file mapping, later device memory.
 * Counting is atomic: buffers may be shared by threads.
 */
#ifndef NB_KERNELS_BASE_BUFFER_H
#define NB_KERNELS_BASE_BUFFER_H

#include <stddef.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_buffer nb_buffer;

/* Zeroed heap storage, 64-byte aligned. E_SYSTEM when memory is short; *out untouched then. */
nb_status nb_buffer_create(size_t bytes, nb_buffer **out) NB_MUST_CHECK;

/* Takes storage that `release(data, bytes, arg)` gives back when the last reference goes. On
 * failure the storage stays the caller's. */
typedef void nb_buffer_release(void *data, size_t bytes, void *arg);
nb_status nb_buffer_take(void *data, size_t bytes, nb_buffer_release *release, void *arg,
                         nb_buffer **out) NB_MUST_CHECK;

nb_buffer *nb_buffer_ref(nb_buffer *b); /* returns b; NULL is fine */
void nb_buffer_unref(nb_buffer *b);     /* NULL is fine */

void *nb_buffer_data(const nb_buffer *b);
size_t nb_buffer_bytes(const nb_buffer *b);

#ifdef __cplusplus
}
#endif
#endif
