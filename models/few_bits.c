#include "models/few_bits.h"

#include <string.h>

enum { FP4, FP8, NUNCHAKU, FIRST_BLOCK, N_KINDS = FIRST_BLOCK + NB_DTYPE_COUNT };

/* ComfyUI's all-in-one files hold other parts under these. */
static int is_of_another_part(const char *name)
{
    static const char *const prefixes[] = {"text_encoders.", "first_stage_model.", "vae."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return 1;
    return 0;
}

/* Which kind of quantised matrix it is, N_KINDS: none. */
static int kind_of(const nb_stored *t)
{
    int is_weight = nb_name_ends_with(t->name, ".weight");
    if (t->rank != 2 || t->exact_inputs || is_of_another_part(t->name)) return N_KINDS;
    if (t->dtype == NB_DTYPE_U8)
        return is_weight || nb_name_ends_with(t->name, ".weight_packed") ? FP4 : N_KINDS;
    if (nb_name_ends_with(t->name, ".qweight")) return NUNCHAKU;
    if (!is_weight) return N_KINDS;
    if (t->dtype == NB_DTYPE_F8_E4M3 || t->dtype == NB_DTYPE_F8_E5M2) return FP8;
    return nb_dtype_elements(t->dtype) > 1 ? FIRST_BLOCK + (int)t->dtype : N_KINDS;
}

const char *nb_few_bits_of(const nb_checkpoint *c)
{
    static const char *const names[FIRST_BLOCK] = {"FP4", "FP8", "4-bit"};
    size_t bytes[N_KINDS + 1] = {0};
    int most = -1;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        bytes[kind_of(t)] += t->bytes;
    }
    for (int i = 0; i < N_KINDS; i++)
        if (bytes[i] && (most < 0 || bytes[i] > bytes[most])) most = i;
    if (most < 0) return NULL;
    return most < FIRST_BLOCK ? names[most] : nb_dtype_name((nb_dtype)(most - FIRST_BLOCK));
}
