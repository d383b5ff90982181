#include "pipeline/latents.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/safetensors.h"
#include "pipeline/pixels.h"

/* ---- layouts ------------------------------------------------------------------------------
 */

/* Offset in the planes of channel (c, dy, dx) of token (row, column). */
static int64_t plane_offset(const nb_latent_shape *shape, int64_t row, int64_t column,
                            int64_t q)
{
    int64_t c = q / 4, y = 2 * row + q / 2 % 2, x = 2 * column + q % 2;
    return (c * 2 * shape->rows + y) * 2 * shape->columns + x;
}

void nb_latents_pack(float *packed, const float *planes, const nb_latent_shape *shape)
{
    for (int64_t row = 0; row < shape->rows; row++)
        for (int64_t column = 0; column < shape->columns; column++)
            for (int64_t q = 0; q < 4 * shape->channels; q++)
                *packed++ = planes[plane_offset(shape, row, column, q)];
}

void nb_latents_unpack(float *planes, const float *packed, const nb_latent_shape *shape)
{
    for (int64_t row = 0; row < shape->rows; row++)
        for (int64_t column = 0; column < shape->columns; column++)
            for (int64_t q = 0; q < 4 * shape->channels; q++)
                planes[plane_offset(shape, row, column, q)] = *packed++;
}

/* ---- where pictures start -----------------------------------------------------------------
 */

struct nb_start {
    nb_start_args args;
    int64_t count; /* values of a picture */
    float *packed; /* [count] */
    float *noise;  /* [count], or of all pictures for a CUDA generator */
    float *stored; /* packed, from a file: [n_stored, count] */
    int n_stored;  /* 1 or n_pictures */
    int next;      /* the generator has drawn the pictures before this one */
    nb_generator generator;
};

static nb_status no_memory(int64_t values)
{
    return nb_fail(NB_E_SYSTEM, "out of memory: %" PRId64 " latents asked for", values);
}

nb_status nb_latents_check(const float *latents, int64_t n, double *rms)
{
    double sum = 0;
    NB_TRY(nb_check_finite(latents, n, "latents"));
    for (int64_t i = 0; i < n; i++) sum += (double)latents[i] * (double)latents[i];
    *rms = sqrt(sum / (double)(n > 0 ? n : 1));
    return NB_OK;
}

static void seed_generator(nb_start *s, uint64_t seed)
{
    nb_generator_init(&s->generator, s->args.rng, seed);
    s->generator.sms = s->args.sms;
    s->generator.sm_threads = s->args.sm_threads;
}

/* Values of a CUDA draw depend on its size, so a batch of one generator is drawn at once; on
 * the CPU one draw after the other gives the same. */
static int drawn_at_once(const nb_start_args *args)
{
    return args->rng == NB_RNG_TORCH_CUDA && !args->seed_step;
}

static nb_status prepare_noise(nb_start *s)
{
    int64_t n = drawn_at_once(&s->args) ? s->count * s->args.n_pictures : s->count;
    s->noise = calloc((size_t)n, sizeof *s->noise);
    if (!s->noise) return no_memory(n);
    seed_generator(s, s->args.seed);
    if (!drawn_at_once(&s->args)) return NB_OK;
    return nb_generator_randn(&s->generator, s->args.noise, s->noise, n);
}

static int has_shape(const nb_stored *t, int rank, const int64_t *shape)
{
    return t->rank == rank &&
           memcmp(t->shape + 1, shape, (size_t)(rank - 1) * sizeof *shape) == 0;
}

static int is_float(nb_dtype dtype)
{
    return dtype == NB_DTYPE_F32 || dtype == NB_DTYPE_F16 || dtype == NB_DTYPE_BF16 ||
           dtype == NB_DTYPE_F64;
}

