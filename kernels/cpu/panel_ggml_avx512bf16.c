/* GGUF's blocks into panels of BF16 pairs. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ggml_values_avx512.h"

enum { CHUNK_ELEMENTS = 32 };

/* The conversion rounds whether or not it is asked to. */
NB_ALWAYS_INLINE void store_block(const nb_block_values *b, int elements, int rounded,
                                  char *out, int64_t stride)
{
    (void)rounded;
    for (int i = 0; i < elements; i += CHUNK_ELEMENTS, out += stride) {
        __m512bh v = _mm512_cvtne2ps_pbh(nb_block_values16(b, i + 16), nb_block_values16(b, i));
        _mm512_store_si512((void *)out, (__m512i)v);
    }
}

#include "kernels/cpu/panel_ggml_body.h"

void nb_panel_ggml_bf16_avx512bf16(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                                   void *out, int64_t stride)
{
    decode_row(w, row, k0, count, 1, out, stride);
}
