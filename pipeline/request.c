/*
 * Requests: defaults, limits, and what is said when they are passed.
 */
#include <inttypes.h>

#include "kernels/base/log.h"
#include "pipeline/txt2img.h"

enum { MAX_SIDE = 16384, MAX_PICTURES = 100000 };
static const double DEFAULT_GUIDANCE = 3.5, MAX_GUIDANCE = 1e4;

static nb_status out_of_range(const char *what, int64_t found, int64_t min, int64_t max)
{
    return nb_fail(NB_E_USAGE, "%s: wanted %" PRId64 " to %" PRId64 ", got %" PRId64, what, min,
                   max, found);
}

static nb_status check_int(const char *what, int64_t found, int64_t min, int64_t max)
{
    return found < min || found > max ? out_of_range(what, found, min, max) : NB_OK;
}

static nb_status check_real(const char *what, double found, double min, double max)
{
    if (found >= min && found <= max) return NB_OK;
    return nb_fail(NB_E_USAGE, "%s: wanted %g to %g, got %g", what, min, max, found);
}

static nb_status resolve_size(const nb_pipeline_info *info, nb_txt2img_request *r)
{
    int64_t unit = info->pixels_per_token;
    if (!r->width) r->width = info->default_width;
    if (!r->height) r->height = info->default_height;
    NB_TRY(check_int("width", r->width, unit, MAX_SIDE));
    NB_TRY(check_int("height", r->height, unit, MAX_SIDE));
    int64_t width = r->width / unit * unit, height = r->height / unit * unit;
    if (width != r->width || height != r->height)
        nb_log(NB_LOG_WARN,
               "size %" PRId64 "x%" PRId64 " is not a multiple of %" PRId64 ": making %" PRId64
               "x%" PRId64,
               r->width, r->height, unit, width, height);
    r->width = width;
    r->height = height;
    return NB_OK;
}

static nb_status resolve_batch(nb_txt2img_request *r)
{
    if (!r->batch_count) r->batch_count = 1;
    NB_TRY(check_int("batch count", r->batch_count, 1, MAX_PICTURES));
    if (r->only_set) return check_int("picture of the batch", r->only, 0, r->batch_count - 1);
    r->only = 0;
    return NB_OK;
}

static nb_status resolve_noise(const nb_pipeline_info *info, nb_txt2img_request *r)
{
    if (r->noise == NB_NOISE_DEFAULT) r->noise = info->default_noise;
    if (!r->rng_sms) r->rng_sms = NB_RNG_DEFAULT_SMS;
    if (!r->rng_sm_threads) r->rng_sm_threads = NB_RNG_DEFAULT_SM_THREADS;
    NB_TRY(check_int("multiprocessors of the random generator", r->rng_sms, 1, NB_RNG_MAX_SMS));
    NB_TRY(check_int("threads of a multiprocessor", r->rng_sm_threads, 256, 4096));
    if (r->noise == NB_NOISE_BF16_8BIT && r->rng != NB_RNG_TORCH_CPU)
        return nb_fail(NB_E_USAGE, "noise bf16-8bit exists for the generator torch-cpu only");
    return NB_OK;
}

nb_status nb_txt2img_resolve(const nb_pipeline *p, nb_txt2img_request *r)
{
    const nb_pipeline_info *info = nb_pipeline_get_info(p);
    NB_TRY(resolve_size(info, r));
    if (!r->steps) r->steps = info->default_steps;
    NB_TRY(check_int("steps", r->steps, 1, NB_SCHEDULE_MAX_STEPS));
    if (r->guidance < 0) r->guidance = DEFAULT_GUIDANCE;
    NB_TRY(check_real("guidance", r->guidance, 0, MAX_GUIDANCE));
    if (r->true_cfg == 0) r->true_cfg = 1;
    NB_TRY(check_real("true CFG", r->true_cfg, 0, MAX_GUIDANCE));
    if (!r->t5_length) r->t5_length = info->default_t5_length;
    NB_TRY(check_int("T5 length", r->t5_length, 1, NB_MAX_T5_LENGTH));
    NB_TRY(resolve_batch(r));
    return resolve_noise(info, r);
}
