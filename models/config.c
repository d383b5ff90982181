#include "models/config.h"

#include <string.h>

nb_status nb_config_size(const char *path, const json_t *json, const char *key,
                         int64_t fallback, int64_t max, int64_t *out)
{
    return nb_json_get_int(path, json, key, fallback, 1, max, out);
}

nb_status nb_config_act_named(const char *path, const char *key, const char *name, nb_act *out)
{
    static const struct {
        const char *name;
        nb_act act;
    } known[] = {
        {"gelu", NB_ACT_GELU},
        {"gelu_new", NB_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", NB_ACT_GELU_TANH},
        {"quick_gelu", NB_ACT_QUICK_GELU},
        {"silu", NB_ACT_SILU},
        {"swish", NB_ACT_SILU},
        {"relu", NB_ACT_RELU},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) {
            *out = known[i].act;
            return NB_OK;
        }
    return nb_fail(
        NB_E_DATA,
        "%s: %s: wanted gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, silu or relu, "
        "found %s",
        path, key, name);
}

nb_status nb_config_act(const char *path, const json_t *json, const char *key,
                        const char *fallback, nb_act *out)
{
    const char *name;
    NB_TRY(nb_json_get_string(path, json, key, fallback, &name));
    return nb_config_act_named(path, key, name, out);
}
