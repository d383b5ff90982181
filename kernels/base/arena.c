#include "kernels/base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, MAX_CHUNKS = 256 };
static const size_t MIN_CHUNK = 4u << 20;
static const size_t HUGE_PAGE = 2u << 20;

struct chunk {
    unsigned char *data;
    size_t bytes;
};

/* Chunks before `current` are full or skipped, those after it are empty. */
struct nb_arena {
    struct chunk chunks[MAX_CHUNKS];
    size_t n_chunks, current, used; /* `used` counts in chunks[current] */
    size_t in_use_before;           /* bytes handed out in the chunks before `current` */
    size_t used_of[MAX_CHUNKS];     /* their fill, to go back to */
    struct nb_arena_stats stats;
};

nb_status nb_arena_create(nb_arena **out)
{
    nb_arena *a = calloc(1, sizeof *a);
    if (!a) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *a);
    *out = a;
    return NB_OK;
}

static void release_chunk(nb_arena *a, size_t i)
{
    munmap(a->chunks[i].data, a->chunks[i].bytes);
    a->stats.bytes_reserved -= a->chunks[i].bytes;
}

void nb_arena_destroy(nb_arena *a)
{
    if (!a) return;
    for (size_t i = 0; i < a->n_chunks; i++) release_chunk(a, i);
    free(a);
}

static int add_chunk(nb_arena *a, size_t bytes)
{
    if (a->n_chunks == MAX_CHUNKS) return 0;
    size_t size = bytes > MIN_CHUNK ? bytes : MIN_CHUNK;
    size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return 0;
    madvise(data, size, MADV_HUGEPAGE); /* fewer TLB misses; where refused, nothing is lost */
    a->chunks[a->n_chunks++] = (struct chunk){data, size};
    a->stats.chunk_allocations++;
    a->stats.bytes_reserved += size;
    return 1;
}

/* Moves on to the next chunk with room for `bytes`, making one at the end if there is none. */
static int advance(nb_arena *a, size_t bytes)
{
    while (a->current < a->n_chunks && a->chunks[a->current].bytes - a->used < bytes) {
        a->used_of[a->current] = a->used;
        a->in_use_before += a->used;
        a->current++;
        a->used = 0;
    }
    return a->current < a->n_chunks || add_chunk(a, bytes);
}

void *nb_arena_alloc(nb_arena *a, size_t bytes)
{
    size_t rounded = bytes ? bytes : 1;
    if (rounded > SIZE_MAX - HUGE_PAGE - ALIGNMENT) rounded = 0;
    rounded = (rounded + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    nb_arena_mark mark = nb_arena_save(a);
    if (!rounded || !advance(a, rounded)) {
        nb_arena_rewind(a, mark);
        (void)!nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", bytes);
        return NULL;
    }
    void *data = a->chunks[a->current].data + a->used;
    a->used += rounded;
    if (a->in_use_before + a->used > a->stats.bytes_peak)
        a->stats.bytes_peak = a->in_use_before + a->used;
    return data;
}

nb_arena_mark nb_arena_save(const nb_arena *a)
{
    return (nb_arena_mark){a->current, a->used};
}

void nb_arena_rewind(nb_arena *a, nb_arena_mark mark)
{
    while (a->current > mark.chunk) a->in_use_before -= a->used_of[--a->current];
    a->used = mark.used;
}

void nb_arena_reset(nb_arena *a)
{
    nb_arena_rewind(a, (nb_arena_mark){0, 0});
}

void nb_arena_trim(nb_arena *a)
{
    size_t keep = a->used || a->current ? a->current + 1 : 0;
    while (a->n_chunks > keep) release_chunk(a, --a->n_chunks);
}

nb_arena_stats nb_arena_get_stats(const nb_arena *a)
{
    return a->stats;
}
