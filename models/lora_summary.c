/* What a LoRA file is, from its names and shapes alone. */
#include <string.h>

#include "models/lora.h"
#include "models/lora_names.h"

static void count_rank(nb_lora_summary *s, int64_t rank)
{
    if (!s->least_rank || rank < s->least_rank) s->least_rank = rank;
    if (rank > s->largest_rank) s->largest_rank = rank;
}

static void count_tensor(nb_lora_summary *s, const nb_stored *t, int *n_known)
{
    nb_lora_key key = nb_lora_key_of(t->name);
    const char *other = nb_lora_other_family(t->name);
    if (other) s->family = other;
    if (key.role == NB_LORA_NONE) {
        s->n_unknown++;
        return;
    }
    if (key.role == NB_LORA_FOREIGN) s->foreign = key.foreign;
    size_t before = (size_t)(key.module - t->name);
    int is_known = nb_lora_target_of(key.module, key.stem_bytes - before).n > 0;
    if (!is_known) s->n_unknown++;
    *n_known += is_known;
    if (!*s->dialect) s->dialect = key.dialect;
    if (key.role != NB_LORA_DOWN) return;
    s->n_modules++;
    if (t->rank >= 2) count_rank(s, t->shape[0]);
}

int nb_lora_summarise(const nb_checkpoint *c, nb_lora_summary *out)
{
    nb_lora_summary s = {.dialect = "", .family = ""};
    int n_known = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++)
        count_tensor(&s, nb_checkpoint_tensor(c, i), &n_known);
    if (!s.n_modules && !s.foreign) return 0;
    if (!*s.family && n_known) s.family = "FLUX.1";
    *out = s;
    return 1;
}
