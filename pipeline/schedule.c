/*
 * Sigmas as diffusers computes them: numpy works in F32 on the array, and a Python float that
 * meets it is rounded to F32 first, so every product below is an F32 product and every literal
 * is rounded where it enters. mu and the base sigmas are Python floats: F64.
 */
#include "pipeline/schedule.h"

#include <math.h>
#include <string.h>

#include "kernels/base/json.h"

/* Settings that would give other sigmas or other steps; all of them are off for FLUX.1. */
static nb_status refuse_unsupported(const char *path, const json_t *json)
{
    static const char *const keys[] = {"invert_sigmas",          "use_karras_sigmas",
                                       "use_exponential_sigmas", "use_beta_sigmas",
                                       "stochastic_sampling",    "use_flow_sigmas"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int on;
        NB_TRY(nb_json_get_bool(path, json, keys[i], 0, &on));
        if (on)
            return nb_fail(NB_E_DATA, "%s: %s: wanted false, found true: not implemented", path,
                           keys[i]);
    }
    return NB_OK;
}

static nb_status check_class(const char *path, const json_t *json)
{
    static const char wanted[] = "FlowMatchEulerDiscreteScheduler";
    const char *name;
    NB_TRY(nb_json_get_string(path, json, "_class_name", wanted, &name));
    if (strcmp(name, wanted) != 0)
        return nb_fail(NB_E_DATA, "%s: _class_name: wanted %s, found %s", path, wanted, name);
    return NB_OK;
}

static nb_status read_time_shift(const char *path, const json_t *json, nb_time_shift *out)
{
    const char *name;
    NB_TRY(nb_json_get_string(path, json, "time_shift_type", "exponential", &name));
    if (strcmp(name, "exponential") != 0 && strcmp(name, "linear") != 0)
        return nb_fail(NB_E_DATA, "%s: time_shift_type: wanted exponential or linear, found %s",
                       path, name);
    *out = name[0] == 'e' ? NB_TIME_SHIFT_EXPONENTIAL : NB_TIME_SHIFT_LINEAR;
    return NB_OK;
}

nb_status nb_schedule_config_read(const char *path, const json_t *json, nb_schedule_config *out)
{
    nb_schedule_config c;
    NB_TRY(check_class(path, json));
    NB_TRY(refuse_unsupported(path, json));
    NB_TRY(nb_json_get_int(path, json, "num_train_timesteps", 1000, 1, 1000000, &c.n_train));
    NB_TRY(nb_json_get_real(path, json, "shift", 1.0, 1e-6, 1e6, &c.shift));
    NB_TRY(nb_json_get_bool(path, json, "use_dynamic_shifting", 0, &c.dynamic));
    NB_TRY(nb_json_get_int(path, json, "base_image_seq_len", 256, 1, 1 << 30, &c.base_tokens));
    NB_TRY(nb_json_get_int(path, json, "max_image_seq_len", 4096, 1, 1 << 30, &c.max_tokens));
    NB_TRY(nb_json_get_real(path, json, "base_shift", 0.5, -100, 100, &c.base_shift));
    NB_TRY(nb_json_get_real(path, json, "max_shift", 1.15, -100, 100, &c.max_shift));
    NB_TRY(read_time_shift(path, json, &c.time_shift));
    NB_TRY(nb_json_get_real(path, json, "shift_terminal", 0, 0, 0.999, &c.terminal));
    if (c.base_tokens == c.max_tokens)
        return nb_fail(NB_E_DATA, "%s: base_image_seq_len and max_image_seq_len are both %lld",
                       path, (long long)c.base_tokens);
    *out = c;
    return NB_OK;
}

double nb_schedule_mu(const nb_schedule_config *config, int64_t n_tokens)
{
    double slope = (config->max_shift - config->base_shift) /
                   (double)(config->max_tokens - config->base_tokens);
    double offset = config->base_shift - slope * (double)config->base_tokens;
    return (double)n_tokens * slope + offset;
}

/* numpy's linspace(1, 1/N, N): the last value is set, not computed. */
static double base_sigma(int i, int n)
{
    double last = 1.0 / n;
    if (n == 1) return 1.0;
    return i == n - 1 ? last : i * ((last - 1.0) / (n - 1)) + 1.0;
}

static float shifted(const nb_schedule_config *config, double mu, float s)
{
    if (!config->dynamic) {
        float shift = (float)config->shift, more = (float)(config->shift - 1.0);
        return shift * s / (1.0f + more * s);
    }
    float m = (float)(config->time_shift == NB_TIME_SHIFT_EXPONENTIAL ? exp(mu) : mu);
    return m / (m + (1.0f / s - 1.0f));
}

static void stretch_to_terminal(float *sigmas, int n, double terminal)
{
    float scale = (1.0f - sigmas[n - 1]) / (float)(1.0 - terminal);
    for (int i = 0; i < n; i++) sigmas[i] = 1.0f - (1.0f - sigmas[i]) / scale;
}

nb_status nb_schedule_make(const nb_schedule_config *config, int n_steps, int64_t n_tokens,
                           const double *custom, float *sigmas, float *times)
{
    double mu = nb_schedule_mu(config, n_tokens);
    for (int i = 0; i < n_steps; i++) {
        double s = custom ? custom[i] : base_sigma(i, n_steps);
        sigmas[i] = shifted(config, mu, (float)s);
    }
    if (config->terminal > 0) stretch_to_terminal(sigmas, n_steps, config->terminal);
    sigmas[n_steps] = 0;
    float n_train = (float)config->n_train;
    for (int i = 0; i < n_steps; i++) {
        if (!isfinite(sigmas[i]))
            return nb_fail(NB_E_USAGE,
                           "the schedule has no noise level for step %d of %d and %lld tokens"
                           "%s",
                           i, n_steps, (long long)n_tokens,
                           config->terminal > 0 ? " (shift_terminal wants 2 steps or more)"
                                                : "");
        times[i] = sigmas[i] * n_train / 1000.0f;
    }
    return NB_OK;
}
