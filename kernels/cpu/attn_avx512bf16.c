#if defined(__x86_64__)

#include "kernels/cpu/vec_avx512.h"

enum { PAIR = 2 };
typedef __m512bh word;

static inline word load_word(const float *p)
{
    int bits;
    memcpy(&bits, p, sizeof bits);
    return (word)_mm512_set1_epi32(bits);
}

static inline vec step(vec acc, word w, vec x)
{
    return _mm512_dpbf16_ps(acc, w, (__m512bh)x);
}

/* a in the low halves, b in the high ones. */
static inline vec join(vec a, vec b, int round)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    (void)round;
    return (vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

static inline vec load_words(const float *p, int64_t n, int round)
{
    (void)round;
    return (vec)_mm512_cvtne2ps_pbh(vec_load_n(p + LANES, n - LANES), vec_load_n(p, n));
}

#include "kernels/cpu/attn_body.h"

void nb_attn_bf16_avx512bf16(nb_stream *s, const nb_attn_args *a)
{
    attn_run(s, a, 1);
}

#endif
