/*
 * The noise levels of a picture: diffusers' FlowMatchEulerDiscreteScheduler, bit for bit in
 * F32. Esser et al. 2024 (shift of the noise level with the resolution).
 *
 *     s_i = linspace(1, 1/N, N)  ->  shift, static or by the number of image tokens  -> sigma_i
 *     sigma_N = 0;  x += (sigma_{i+1} - sigma_i) * v(x, t_i);  t_i = (1000 sigma_i) / 1000
 *
 * All in F32.
 */
#ifndef NB_PIPELINE_SCHEDULE_H
#define NB_PIPELINE_SCHEDULE_H

#include <jansson.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum { NB_SCHEDULE_MAX_STEPS = 1000 };

typedef enum nb_time_shift { NB_TIME_SHIFT_EXPONENTIAL, NB_TIME_SHIFT_LINEAR } nb_time_shift;

typedef struct nb_schedule_config {
    int64_t n_train; /* num_train_timesteps */
    double shift;    /* static: used when not dynamic */
    int dynamic;
    int64_t base_tokens, max_tokens; /* image tokens where mu is base_shift and max_shift */
    double base_shift, max_shift;
    nb_time_shift time_shift;
    double terminal; /* the last sigma before 0 is stretched to this; 0: as it is */
} nb_schedule_config;

/* Reads scheduler_config.json (already parsed; `path` names it in errors). Settings that would
 * change the sigmas in a way that is not implemented are E_DATA, by name. */
nb_status nb_schedule_config_read(const char *path, const json_t *json,
                                  nb_schedule_config *out) NB_MUST_CHECK;

/* mu of the dynamic shift for a picture of n_tokens image tokens. */
double nb_schedule_mu(const nb_schedule_config *config, int64_t n_tokens);

/* sigmas [n_steps + 1] and times [n_steps] (what the model sees). custom: NULL, or [n_steps]
 * that stand in place of linspace(1, 1/N, N) and still go through the shift. E_USAGE when the
 * sigmas would not be finite, as with one step and shift_terminal. */
nb_status nb_schedule_make(const nb_schedule_config *config, int n_steps, int64_t n_tokens,
                           const double *custom, float *sigmas, float *times) NB_MUST_CHECK;

#endif
