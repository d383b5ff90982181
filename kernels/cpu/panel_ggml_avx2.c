/* GGUF's blocks into panels of F32 units, as they are or rounded to BF16. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vec_avx2.h"
#include "kernels/ggml_blocks.h"

enum { CHUNK_ELEMENTS = 16 };

NB_ALWAYS_INLINE vec decode8(const int8_t *q, vec step, vec offset, int rounded)
{
    vec integers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)q)));
    vec v = vec_fma(integers, step, offset);
    return rounded ? vec_round_bf16(v) : v;
}

NB_ALWAYS_INLINE void store_block(const nb_block_values *b, int elements, int rounded,
                                  char *out, int64_t stride)
{
    for (int i = 0; i < elements; i += 16, out += stride) {
        vec step = vec_all(b->step[i / NB_BLOCK_STEP]);
        vec offset = vec_all(b->offset[i / NB_BLOCK_STEP]);
        vec_store((float *)(void *)out, decode8(b->q + i, step, offset, rounded));
        vec_store((float *)(void *)out + 8, decode8(b->q + i + 8, step, offset, rounded));
    }
}

#include "kernels/cpu/panel_ggml_body.h"

void nb_panel_ggml_f32_avx2(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                            void *out, int64_t stride)
{
    decode_row(w, row, k0, count, 0, out, stride);
}

void nb_panel_ggml_rounded_avx2(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                                void *out, int64_t stride)
{
    decode_row(w, row, k0, count, 1, out, stride);
}
