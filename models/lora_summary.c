/* What a LoRA file is, from its names and shapes alone. */
#include <string.h>

#include "models/lora.h"
#include "models/lora_names.h"

static void count_rank(nb_lora_summary *s, int64_t rank)
{
    if (!s->least_rank || rank < s->least_rank) s->least_rank = rank;
    if (rank > s->largest_rank) s->largest_rank = rank;
}

/* Is it the one tensor of its role that a module has, with the rank as its rows? Of LoKr W2 may
 * be whole. */
static int counts_module(const nb_lora_key *key)
{
    if (key->role == NB_LORA_DOWN) return 1;
    return key->role == NB_LORA_PART && (key->part == NB_LORA_W2 || key->part == NB_LORA_W2_B);
}

/* Tensors of modules that are FLUX.1's, and such that are a LoRA's even if alone. */
struct counts {
    int known, own;
};

static void count_tensor(nb_lora_summary *s, const nb_stored *t, struct counts *n)
{
    nb_lora_key key = nb_lora_key_of(t->name);
    const char *other = nb_lora_other_family(t->name);
    if (other) s->family = other;
    if (key.role == NB_LORA_NONE) {
        s->n_unknown++;
        return;
    }
    if (key.role == NB_LORA_FOREIGN) s->foreign = key.kind;
    size_t before = (size_t)(key.module - t->name);
    int is_known = nb_lora_target_of(key.module, key.stem_bytes - before).n > 0;
    if (!is_known) s->n_unknown++;
    n->known += is_known;
    n->own += key.role == NB_LORA_PART || key.role == NB_LORA_DIFF_BIAS;
    if (!*s->dialect) s->dialect = key.dialect;
    if (!counts_module(&key)) return;
    s->n_modules++;
    if (t->rank >= 2 && key.part != NB_LORA_W2) count_rank(s, t->shape[0]);
}

int nb_lora_summarise(const nb_checkpoint *c, nb_lora_summary *out)
{
    nb_lora_summary s = {.dialect = "", .family = ""};
    struct counts n = {0};
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++)
        count_tensor(&s, nb_checkpoint_tensor(c, i), &n);
    if (!s.n_modules && !s.foreign && !n.own) return 0;
    if (!*s.family && n.known) s.family = "FLUX.1";
    *out = s;
    return 1;
}
