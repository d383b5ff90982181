/*
 * A growing bump allocator. Memory is taken in chunks, given back all at once, and reused after
 * nb_arena_reset(), so a loop that repeats the same work allocates only in its first round
 * (nb_arena_stats tells). Not thread-safe: one arena belongs to one stream.
 */
#ifndef NB_KERNELS_BASE_ARENA_H
#define NB_KERNELS_BASE_ARENA_H

#include <stddef.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_arena nb_arena;

nb_status nb_arena_create(nb_arena **out) NB_MUST_CHECK;
void nb_arena_destroy(nb_arena *a);

/* Uninitialised memory, 64-byte aligned, valid until the arena goes back past this point. NULL
 * (and a sentence, E_SYSTEM) when memory is short. */
void *nb_arena_alloc(nb_arena *a, size_t bytes);

/* Everything allocated after the mark is given back to the arena by nb_arena_rewind(). */
typedef struct nb_arena_mark {
    size_t chunk, used;
} nb_arena_mark;
nb_arena_mark nb_arena_save(const nb_arena *a);
void nb_arena_rewind(nb_arena *a, nb_arena_mark mark);

/* Gives everything back to the arena; nb_arena_trim gives unused chunks back to the system. */
void nb_arena_reset(nb_arena *a);
void nb_arena_trim(nb_arena *a);

typedef struct nb_arena_stats {
    size_t chunk_allocations; /* how often the system was asked, ever */
    size_t bytes_reserved;    /* held from the system now */
    size_t bytes_peak;        /* most that was handed out at once */
} nb_arena_stats;
nb_arena_stats nb_arena_get_stats(const nb_arena *a);

#ifdef __cplusplus
}
#endif
#endif
