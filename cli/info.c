/*
 * nibble info: what a checkpoint is, from its headers alone.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "cli/measure.h"
#include "models/inspect.h"

struct info_options {
    nb_common_options common;
    const char *model;
    int tensors, digest;
};

#define AT(field) offsetof(struct info_options, field)

static const nb_option options[] = {
    {.name = "model",
     .letter = 'm',
     .type = NB_OPTION_STRING,
     .value = "MODEL",
     .offset = AT(model),
     .help = NB_MODEL_HELP},
    {.name = "tensors",
     .type = NB_OPTION_FLAG,
     .offset = AT(tensors),
     .help = "list every tensor with its type, shape and bytes"},
    {.name = "digest",
     .type = NB_OPTION_FLAG,
     .offset = AT(digest),
     .help = "the digest of each component's weights, as pictures carry it"},
};

static const char *shape_text(const nb_stored *t, char text[160])
{
    int n = snprintf(text, 160, "[");
    for (int i = 0; i < t->rank && n < 140; i++)
        n += snprintf(text + n, (size_t)(160 - n), "%s%" PRId64, i ? ", " : "", t->shape[i]);
    snprintf(text + n, (size_t)(160 - n), "]");
    return text;
}

static const char *types_text(const nb_component *c, char text[160])
{
    int n = 0;
    *text = 0;
    for (int i = 0; i < NB_DTYPE_COUNT && n < 120; i++)
        if (c->dtypes[i].tensors)
            n += snprintf(text + n, (size_t)(160 - n), "%s%s", n ? "+" : "",
                          nb_dtype_name((nb_dtype)i));
    return text;
}

static void print_tensors(const nb_component *c)
{
    char shape[160];
    for (int64_t i = 0; c->checkpoint && i < nb_checkpoint_n_tensors(c->checkpoint); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c->checkpoint, i);
        if (!nb_component_owns(c, t)) continue;
        printf("    %-72s %-8s %-24s %zu\n", t->name, nb_dtype_name(t->dtype),
               shape_text(t, shape), t->bytes);
    }
}

static void print_component(const nb_component *c, const struct info_options *o)
{
    char parameters[32], bytes[32], types[160], digest[65];
    const char *name = *c->name ? c->name : "weights";
    if (c->problem) {
        printf("  %-16s cannot be read: %s\n", name, c->problem);
        return;
    }
    printf("  %-16s %s%s%s%s", name, nb_component_kind_text(c->kind),
           *c->class_name ? " (" : "", c->class_name, *c->class_name ? ")" : "");
    if (*c->family) printf(", %s", c->family);
    putchar('\n');
    if (!c->checkpoint) return;
    if (*c->detail) printf("  %-16s %s\n", "", c->detail);
    printf("  %-16s %s parameters, %s in %" PRId64 " tensors, %s\n", "",
           nb_amount_text((double)c->n_parameters, "", parameters),
           nb_amount_text((double)c->bytes, "B", bytes), c->n_tensors, types_text(c, types));
    printf("  %-16s %s%squantization: %s%s%s\n", "", c->layout, *c->layout ? " layout, " : "",
           c->quantization, *c->prefix ? ", names begin with " : "", c->prefix);
    if (o->digest) {
        nb_checkpoint_digest(c->checkpoint, digest);
        printf("  %-16s digest %s\n", "", digest);
    }
    if (o->tensors) print_tensors(c);
}

static void print_inspection(const nb_inspection *in, const struct info_options *o)
{
    char parameters[32], bytes[32];
    int64_t n_parameters = 0, n_bytes = 0;
    printf("%s\n%s%s%s\n", in->path, *in->family ? in->family : "unknown family", ", ",
           in->form);
    for (int i = 0; i < in->n_components; i++) {
        print_component(&in->components[i], o);
        n_parameters += in->components[i].n_parameters;
        n_bytes += (int64_t)in->components[i].bytes;
    }
    printf("  %-16s %s parameters, %s\n", "in all",
           nb_amount_text((double)n_parameters, "", parameters),
           nb_amount_text((double)n_bytes, "B", bytes));
}

static json_t *tensors_json(const nb_component *c)
{
    json_t *tensors = json_array();
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c->checkpoint); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c->checkpoint, i);
        if (!nb_component_owns(c, t)) continue;
        json_t *shape = json_array();
        for (int k = 0; k < t->rank; k++)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[k]));
        json_array_append_new(tensors,
                              json_pack("{s:s, s:s, s:o, s:I, s:s}", "name", t->name, "dtype",
                                        nb_dtype_name(t->dtype), "shape", shape, "bytes",
                                        (json_int_t)t->bytes, "file", t->file));
    }
    return tensors;
}

static json_t *dtypes_json(const nb_component *c)
{
    json_t *dtypes = json_object();
    for (int i = 0; i < NB_DTYPE_COUNT; i++) {
        const nb_dtype_use *use = &c->dtypes[i];
        if (!use->tensors) continue;
        json_object_set_new(dtypes, nb_dtype_name((nb_dtype)i),
                            json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)use->tensors,
                                      "elements", (json_int_t)use->elements, "bytes",
                                      (json_int_t)use->bytes));
    }
    return dtypes;
}

static json_t *component_json(const nb_component *c, const struct info_options *o)
{
    char digest[65];
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s?, s:I, s:I, s:I}", "name", c->name,
                  "class", c->class_name, "kind", nb_component_kind_text(c->kind), "family",
                  c->family, "detail", c->detail, "layout", c->layout, "quantization",
                  c->quantization, "problem", c->problem, "tensors", (json_int_t)c->n_tensors,
                  "parameters", (json_int_t)c->n_parameters, "bytes", (json_int_t)c->bytes);
    if (!json) return NULL;
    if (*c->prefix) json_object_set_new(json, "prefix", json_string(c->prefix));
    if (!c->checkpoint) return json;
    json_object_set_new(json, "files", json_integer(nb_checkpoint_n_files(c->checkpoint)));
    json_object_set_new(json, "dtypes", dtypes_json(c));
    if (o->digest) {
        nb_checkpoint_digest(c->checkpoint, digest);
        json_object_set_new(json, "digest", json_string(digest));
    }
    if (o->tensors) json_object_set_new(json, "tensor_list", tensors_json(c));
    return json;
}

static json_t *inspection_json(const nb_inspection *in, const struct info_options *o)
{
    json_t *components = json_array();
    json_int_t n_parameters = 0, n_bytes = 0;
    for (int i = 0; i < in->n_components; i++) {
        json_array_append_new(components, component_json(&in->components[i], o));
        n_parameters += (json_int_t)in->components[i].n_parameters;
        n_bytes += (json_int_t)in->components[i].bytes;
    }
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "path", in->path, "form", in->form,
                     "family", in->family, "parameters", n_parameters, "bytes", n_bytes,
                     "components", components);
}

static nb_status tell(const nb_inspection *in, const struct info_options *o)
{
    if (o->common.json)
        NB_TRY(nb_print_json(inspection_json(in, o)));
    else
        print_inspection(in, o);
    for (int i = 0; i < in->n_components; i++)
        if (in->components[i].problem)
            return nb_fail(NB_E_DATA, "%s", in->components[i].problem);
    return NB_OK;
}

static nb_status run(void *values, const nb_parsed *parsed)
{
    struct info_options *o = values;
    char *path;
    nb_inspection *in;
    if (parsed->n_words > 1)
        return nb_fail(NB_E_USAGE, "info: wanted one model, found another: %.60s",
                       parsed->words[1]);
    o->tensors |= o->common.verbose;
    NB_TRY(nb_model_resolve(parsed->n_words ? parsed->words[0] : o->model, &path));
    nb_status status = nb_inspect(path, &in);
    free(path);
    if (status) return status;
    status = tell(in, o);
    nb_inspection_destroy(in);
    return status;
}

const nb_command nb_command_info = {
    .name = "info",
    .summary = "say what a checkpoint is: family, components, types, sizes",
    .usage = "[MODEL]",
    .about =
        "Reads headers only: it takes no time and no memory, however large the model is.\n",
    .examples = "nibble info\n"
                "nibble info ~/models/FLUX.1-dev\n"
                "nibble info flux1-dev.safetensors --tensors\n"
                "nibble info black-forest-labs/FLUX.1-schnell --json\n",
    .groups = {{"Model", options, NB_COUNT(options)}, NB_MESSAGE_GROUP},
    .bytes = sizeof(struct info_options),
    .run = run,
};
