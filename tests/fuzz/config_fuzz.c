/*
 * The readers of configs: whatever the JSON, each refuses with a sentence that names the file,
 * or gives numbers that nothing behind it has to doubt.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/vae.h"
#include "pipeline/schedule.h"
#include "tests/fuzz/target.h"

enum { MOST = 1 << 24 }; /* no size of a config is larger, so that products of two fit */

static void must(int condition)
{
    if (!condition) abort();
}

static int size_is_sane(int64_t size)
{
    return size >= 1 && size <= MOST;
}

static int refused(nb_status status)
{
    if (!status) return 0;
    must(status == NB_E_DATA && strncmp(nb_error_message(), "input: ", 7) == 0);
    return 1;
}

static void read_flux(const json_t *json)
{
    nb_flux_config c;
    if (refused(nb_flux_config_read("input", json, &c))) return;
    must(size_is_sane(c.in_channels) && size_is_sane(c.out_channels));
    must(size_is_sane(c.n_heads) && size_is_sane(c.head_dim));
    must(size_is_sane(c.text_dim) && size_is_sane(c.pooled_dim));
    must(c.n_double >= 0 && c.n_double <= MOST && c.n_single >= 0 && c.n_single <= MOST);
    must(c.axes[0] + c.axes[1] + c.axes[2] == c.head_dim);
}

static void read_t5(const json_t *json)
{
    nb_t5_config c;
    if (refused(nb_t5_config_read("input", json, &c))) return;
    must(size_is_sane(c.vocab) && size_is_sane(c.d_model) && size_is_sane(c.d_ff));
    must(size_is_sane(c.d_kv) && size_is_sane(c.n_heads) && size_is_sane(c.n_layers));
    must(size_is_sane(c.n_buckets) && size_is_sane(c.max_distance) && c.eps >= 0);
}

static void read_clip(const json_t *json)
{
    nb_clip_config c;
    if (refused(nb_clip_config_read("input", json, &c))) return;
    must(size_is_sane(c.vocab) && size_is_sane(c.d_model) && size_is_sane(c.d_ff));
    must(size_is_sane(c.n_heads) && size_is_sane(c.n_layers) && c.d_model % c.n_heads == 0);
    must(size_is_sane(c.max_positions) && c.eps >= 0);
}

static void read_vae(const json_t *json)
{
    nb_vae_config c;
    if (refused(nb_vae_config_read("input", json, &c))) return;
    must(c.n_levels >= 1 && c.n_levels <= NB_VAE_MAX_LEVELS && c.groups >= 1);
    for (int i = 0; i < c.n_levels; i++)
        must(size_is_sane(c.channels[i]) && c.channels[i] % c.groups == 0);
    must(size_is_sane(c.latent_channels) && size_is_sane(c.out_channels));
    must(isfinite(c.scaling) && c.scaling != 0 && isfinite(c.shift));
    must(nb_vae_config_factor(&c) == (int64_t)1 << (c.n_levels - 1));
}

static void read_schedule(const json_t *json)
{
    nb_schedule_config c;
    float sigmas[5], times[4];
    if (refused(nb_schedule_config_read("input", json, &c))) return;
    if (nb_schedule_make(&c, 4, 1024, NULL, sigmas, times)) return;
    for (int i = 0; i < 4; i++) must(isfinite(sigmas[i]) && isfinite(times[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json;
    if (nb_json_parse("input", (const char *)data, size, &json)) return 0;
    if (json_is_object(json)) {
        read_flux(json);
        read_t5(json);
        read_clip(json);
        read_vae(json);
        read_schedule(json);
    }
    json_decref(json);
    return 0;
}
