/*
 * Which matrices are quantised is decided by names, as the vendors' tools decide by the modules
 * behind them.
 */
#include <fnmatch.h>
#include <string.h>

#include "models/quantize_job.h"

/* What Model-Optimizer's recipe for FLUX keeps in high precision. */
static const char *const flux_keeps[] = {
    "proj_out*",   "time_text_embed*", "context_embedder*",
    "x_embedder*", "norm_out*",        "time_guidance_embed*",
    NULL};

/* Rows are looked up, not multiplied. */
static const char *const tables[] = {
    "*embed_tokens", "*embeddings.*", "*relative_attention_bias", "shared", "*.shared", NULL};

static const char *const routers[] = {"*.gate", "*.router", "*.router.*", "*shared_expert_gate",
                                      NULL};

static const char llm_prefix[] = "model.layers.";

static int matches(const char *const *patterns, const char *name)
{
    for (; *patterns; patterns++)
        if (fnmatch(*patterns, name, 0) == 0) return 1;
    return 0;
}

/* A pattern may name the module or its weight. */
static int is_kept(const nb_quantize_args *args, const char *module)
{
    char weight[NB_MODULE_BYTES + 8];
    size_t n = strlen(module);
    memcpy(weight, module, n);
    memcpy(weight + n, ".weight", sizeof ".weight");
    for (int i = 0; i < args->n_keep; i++)
        if (fnmatch(args->keep[i], module, 0) == 0 || fnmatch(args->keep[i], weight, 0) == 0)
            return 1;
    return 0;
}

nb_quantize_scope nb_quantize_scope_of(const nb_checkpoint *c)
{
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const char *name = nb_checkpoint_tensor(c, i)->name;
        if (strncmp(name, llm_prefix, sizeof llm_prefix - 1) == 0) return NB_SCOPE_LLM;
        if (strncmp(name, "time_text_embed.", 16) == 0) return NB_SCOPE_FLUX;
    }
    return NB_SCOPE_ENCODER;
}

int nb_quantize_is_table(const char *module)
{
    return matches(tables, module);
}

int nb_quantize_chooses(const nb_quantize_args *args, nb_quantize_scope scope,
                        const char *module)
{
    if (is_kept(args, module)) return 0;
    switch (scope) {
    case NB_SCOPE_FLUX:
        return !matches(flux_keeps, module);
    case NB_SCOPE_ENCODER:
        return !matches(tables, module);
    case NB_SCOPE_LLM:
        return strncmp(module, llm_prefix, sizeof llm_prefix - 1) == 0 &&
               !matches(tables, module) && !matches(routers, module);
    default:
        return 1;
    }
}

const char *const *nb_quantize_group(const char *module, size_t *bytes)
{
    static const char *const groups[][6] = {
        {"to_q", "to_k", "to_v"},
        {"add_q_proj", "add_k_proj", "add_v_proj"},
        {"q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"},
        {"gate_proj", "up_proj"},
        {"w1", "w3"},
    };
    const char *dot = strrchr(module, '.'), *last = dot ? dot + 1 : module;
    *bytes = (size_t)(last - module);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        for (int j = 0; groups[i][j]; j++)
            if (strcmp(groups[i][j], last) == 0) return groups[i];
    return NULL;
}
