#include "pipeline/pixels.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/base/log.h"

nb_status nb_check_finite(const float *x, int64_t n, const char *what)
{
    int64_t n_bad = 0;
    for (int64_t i = 0; i < n; i++) n_bad += !isfinite(x[i]);
    if (!n_bad) return NB_OK;
    return nb_fail(NB_E_DATA, "%" PRId64 " of %" PRId64 " %s are not finite", n_bad, n, what);
}

int nb_is_one_colour(const uint8_t *rgb, int64_t n)
{
    return memcmp(rgb, rgb + 3, (size_t)(3 * (n - 1))) == 0;
}

static nb_status choose_tiling(const nb_decode_args *a, int *tiled)
{
    size_t limit = a->max_memory, whole = nb_vae_decode_bytes(a->vae, a->rows, a->columns, 0);
    int64_t factor = nb_vae_config_factor(nb_vae_get_config(a->vae));
    if (!limit || whole <= limit || *tiled) return NB_OK;
    size_t tiles = nb_vae_decode_bytes(a->vae, a->rows, a->columns, 1);
    if (tiles > limit || tiles >= whole)
        return nb_fail(NB_E_USAGE,
                       "decoding %" PRId64 "x%" PRId64 " pixels takes %zu MB, %zu MB in tiles, "
                       "but the limit is %zu MB",
                       factor * a->columns, factor * a->rows, whole >> 20, tiles >> 20,
                       limit >> 20);
    nb_log(NB_LOG_WARN,
           "decoding in tiles, to stay below %zu MB: pixels differ from an untiled decode's",
           limit >> 20);
    *tiled = 1;
    return NB_OK;
}

static nb_status decode(const nb_decode_args *a, nb_stream *s, const float *latents,
                        float *planes, int tiled)
{
    const nb_vae_config *config = nb_vae_get_config(a->vae);
    int64_t factor = nb_vae_config_factor(config);
    nb_tensor from = nb_stream_tensor(s, NB_DTYPE_F32, 3,
                                      NB_SHAPE(config->latent_channels, a->rows, a->columns));
    nb_tensor image = nb_stream_tensor(s, NB_DTYPE_F32, 3,
                                       NB_SHAPE(3, factor * a->rows, factor * a->columns));
    nb_stream_upload(s, from, latents);
    NB_TRY(nb_stream_sync(s));
    if (tiled)
        nb_vae_decode_tiled(a->vae, s, image, from);
    else
        nb_vae_decode(a->vae, s, image, from);
    nb_stream_download(s, planes, image);
    return nb_stream_sync(s);
}

nb_status nb_decode_pixels(const nb_decode_args *a, nb_stream *s, const float *latents,
                           float *planes, int *tiled)
{
    int64_t factor = nb_vae_config_factor(nb_vae_get_config(a->vae));
    int64_t n = 3 * factor * a->rows * factor * a->columns;
    NB_TRY(choose_tiling(a, tiled));
    nb_arena_mark mark = nb_arena_save(s->arena);
    nb_status status = decode(a, s, latents, planes, *tiled);
    nb_arena_rewind(s->arena, mark);
    nb_arena_trim(s->arena);
    if (status) return status;
    NB_TRY(nb_check_finite(planes, n, "values of the picture"));
    for (int64_t i = 0; i < n; i++) {
        float y = planes[i] * 0.5f + 0.5f;
        planes[i] = y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
    }
    return NB_OK;
}
