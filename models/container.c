#include "models/container.h"

#include <assert.h>
#include <stdlib.h>

#include "kernels/base/file.h"
#include "models/gguf.h"

/* One of the two. */
struct nb_container {
    nb_safetensors *safetensors;
    nb_gguf *gguf;
};

static nb_status open_mapped(const char *path, nb_buffer *buffer, nb_container *f)
{
    int is_gguf = nb_gguf_is_one(nb_buffer_data(buffer), nb_buffer_bytes(buffer));
    if (is_gguf || nb_name_ends_with(path, ".gguf"))
        return nb_gguf_open_buffer(path, buffer, &f->gguf);
    return nb_safetensors_open_buffer(path, buffer, &f->safetensors);
}

nb_status nb_container_open(const char *path, nb_container **out)
{
    nb_buffer *buffer;
    NB_TRY(nb_file_map(path, &buffer));
    nb_container *f = calloc(1, sizeof *f);
    nb_status status =
        f ? open_mapped(path, buffer, f) : nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    nb_buffer_unref(buffer);
    if (status)
        free(f);
    else
        *out = f;
    return status;
}

void nb_container_close(nb_container *f)
{
    if (!f) return;
    nb_safetensors_close(f->safetensors);
    nb_gguf_close(f->gguf);
    free(f);
}

int64_t nb_container_n_tensors(const nb_container *f)
{
    return f->gguf ? nb_gguf_n_tensors(f->gguf) : nb_safetensors_n_tensors(f->safetensors);
}

const nb_stored *nb_container_tensor(const nb_container *f, int64_t index)
{
    return f->gguf ? nb_gguf_tensor(f->gguf, index)
                   : nb_safetensors_tensor(f->safetensors, index);
}

const nb_stored *nb_container_find(const nb_container *f, const char *name)
{
    return f->gguf ? nb_gguf_find(f->gguf, name) : nb_safetensors_find(f->safetensors, name);
}

/* Borrowers may not change a tensor, but the list is the container's own. */
void nb_container_want_exact_inputs(nb_container *f, const nb_stored *t)
{
    assert(nb_container_find(f, t->name) == t);
    (void)f;
    ((nb_stored *)t)->exact_inputs = 1;
}

const char *nb_container_metadata(const nb_container *f, const char *key)
{
    return f->gguf ? nb_gguf_metadata(f->gguf, key)
                   : nb_safetensors_metadata(f->safetensors, key);
}

const char *nb_container_metadata_next(const nb_container *f, const char *key)
{
    return f->gguf ? nb_gguf_metadata_next(f->gguf, key)
                   : nb_safetensors_metadata_next(f->safetensors, key);
}

const nb_buffer *nb_container_buffer(const nb_container *f)
{
    return f->gguf ? nb_gguf_buffer(f->gguf) : nb_safetensors_buffer(f->safetensors);
}

const char *nb_container_path(const nb_container *f)
{
    return f->gguf ? nb_gguf_path(f->gguf) : nb_safetensors_path(f->safetensors);
}
