/*
 * The safetensors reader: whatever the bytes, it refuses with a sentence, or gives tensors that
 * lie inside the file and can be found by name.
 */
#include <stdlib.h>
#include <string.h>

#include "models/safetensors.h"
#include "tests/fuzz/target.h"

static void must(int condition)
{
    if (!condition) abort();
}

static void check_tensor(const nb_safetensors *f, const nb_stored *t)
{
    const nb_buffer *file = nb_safetensors_buffer(f);
    const char *start = nb_buffer_data(file), *data = t->data;
    size_t at = (size_t)(data - start);
    must(data >= start && at <= nb_buffer_bytes(file));
    must(t->bytes <= nb_buffer_bytes(file) - at);
    must((uint64_t)nb_stored_count(t) * nb_dtype_bytes(t->dtype) == t->bytes);
    must(nb_safetensors_find(f, t->name) == t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nb_buffer *buffer;
    nb_safetensors *f;
    if (nb_buffer_take((void *)(uintptr_t)data, size, NULL, NULL, &buffer)) return 0;
    nb_status status = nb_safetensors_open_buffer("input", buffer, &f);
    if (status) {
        must(status == NB_E_DATA && strncmp(nb_error_message(), "input: ", 7) == 0);
    } else {
        for (int64_t i = 0; i < nb_safetensors_n_tensors(f); i++)
            check_tensor(f, nb_safetensors_tensor(f, i));
        nb_safetensors_close(f);
    }
    nb_buffer_unref(buffer);
    return 0;
}