static nb_status wrong_shape(const nb_stored *t, const nb_start_args *args)
{
    const nb_latent_shape *shape = &args->shape;
    char found[NB_SHAPE_TEXT_BYTES];
    return nb_fail(NB_E_DATA,
                   "%s: latents: wanted floats of shape [1, %" PRId64 ", %" PRId64
                   "] or [1, %" PRId64 ", %" PRId64 ", %" PRId64
                   "] (or %d for the 1), found %s %s",
                   t->file, shape->rows * shape->columns, 4 * shape->channels, shape->channels,
                   2 * shape->rows, 2 * shape->columns, args->n_pictures,
                   nb_dtype_name(t->dtype), nb_shape_text(t->rank, t->shape, found));
}

static nb_status take_stored(nb_start *s, const nb_stored *t)
{
    const nb_latent_shape *shape = &s->args.shape;
    const int64_t packed[] = {shape->rows * shape->columns, 4 * shape->channels};
    const int64_t planes[] = {shape->channels, 2 * shape->rows, 2 * shape->columns};
    int is_packed = has_shape(t, 3, packed);
    if (!is_float(t->dtype) || (!is_packed && !has_shape(t, 4, planes)) ||
        (t->shape[0] != 1 && t->shape[0] != s->args.n_pictures))
        return wrong_shape(t, &s->args);
    s->n_stored = (int)t->shape[0];
    s->stored = calloc((size_t)(s->count * s->n_stored), sizeof *s->stored);
    if (!s->stored) return no_memory(s->count * s->n_stored);
    for (int i = 0; i < s->n_stored; i++) {
        float *to = s->stored + s->count * i, *from = is_packed ? to : s->packed;
        for (int64_t j = 0; j < s->count; j++)
            from[j] = nb_load_f32(t->dtype, t->data, s->count * i + j);
        if (!is_packed) nb_latents_pack(to, from, shape);
    }
    nb_status status = nb_check_finite(s->stored, s->count * s->n_stored, "latents");
    if (status) return nb_fail_context(status, "%s", t->file);
    return NB_OK;
}

static nb_status load_stored(nb_start *s)
{
    nb_safetensors *file;
    NB_TRY(nb_safetensors_open(s->args.path, &file));
    const nb_stored *t = nb_safetensors_find(file, "latents");
    nb_status status =
        t ? take_stored(s, t) : nb_fail(NB_E_DATA, "%s: has no tensor `latents`", s->args.path);
    nb_safetensors_close(file);
    return status;
}

nb_status nb_start_create(const nb_start_args *args, nb_start **out)
{
    nb_start *s = calloc(1, sizeof *s);
    if (!s) return no_memory(0);
    s->args = *args;
    s->count = nb_latent_count(&args->shape);
    s->packed = calloc((size_t)s->count, sizeof *s->packed);
    nb_status status = !s->packed   ? no_memory(s->count)
                       : args->path ? load_stored(s)
                                    : prepare_noise(s);
    if (status) {
        nb_start_destroy(s);
        return status;
    }
    *out = s;
    return NB_OK;
}

void nb_start_destroy(nb_start *s)
{
    if (!s) return;
    free(s->packed);
    free(s->noise);
    free(s->stored);
    free(s);
}

static nb_status draw_picture(nb_start *s, int index)
{
    for (; s->next <= index; s->next++) {
        if (s->args.seed_step) {
            if (s->next < index) continue;
            seed_generator(s, s->args.seed + (uint64_t)index);
        }
        NB_TRY(nb_generator_randn(&s->generator, s->args.noise, s->noise, s->count));
    }
    return NB_OK;
}

nb_status nb_start_get(nb_start *s, int index, nb_start_point *out)
{
    assert(index >= s->next && index < s->args.n_pictures);
    *out = (nb_start_point){
        .seed = s->args.seed_step ? s->args.seed + (uint64_t)index : s->args.seed,
        .draw = s->args.seed_step ? 0 : index,
    };
    if (s->stored) {
        out->packed = s->stored + (s->n_stored > 1 ? s->count * index : 0);
        return NB_OK;
    }
    out->noise = s->noise;
    if (drawn_at_once(&s->args))
        out->noise += s->count * index;
    else
        NB_TRY(draw_picture(s, index));
    nb_latents_pack(s->packed, out->noise, &s->args.shape);
    out->packed = s->packed;
    return NB_OK;
}
