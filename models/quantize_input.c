/*
 * What is read, and what becomes of each of its matrices.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "models/canonical.h"
#include "models/lora_names.h"
#include "models/nunchaku.h"
#include "models/plausible.h"
#include "models/quantize_job.h"

/* ---- opening ---- */

static int64_t bytes_of(const nb_checkpoint *c)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++)
        bytes += (int64_t)nb_checkpoint_tensor(c, i)->bytes;
    return bytes;
}

/* All matrices are a LoRA's; of a model with branches some are. */
static nb_status refuse_lora(const nb_checkpoint *c)
{
    int n = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        if (t->rank < 2) continue;
        if (nb_lora_key_of(t->name).role == NB_LORA_NONE) return NB_OK;
        n++;
    }
    if (!n) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: is a LoRA, wanted a model's weights",
                   nb_checkpoint_source(c));
}

static int has_4_bits(const nb_checkpoint *c)
{
    char module[NB_MODULE_BYTES];
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        if (t->dtype == NB_DTYPE_U8 && nb_quant_module_of(t, module)) return 1;
    }
    return 0;
}

/* Under the names by which the check knows who writes what another one reads; of nunchaku's
 * files those blocks, since all of them would have to be put in order. */
static nb_status check_plausible(const nb_quantize_input *in)
{
    static const char *const blocks[] = {"transformer_blocks.0", "single_transformer_blocks.0"};
    nb_checkpoint *c;
    nb_status status = NB_OK;
    for (size_t i = 0; in->outline && !status && i < sizeof blocks / sizeof *blocks; i++) {
        NB_TRY(nb_nunchaku_make(in->files, blocks[i], &c));
        status = nb_plausible_check(c);
        nb_checkpoint_close(c);
    }
    if (in->outline || !has_4_bits(in->files)) return status;
    NB_TRY(nb_canonical_open(nb_checkpoint_path(in->files), &c));
    status = nb_plausible_check(c);
    nb_checkpoint_close(c);
    return status;
}

static int has_notes(const nb_checkpoint *c)
{
    for (int i = 0; i < nb_checkpoint_n_files(c); i++)
        if (nb_container_metadata(nb_checkpoint_file(c, i), "_quantization_metadata")) return 1;
    return 0;
}

static nb_status prepare(nb_quantize_input *in)
{
    NB_TRY(refuse_lora(in->files));
    if (nb_nunchaku_is_one(in->files)) NB_TRY(nb_nunchaku_outline(in->files, &in->outline));
    in->c = in->outline ? in->outline : in->files;
    in->scope = nb_quantize_scope_of(in->c);
    in->says_comfy = has_notes(in->files);
    int64_t bytes = bytes_of(in->c);
    in->share = bytes ? (double)bytes_of(in->files) / (double)bytes : 1;
    return check_plausible(in);
}

nb_status nb_quantize_input_open(const char *path, nb_quantize_input *out)
{
    nb_quantize_input in = {.files = NULL};
    NB_TRY(nb_checkpoint_open(path, &in.files));
    nb_status status = prepare(&in);
    if (status)
        nb_quantize_input_close(&in);
    else
        *out = in;
    return status;
}

void nb_quantize_input_close(nb_quantize_input *in)
{
    nb_checkpoint_close(in->outline);
    nb_checkpoint_close(in->files);
}

int64_t nb_quantize_input_bytes(const nb_quantize_input *in)
{
    return bytes_of(in->files);
}

/* ---- nunchaku's config ---- */

static nb_status config_of_folder(const char *folder, json_t **out)
{
    char *path = nb_path_join(folder, "config.json");
    if (!path) return nb_fail(NB_E_SYSTEM, "%s: out of memory", folder);
    nb_status status = nb_file_exists(path) ? nb_json_load_object(path, out) : NB_OK;
    free(path);
    return status;
}

