#include "kernels/fp8.h"

#include <math.h>

#include "kernels/ref/quantize_rows.h"

/* Of an all-zero matrix: compressed-tensors' own, and 1 where the library would write NaN. */
static float zero_scale(nb_fp4_rule rule)
{
    return rule == NB_FP4_COMPRESSED_TENSORS ? 0x1p-23f : 1.0f;
}

struct quantize_task {
    const nb_weight *w;
    nb_fp4_rule rule;
    float scale;
    uint8_t *codes;
    float *scratch; /* [threads, k] */
};

static void fp8_row(void *arg, int64_t row, int thread)
{
    struct quantize_task *t = arg;
    int64_t k = t->w->k;
    float *values = t->scratch + thread * k, reciprocal = 1.0f / t->scale;
    uint8_t *codes = t->codes + row * k;
    nb_quantize_decode(t->w, row, 0, k, values);
    for (int64_t i = 0; i < k; i++)
        codes[i] = nb_e4m3_from_f32(t->rule == NB_FP4_COMFY ? values[i] * reciprocal
                                                            : values[i] / t->scale);
}

void nb_quantize_fp8(nb_stream *s, const nb_weight *w, nb_fp4_rule rule, float amax,
                     uint8_t *codes, float *scale)
{
    nb_arena_mark mark = nb_arena_save(s->arena);
    if (!(amax > 0)) amax = nb_weight_amax(s, w);
    struct quantize_task t = {.w = w, .rule = rule, .codes = codes};
    t.scale = amax > 0 ? amax / 448.0f : zero_scale(rule);
    t.scratch = nb_quantize_scratch(s, w);
    nb_parallel(s, w->n, fp8_row, &t);
    *scale = t.scale;
    nb_arena_rewind(s->arena, mark);
}
