/* The decoder of GGUF's blocks, compiled once for each instruction set: the file that includes
 * this has store_block(), which writes the values of one block in chunks of CHUNK_ELEMENTS. */
#include <assert.h>

#include "kernels/cpu/ggml_unpack_avx2.h"
#include "kernels/cpu/panel_ggml.h"

#define DECODE(type, name, elements)                                                           \
    case NB_DTYPE_##type: {                                                                    \
        const nb_block_##name *p = w->data;                                                    \
        assert((k0 | count | w->k) % (elements) == 0);                                         \
        p += (row * w->k + k0) / (elements);                                                   \
        for (int64_t at = 0; at < count; at += (elements)) {                                   \
            nb_unpack_##name(p++, &b);                                                         \
            store_block(&b, elements, rounded, out, stride);                                   \
            out += (elements) / CHUNK_ELEMENTS * stride;                                       \
        }                                                                                      \
        break;                                                                                 \
    }

NB_ALWAYS_INLINE void decode_row(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                                 int rounded, char *out, int64_t stride)
{
    nb_block_values b;
    assert(w->scale == 1.0f);
    switch (w->dtype) {
        NB_BLOCK_LIST(DECODE)
    default:
        assert(!"a weight type without a decoder");
    }
}

#undef DECODE
