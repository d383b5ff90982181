#if defined(__x86_64__)

#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/attn_f32_words.h"

#include "kernels/cpu/attn_body.h"

void nb_attn_f32_avx2(nb_stream *s, const nb_attn_args *a)
{
    attn_run(s, a, 0);
}

void nb_attn_bf16_avx2(nb_stream *s, const nb_attn_args *a)
{
    attn_run(s, a, 1);
}

#endif
