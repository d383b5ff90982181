/* GGUF's blocks into panels of F32 units, as they are or rounded to BF16. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ggml_values_avx512.h"

enum { CHUNK_ELEMENTS = 16 };

NB_ALWAYS_INLINE void store_block(const nb_block_values *b, int elements, int rounded,
                                  char *out, int64_t stride)
{
    for (int i = 0; i < elements; i += CHUNK_ELEMENTS, out += stride) {
        __m512 v = nb_block_values16(b, i);
        _mm512_store_ps(out, rounded ? nb_round_bf16_avx512(v) : v);
    }
}

#include "kernels/cpu/panel_ggml_body.h"

void nb_panel_ggml_f32_avx512(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                              void *out, int64_t stride)
{
    decode_row(w, row, k0, count, 0, out, stride);
}

void nb_panel_ggml_rounded_avx512(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                                  void *out, int64_t stride)
{
    decode_row(w, row, k0, count, 1, out, stride);
}
