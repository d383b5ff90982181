#include "text/token_ids.h"

#include <stdlib.h>
#include <string.h>

static nb_status reserve(nb_token_ids *ids, int64_t more)
{
    if (more <= ids->capacity - ids->n) return NB_OK;
    int64_t capacity = 2 * ids->capacity + more + 32;
    int32_t *bigger = realloc(ids->ids, (size_t)capacity * sizeof *bigger);
    if (!bigger)
        return nb_fail(NB_E_SYSTEM, "out of memory for %lld token ids", (long long)capacity);
    ids->ids = bigger;
    ids->capacity = capacity;
    return NB_OK;
}

void nb_token_ids_fini(nb_token_ids *ids)
{
    free(ids->ids);
    *ids = (nb_token_ids){0};
}

nb_status nb_token_ids_push(nb_token_ids *ids, int32_t id)
{
    NB_TRY(reserve(ids, 1));
    ids->ids[ids->n++] = id;
    return NB_OK;
}

nb_status nb_token_ids_shift(nb_token_ids *ids, int64_t more)
{
    if (more == 0) return NB_OK;
    NB_TRY(reserve(ids, more));
    memmove(ids->ids + more, ids->ids, (size_t)ids->n * sizeof *ids->ids);
    ids->n += more;
    return NB_OK;
}
