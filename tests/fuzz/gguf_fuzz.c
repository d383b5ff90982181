/*
 * The GGUF reader: whatever the bytes, it refuses with a sentence, or gives tensors that lie
 * inside the file, can be found by name and can be expanded.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/ggml_blocks.h"
#include "models/gguf.h"
#include "tests/fuzz/target.h"

static void must(int condition)
{
    if (!condition) abort();
}

/* The last row of a matrix of blocks, one block at a time. */
static void expand_row(const nb_stored *t)
{
    static float values[NB_BLOCK_MAX];
    int64_t size = nb_dtype_elements(t->dtype), n = nb_stored_count(t);
    int64_t rows = t->rank ? t->shape[0] : 1;
    if (size == 1 || n == 0) return;
    must(n / rows % size == 0);
    for (int64_t at = n - n / rows; at < n; at += size)
        nb_blocks_decode_ref(t->dtype, t->data, at, size, values);
}

static void check_tensor(const nb_gguf *f, const nb_stored *t)
{
    const nb_buffer *file = nb_gguf_buffer(f);
    const char *start = nb_buffer_data(file), *data = t->data;
    size_t at = (size_t)(data - start);
    int64_t size = nb_dtype_elements(t->dtype);
    must(data >= start && at <= nb_buffer_bytes(file));
    must(t->bytes <= nb_buffer_bytes(file) - at);
    must((uint64_t)(nb_stored_count(t) / size) * nb_dtype_bytes(t->dtype) == t->bytes);
    must(nb_gguf_find(f, t->name) == t);
    expand_row(t);
}

static void check_metadata(const nb_gguf *f)
{
    const char *key = NULL;
    while ((key = nb_gguf_metadata_next(f, key))) {
        const char *value = nb_gguf_metadata(f, key);
        must(!value || strlen(value) < nb_buffer_bytes(nb_gguf_buffer(f)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nb_buffer *buffer;
    nb_gguf *f;
    if (nb_buffer_take((void *)(uintptr_t)data, size, NULL, NULL, &buffer)) return 0;
    nb_status status = nb_gguf_open_buffer("input", buffer, &f);
    if (status) {
        must(status == NB_E_DATA && strncmp(nb_error_message(), "input: ", 7) == 0);
    } else {
        for (int64_t i = 0; i < nb_gguf_n_tensors(f); i++)
            check_tensor(f, nb_gguf_tensor(f, i));
        check_metadata(f);
        nb_gguf_close(f);
    }
    nb_buffer_unref(buffer);
    return 0;
}
