/* The words of attn_body.h where a word is one float; BF16 is then rounding, and F32 products.
 */
#ifndef NB_KERNELS_CPU_ATTN_F32_WORDS_H
#define NB_KERNELS_CPU_ATTN_F32_WORDS_H

enum { PAIR = 1 };
typedef vec word;

static inline word load_word(const float *p)
{
    return vec_all(*p);
}

static inline vec step(vec acc, word w, vec x)
{
    return vec_fma(w, x, acc);
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

#endif
