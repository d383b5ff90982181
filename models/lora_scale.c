/*
 * alpha: a tensor beside the pair, or in the header under lora_adapter_metadata the fields of
 * PEFT's LoraConfig, each with the component in front: "transformer.lora_alpha". Patterns are
 * module names or the ends of names; PEFT takes them for regular expressions, of which only the
 * anchors and \. are read here, and others are refused.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/json.h"
#include "models/lora_terms.h"

enum { KEY_BYTES = 64, NAME_BYTES = 256 };

nb_status nb_lora_config_read(const nb_checkpoint *file, json_t **out)
{
    static const char key[] = "lora_adapter_metadata";
    const char *path = nb_checkpoint_path(file);
    json_t *config;
    const char *text = NULL;
    *out = NULL;
    for (int i = 0; !text && i < nb_checkpoint_n_files(file); i++)
        text = nb_container_metadata(nb_checkpoint_file(file, i), key);
    if (!text) return NB_OK;
    NB_TRY(nb_json_parse(path, text, strlen(text), &config));
    if (!json_is_object(config)) {
        json_decref(config);
        return nb_fail(NB_E_DATA, "%s: %s in the header is no object", path, key);
    }
    *out = config;
    return NB_OK;
}

/* The value of a field, with the component's name in front or without one. */
static const json_t *field(const json_t *config, const char *component, const char *name)
{
    char key[KEY_BYTES + 32];
    snprintf(key, sizeof key, "%s.%s", component, name);
    const json_t *value = json_object_get(config, key);
    return value ? value : json_object_get(config, name);
}

/* A pattern without its anchors and backslashes; 0 if more of a regular expression is in it. */
static int plain_pattern(const char *pattern, char plain[NAME_BYTES])
{
    size_t n = 0;
    pattern += *pattern == '^';
    for (; *pattern && n < NAME_BYTES - 1; pattern++) {
        if (*pattern == '$' && !pattern[1]) continue;
        if (*pattern == '\\' && pattern[1] == '.') pattern++;
        if (strchr("*+?[](){}|\\^$", *pattern)) return 0;
        plain[n++] = *pattern;
    }
    plain[n] = 0;
    return *pattern == 0;
}

/* Is the module's name the pattern, or, unless that is anchored, does it end so at a dot? */
static int fits(const char *module, size_t bytes, const char *pattern, int anchored)
{
    size_t n = strlen(pattern);
    if (n > bytes || memcmp(module + bytes - n, pattern, n) != 0) return 0;
    return n == bytes || (!anchored && module[bytes - n - 1] == '.');
}

static nb_status pattern_value(const char *path, const json_t *patterns, const char *module,
                               size_t bytes, const json_t **out)
{
    const char *pattern;
    json_t *value; /* the macro below wants it so */
    json_object_foreach((json_t *)patterns, pattern, value)
    {
        char plain[NAME_BYTES];
        if (!plain_pattern(pattern, plain))
            return nb_fail(NB_E_DATA, "%s: pattern %.200s in the header cannot be read", path,
                           pattern);
        if (!fits(module, bytes, plain, *pattern == '^')) continue;
        *out = value;
        return NB_OK;
    }
    return NB_OK;
}

static nb_status checked(double alpha, int64_t rank, int by_root, const char *path,
                         const char *name, double *out)
{
    if (!isfinite(alpha))
        return nb_fail(NB_E_DATA, "%s: alpha of tensor %.300s is not finite", path, name);
    *out = alpha / (by_root ? sqrt((double)rank) : (double)rank);
    return NB_OK;
}

static nb_status config_scale(const char *path, const json_t *config, const char *name,
                              const nb_lora_key *key, int64_t rank, double *out)
{
    const char *end = name + key->stem_bytes;
    int n = (int)(key->module - name);
    char component[KEY_BYTES];
    snprintf(component, sizeof component, "%.*s", n > 0 ? n - 1 : 0, name);
    const json_t *alpha = field(config, component, "lora_alpha");
    int by_root = json_is_true(field(config, component, "use_rslora"));
    NB_TRY(pattern_value(path, field(config, component, "alpha_pattern"), key->module,
                         (size_t)(end - key->module), &alpha));
    if (json_is_true(field(config, component, "use_dora")))
        return nb_fail(NB_E_DATA, "%s: a DoRA adapter, which cannot be applied", path);
    if (!alpha) return NB_OK;
    if (!json_is_number(alpha))
        return nb_fail(NB_E_DATA, "%s: alpha of tensor %.300s: wanted a number in the header",
                       path, name);
    return checked(json_number_value(alpha), rank, by_root, path, name, out);
}

nb_status nb_lora_scale(const nb_checkpoint *file, const json_t *config, const nb_stored *alpha,
                        const char *name, const nb_lora_key *key, int64_t rank, double *out)
{
    const char *path = nb_checkpoint_path(file);
    *out = 1.0;
    if (!alpha) return config ? config_scale(path, config, name, key, rank, out) : NB_OK;
    int is_float = alpha->dtype == NB_DTYPE_F32 || alpha->dtype == NB_DTYPE_F16 ||
                   alpha->dtype == NB_DTYPE_BF16 || alpha->dtype == NB_DTYPE_F64;
    if (!is_float || nb_stored_count(alpha) != 1)
        return nb_fail(NB_E_DATA, "%s: tensor %.300s: wanted one number, found %lld of %s",
                       alpha->file, alpha->name, (long long)nb_stored_count(alpha),
                       nb_dtype_name(alpha->dtype));
    return checked((double)nb_load_f32(alpha->dtype, alpha->data, 0), rank, 0, path, name, out);
}
