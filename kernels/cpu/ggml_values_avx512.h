#ifndef NB_KERNELS_CPU_GGML_VALUES_AVX512_H
#define NB_KERNELS_CPU_GGML_VALUES_AVX512_H

#include "kernels/cpu/panel_avx512.h"
#include "kernels/ggml_blocks.h"

/* 16 values of a block from element i on, a multiple of 16. */
static inline __m512 nb_block_values16(const nb_block_values *b, int i)
{
    __m512i q = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(b->q + i)));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(b->step[i / NB_BLOCK_STEP]),
                           _mm512_set1_ps(b->offset[i / NB_BLOCK_STEP]));
}

#endif
