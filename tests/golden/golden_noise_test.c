/*
 * golden_noise_test GOLDEN_DIR: torch's noise of noise.safetensors and diffusers' sigmas of
 * schedule.json (see make_noise.py). The CPU's fields and the sigmas must be met bit for bit,
 * CUDA's within 1e-5.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"
#include "models/safetensors.h"
#include "pipeline/noise.h"
#include "pipeline/schedule.h"
#include "tests/golden/run.h"

static const double CUDA_TOLERANCE = 1e-5;

/* A tensor's name, KIND.SEED.N or KIND.SEED.N+M; KIND is a noise type or cuda-SMS[xTHREADS]. */
typedef struct draw {
    nb_noise_dtype dtype;
    nb_rng_kind rng;
    int sms, sm_threads;
    uint64_t seed;
    int64_t n[2];
} draw;

static draw draw_from_name(const char *name)
{
    draw d = {.rng = NB_RNG_TORCH_CPU, .sm_threads = 2048};
    char kind[16];
    unsigned long long seed;
    long long n[2] = {0, 0};
    if (sscanf(name, "%15[^.].%llu.%lld+%lld", kind, &seed, &n[0], &n[1]) < 3)
        run_die("noise.safetensors: bad name %s", name);
    d.seed = seed;
    d.n[0] = n[0];
    d.n[1] = n[1];
    d.dtype = nb_noise_from_name(kind);
    if (sscanf(kind, "cuda-%dx%d", &d.sms, &d.sm_threads) >= 1) {
        d.rng = NB_RNG_TORCH_CUDA;
        d.dtype = NB_NOISE_F32;
    }
    if (d.dtype == NB_NOISE_COUNT) run_die("noise.safetensors: bad kind %s", name);
    return d;
}

/* All values that are asked for, one draw after the other from one generator. */
static float *drawn(const draw *d, int64_t count)
{
    float *values = malloc((size_t)count * sizeof *values);
    if (values == NULL || d->n[0] + d->n[1] != count) run_die("a draw of another length");
    nb_generator g;
    nb_generator_init(&g, d->rng, d->seed);
    if (d->rng == NB_RNG_TORCH_CUDA) {
        g.sms = d->sms;
        g.sm_threads = d->sm_threads;
    }
    for (int i = 0, at = 0; i < 2 && d->n[i] > 0; at += (int)d->n[i++])
        if (nb_generator_randn(&g, d->dtype, values + at, d->n[i]) != NB_OK)
            run_die("%s", nb_error_message());
    return values;
}

static int check_noise(const nb_stored *want)
{
    draw d = draw_from_name(want->name);
    int64_t count = nb_stored_count(want);
    float *got = drawn(&d, count);
    double worst = 0;
    int64_t n_unequal = 0;
    for (int64_t i = 0; i < count; i++) {
        float w = nb_load_f32(want->dtype, want->data, i);
        n_unequal += nb_f32_bits(got[i]) != nb_f32_bits(w);
        worst = fmax(worst, isfinite(got[i]) ? fabs((double)got[i] - (double)w) : INFINITY);
    }
    free(got);
    int ok = d.rng == NB_RNG_TORCH_CUDA ? worst <= CUDA_TOLERANCE : n_unequal == 0;
    if (!ok)
        printf("FAIL %s: %lld of %lld values differ, at most by %.3g\n", want->name,
               (long long)n_unequal, (long long)count, worst);
    return !ok;
}

static int check_schedule(const json_t *row)
{
    static const char path[] = "schedule.json";
    nb_schedule_config config;
    int64_t steps, tokens;
    if (nb_schedule_config_read(path, json_object_get(row, "config"), &config) != NB_OK ||
        nb_json_get_int(path, row, "steps", 0, 1, NB_SCHEDULE_MAX_STEPS, &steps) != NB_OK ||
        nb_json_get_int(path, row, "seq_len", 0, 1, 1 << 20, &tokens) != NB_OK)
        run_die("%s", nb_error_message());
    float sigmas[NB_SCHEDULE_MAX_STEPS + 1], times[NB_SCHEDULE_MAX_STEPS];
    if (nb_schedule_make(&config, (int)steps, tokens, NULL, sigmas, times) != NB_OK)
        run_die("%s", nb_error_message());
    const json_t *want = json_object_get(row, "sigmas");
    if (json_array_size(want) != (size_t)steps + 1) run_die("schedule.json: a row's length");
    for (size_t i = 0; i <= (size_t)steps; i++) {
        double w = json_number_value(json_array_get(want, i));
        if ((double)sigmas[i] == w) continue;
        printf("FAIL sigma %zu of %lld steps, %lld tokens: %.9g, wanted %.9g\n", i,
               (long long)steps, (long long)tokens, (double)sigmas[i], w);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) run_die("usage: golden_noise_test GOLDEN_DIR");
    char *noise_path = run_text("%s/noise.safetensors", argv[1]);
    char *schedule_path = run_text("%s/schedule.json", argv[1]);
    nb_safetensors *noise = NULL;
    json_t *schedule = NULL;
    if (nb_safetensors_open(noise_path, &noise) != NB_OK ||
        nb_json_load(schedule_path, &schedule) != NB_OK)
        run_die("%s", nb_error_message());

    int n_wrong = 0;
    for (int64_t i = 0; i < nb_safetensors_n_tensors(noise); i++)
        n_wrong += check_noise(nb_safetensors_tensor(noise, i));
    size_t i;
    json_t *row;
    json_array_foreach(schedule, i, row) n_wrong += check_schedule(row);
    printf("%lld draws and %zu schedules, %d wrong\n",
           (long long)nb_safetensors_n_tensors(noise), json_array_size(schedule), n_wrong);

    nb_safetensors_close(noise);
    json_decref(schedule);
    free(schedule_path);
    free(noise_path);
    return n_wrong == 0 ? 0 : 1;
}
