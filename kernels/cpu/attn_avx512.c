#if defined(__x86_64__)

#include "kernels/cpu/vec_avx512.h"

enum { PAIR = 1 };
typedef __m512 word;

static inline word load_word(const float *p)
{
    return _mm512_set1_ps(*p);
}

static inline vec step(vec acc, word w, vec x)
{
    return _mm512_fmadd_ps(w, x, acc);
}

static inline vec join(vec a, vec b, int round)
{
    (void)b;
    return round ? vec_round_bf16(a) : a;
}

static inline vec load_words(const float *p, int64_t n, int round)
{
    return join(vec_load_n(p, n), vec_zero(), round);
}

#include "kernels/cpu/attn_body.h"

void nb_attn_f32_avx512(nb_stream *s, const nb_attn_args *a)
{
    attn_run(s, a, 0);
}

void nb_attn_bf16_avx512(nb_stream *s, const nb_attn_args *a)
{
    attn_run(s, a, 1);
}

#endif
