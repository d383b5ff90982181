#include "models/declared.h"

#include <stdio.h>
#include <string.h>

#include "kernels/base/json.h"

enum { NAME_BYTES = 512, PLACE_BYTES = 2048 };

static const char COMFY_QUANT[] = ".comfy_quant", SCALED_FP8[] = "scaled_fp8";

static const nb_stored *part_of(const nb_container *f, const char *layer, const char *part)
{
    char name[NAME_BYTES];
    int n = snprintf(name, sizeof name, "%s.%s", layer, part);
    return n > 0 && (size_t)n < sizeof name ? nb_container_find(f, name) : NULL;
}

static nb_status contradicted(const nb_stored *t, const char *format, const char *wanted)
{
    return nb_fail(NB_E_DATA, "%s: tensor %.300s: declared %.40s, wanted %s, found %s", t->file,
                   t->name, format, wanted, nb_dtype_name(t->dtype));
}

/* "FILE: tensor NAME", for messages about what is declared of it. */
static const char *place_of(const nb_stored *t, char text[PLACE_BYTES])
{
    snprintf(text, PLACE_BYTES, "%s: tensor %.300s", t->file, t->name);
    return text;
}

static nb_status check_format(const nb_container *f, const char *layer, const nb_stored *weight,
                              const json_t *json)
{
    static const struct {
        const char *format, *wanted;
        nb_dtype dtype;
    } known[] = {
        {"nvfp4", "U8", NB_DTYPE_U8},
        {"float8_e4m3fn", "F8_E4M3", NB_DTYPE_F8_E4M3},
        {"float8_e5m2", "F8_E5M2", NB_DTYPE_F8_E5M2},
    };
    char place[PLACE_BYTES];
    const char *format;
    const nb_stored *scale;
    NB_TRY(nb_json_get_string(place_of(weight, place), json, "format", "", &format));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(format, known[i].format) != 0) continue;
        if (weight->dtype != known[i].dtype)
            return contradicted(weight, format, known[i].wanted);
        scale = i == 0 ? part_of(f, layer, "weight_scale") : NULL;
        if (scale && scale->dtype != NB_DTYPE_F8_E4M3)
            return contradicted(scale, format, "F8_E4M3");
        return NB_OK;
    }
    return nb_fail(NB_E_DATA,
                   "%s: wanted the format nvfp4, float8_e4m3fn or float8_e5m2, found \"%.40s\"",
                   place, format);
}

static nb_status read_layer(nb_container *f, const char *layer, const json_t *json)
{
    const nb_stored *weight = part_of(f, layer, "weight");
    char place[PLACE_BYTES];
    int is_exact = 0;
    if (!weight) return NB_OK;
    NB_TRY(check_format(f, layer, weight, json));
    NB_TRY(nb_json_get_bool(place_of(weight, place), json, "full_precision_matrix_mult", 0,
                            &is_exact));
    if (is_exact) nb_container_want_exact_inputs(f, weight);
    return NB_OK;
}

static nb_status read_metadata(nb_container *f, const char *text)
{
    const char *layer;
    json_t *root, *json;
    nb_status status = NB_OK;
    NB_TRY(nb_json_parse(nb_container_path(f), text, strlen(text), &root));
    json_object_foreach(json_object_get(root, "layers"), layer, json)
    {
        status = read_layer(f, layer, json);
        if (status) break;
    }
    json_decref(root);
    return status;
}

static nb_status read_note(nb_container *f, const nb_stored *t)
{
    char layer[NAME_BYTES], place[PLACE_BYTES];
    json_t *json;
    size_t n = strlen(t->name) - strlen(COMFY_QUANT);
    if (t->dtype != NB_DTYPE_U8 || n >= sizeof layer) return NB_OK;
    snprintf(layer, sizeof layer, "%.*s", (int)n, t->name);
    NB_TRY(nb_json_parse(place_of(t, place), t->data, t->bytes, &json));
    nb_status status = read_layer(f, layer, json);
    json_decref(json);
    return status;
}

/* What a tensor `scaled_fp8` says of all layers under its prefix. */
static void read_marker(nb_container *f, const nb_stored *marker)
{
    static const char scale[] = ".scale_weight";
    char layer[NAME_BYTES];
    size_t prefix = strlen(marker->name) - strlen(SCALED_FP8);
    if (nb_stored_count(marker) != 2) return;
    for (int64_t i = 0; i < nb_container_n_tensors(f); i++) {
        const char *name = nb_container_tensor(f, i)->name;
        if (strncmp(name, marker->name, prefix) != 0 || !nb_name_ends_with(name, scale))
            continue;
        snprintf(layer, sizeof layer, "%.*s", (int)(strlen(name) - strlen(scale)), name);
        const nb_stored *weight = part_of(f, layer, "weight");
        if (weight && (weight->dtype == NB_DTYPE_F8_E4M3 || weight->dtype == NB_DTYPE_F8_E5M2))
            nb_container_want_exact_inputs(f, weight);
    }
}

static int is_marker(const char *name)
{
    size_t n = strlen(name), suffix = strlen(SCALED_FP8);
    return nb_name_ends_with(name, SCALED_FP8) && (n == suffix || name[n - suffix - 1] == '.');
}

nb_status nb_declared_read(nb_container *f)
{
    const char *text = nb_container_metadata(f, "_quantization_metadata");
    if (text) NB_TRY(read_metadata(f, text));
    for (int64_t i = 0; i < nb_container_n_tensors(f); i++) {
        const nb_stored *t = nb_container_tensor(f, i);
        if (nb_name_ends_with(t->name, COMFY_QUANT)) NB_TRY(read_note(f, t));
        if (!text && is_marker(t->name)) read_marker(f, t);
    }
    return NB_OK;
}