nb_status nb_quantize_input_config(const nb_quantize_input *in, json_t **out)
{
    json_t *config;
    const char *path = nb_checkpoint_path(in->files);
    NB_TRY(nb_nunchaku_config(in->files, &config));
    if (!config && nb_file_is_directory(path)) NB_TRY(config_of_folder(path, &config));
    if (config)
        json_object_set_new(config, "_class_name", json_string("FluxTransformer2DModel"));
    *out = config;
    return NB_OK;
}

/* ---- decisions ---- */

int nb_quantize_expands(const nb_quantize_job *job)
{
    nb_quant_format format = job->args->target.format;
    return format == NB_QUANT_F32 || format == NB_QUANT_BF16;
}

int nb_quantize_notes_layers(const nb_quantize_job *job, const nb_quantize_input *in)
{
    const nb_quant_target *t = &job->args->target;
    if (t->dialect == NB_FP4_COMFY &&
        (t->format == NB_QUANT_NVFP4 || t->format == NB_QUANT_FP8))
        return 1;
    return in->says_comfy && t->format != NB_QUANT_NVFP4;
}

/* Can the output hold a matrix as it lies? With comfy's notes in the header NVFP4 lies as comfy
 * has it, in all layers; without, a layer that is told by them alone would be read wrongly. */
static int can_hold(const nb_quantize_job *job, const nb_quantize_input *in,
                    nb_source_form form)
{
    switch (form) {
    case NB_SOURCE_TILED:
        return !in->says_comfy || nb_quantize_notes_layers(job, in);
    case NB_SOURCE_UNTILED:
        return !nb_quantize_notes_layers(job, in);
    case NB_SOURCE_FOREIGN:
    case NB_SOURCE_ANNOUNCED:
        return 0;
    default:
        return 1;
    }
}

/* What is next to nothing has no scale that a reader would take (NB_A4_SMALLEST). */
static float known_amax(const nb_quantize_args *a, const char *module, int64_t k)
{
    float amax = a->input_amax(a->calibration_arg, module, k);
    return isfinite(amax) && amax >= 0x1p-88f ? amax : 0.0f;
}

float nb_quantize_input_amax(const nb_quantize_job *job, const nb_quant_source *source)
{
    const nb_quantize_args *a = job->args;
    nb_quant_format format = a->target.format;
    char member[NB_MODULE_BYTES + 32];
    size_t bytes;
    if (!a->input_amax || (format != NB_QUANT_NVFP4 && format != NB_QUANT_FP8)) return 0.0f;
    float amax = known_amax(a, source->module, source->k);
    const char *const *names = nb_quantize_group(source->module, &bytes);
    for (; amax > 0 && job->shares && names && *names; names++) {
        snprintf(member, sizeof member, "%.*s%s", (int)bytes, source->module, *names);
        amax = fmaxf(amax, known_amax(a, member, source->k));
    }
    return amax;
}

nb_status nb_quantize_decide(const nb_quantize_job *job, const nb_quantize_input *in,
                             const nb_stored *t, nb_quantize_fate *fate,
                             nb_quant_source *source)
{
    char module[NB_MODULE_BYTES];
    int expands = nb_quantize_expands(job);
    *fate = NB_FATE_COPY;
    if (!nb_quant_module_of(t, module)) return NB_OK;
    /* Whatever is quantised is expanded, whoever chose it. */
    int chosen = nb_quantize_chooses(job->args, expands ? NB_SCOPE_FILE : in->scope, module);
    nb_status status = nb_quant_source_find(in->c, t, source);
    if (status) return chosen ? status : NB_OK; /* what is kept need not be understood */
    if (chosen && (expands ? source->form != NB_SOURCE_PLAIN
                           : source->k % nb_quant_multiple(job->args->target.format) == 0))
        *fate = NB_FATE_CONVERT;
    else if (!can_hold(job, in, source->form))
        *fate = NB_FATE_EXPAND;
    return NB_OK;
}
