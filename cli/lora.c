#include "cli/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "kernels/base/file.h"
#include "models/locate.h"

/* The colon before a weight, NULL if all of `item` is a file's name. */
static const char *weight_colon(const char *item)
{
    const char *colon = strrchr(item, ':');
    char *end;
    if (!colon || colon == item || !colon[1] || nb_file_exists(item)) return NULL;
    (void)strtod(colon + 1, &end);
    return *end ? NULL : colon;
}

/* One item; the caller frees *path. */
static nb_status parse(const char *item, char **path, double *weight)
{
    const char *colon = weight_colon(item);
    *weight = colon ? strtod(colon + 1, NULL) : 1.0;
    if (!isfinite(*weight))
        return nb_fail(NB_E_USAGE, "--lora %.300s: wanted a finite weight, found %.40s", item,
                       colon + 1);
    char *name = colon ? strndup(item, (size_t)(colon - item)) : strdup(item);
    if (!name) return nb_fail(NB_E_SYSTEM, "out of memory");
    nb_status status = nb_model_locate(name, nb_getenv, path);
    free(name);
    return status;
}

nb_status nb_lora_use_list(nb_pipeline *pipeline, const nb_option_list *list, int lenient,
                           nb_compute compute)
{
    const nb_lora_options options = {.lenient = lenient, .compute = compute};
    nb_lora_use uses[NB_MAX_LIST];
    char *paths[NB_MAX_LIST];
    nb_status status = NB_OK;
    int n = 0;
    if (!list->n) return NB_OK;
    for (; !status && n < list->n; n += status == NB_OK) {
        status = parse(list->items[n], &paths[n], &uses[n].weight);
        if (!status) uses[n].path = paths[n];
    }
    if (!status) status = nb_pipeline_set_loras(pipeline, uses, n, &options);
    while (n > 0) free(paths[--n]);
    return status;
}
