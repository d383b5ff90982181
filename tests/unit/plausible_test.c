/*
 * Weights whose rows and columns differ in size, as trained ones do, quantised and then spoilt:
 * every wrong reading is refused, random weights and right readings are not.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/file.h"
#include "models/bind.h"
#include "models/packed.h"
#include "models/plausible.h"
#include "models/quantize.h"
#include "tests/unit/scratch.h"

enum { WIDE = 512, NARROW = 256, N_BLOCKS = 2, N_MATRICES = 2 * N_BLOCKS };

static uint64_t random_state;

/* About normal: a sum of four uniform numbers. */
static float draw(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(random_state >> 40) * 0x1p-24f - 0.5f;
    }
    return sum;
}

/* Feed-forwards whose hidden units have sizes of their own, or none. */
static void write_weights(const char *path, int is_trained)
{
    static float data[N_MATRICES][WIDE * NARROW];
    static char names[N_MATRICES][64];
    nb_stored t[N_MATRICES];
    random_state = 7;
    for (int i = 0; i < N_BLOCKS; i++) {
        float unit[WIDE], channel[NARROW], *up = data[2 * i], *down = data[2 * i + 1];
        for (int j = 0; j < WIDE; j++) unit[j] = is_trained ? expf(draw()) : 1;
        for (int j = 0; j < NARROW; j++) channel[j] = is_trained ? expf(draw()) : 1;
        for (int j = 0; j < WIDE; j++)
            for (int k = 0; k < NARROW; k++) {
                up[j * NARROW + k] = unit[j] * channel[k] * draw();
                down[k * WIDE + j] = unit[j] * channel[k] * draw();
            }
        snprintf(names[2 * i], 64, "transformer_blocks.%d.ff.net.0.proj.weight", i);
        snprintf(names[2 * i + 1], 64, "transformer_blocks.%d.ff.net.2.weight", i);
    }
    for (int i = 0; i < N_MATRICES; i++)
        t[i] = (nb_stored){.name = names[i],
                           .dtype = NB_DTYPE_F32,
                           .rank = 2,
                           .shape = {i % 2 ? NARROW : WIDE, i % 2 ? WIDE : NARROW},
                           .data = data[i],
                           .bytes = sizeof data[i]};
    assert_ok(nb_safetensors_write(path, t, N_MATRICES, NULL));
}

static nb_status convert(const char *in, const char *out, nb_quant_format format,
                         nb_fp4_rule dialect)
{
    nb_device *device;
    nb_stream *s;
    nb_quantize_result result;
    nb_quantize_args args = {.input = in, .output = out};
    args.target.format = format;
    args.target.dialect = dialect;
    assert_ok(nb_device_open("cpu", &device));
    assert_ok(nb_stream_create(device, NB_COMPUTE_F32, 1, NULL, &s));
    nb_status status = nb_quantize(s, &args, &result);
    nb_stream_destroy(s);
    nb_device_close(device);
    return status;
}

static const char *quantized(void **state, int is_trained, nb_quant_format format,
                             nb_fp4_rule dialect)
{
    const char *in = scratch_path(state, "in.safetensors");
    const char *out = scratch_path(state, "out.safetensors");
    write_weights(in, is_trained);
    assert_ok(convert(in, out, format, dialect));
    return out;
}

typedef void change_fn(const nb_packed *p, uint8_t *codes, uint8_t *scales);

static void swap_halves(const nb_packed *p, uint8_t *codes, uint8_t *scales)
{
    (void)scales;
    for (int64_t i = 0; i < p->n * p->k / 2; i++)
        codes[i] = (uint8_t)(codes[i] << 4 | codes[i] >> 4);
}

/* From tiles to rows, or from rows to tiles. */
static void reorder_scales(const nb_packed *p, uint8_t *codes, uint8_t *scales)
{
    static uint8_t from[WIDE * NARROW / 16];
    int64_t columns = p->k / 16;
    (void)codes;
    memcpy(from, scales, (size_t)(p->n * columns));
    for (int64_t row = 0; row < p->n; row++)
        for (int64_t i = 0; i < columns; i++) {
            int64_t plain = row * columns + i, tiled = nb_tiled_place(row, i, columns);
            scales[p->is_tiled ? plain : tiled] = from[p->is_tiled ? tiled : plain];
        }
}

/* The file with every matrix changed, under another name. */
static const char *changed(void **state, const char *path, change_fn *change)
{
    const char *out = scratch_path(state, "changed.safetensors");
    nb_checkpoint *c;
    assert_ok(nb_checkpoint_open(path, &c));
    const nb_buffer *file = nb_container_buffer(nb_checkpoint_file(c, 0));
    const uint8_t *start = nb_buffer_data(file);
    uint8_t *copy = malloc(nb_buffer_bytes(file));
    assert_non_null(copy);
    memcpy(copy, start, nb_buffer_bytes(file));
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        nb_packed p;
        if (t->dtype != NB_DTYPE_U8 || t->bytes < WIDE * NARROW / 2) continue;
        assert_ok(nb_packed_find(c, t, 0, &p));
        change(&p, copy + ((const uint8_t *)t->data - start),
               copy + ((const uint8_t *)p.scales->data - start));
    }
    scratch_write(out, copy, nb_buffer_bytes(file));
    free(copy);
    nb_checkpoint_close(c);
    return out;
}

/* Binds one of the file's matrices, as a model does. */
static nb_status bind(const char *path, nb_plausibility *measured)
{
    nb_checkpoint *c;
    nb_binder b = {.status = NB_OK};
    assert_ok(nb_checkpoint_open(path, &c));
    assert_ok(nb_plausible_measure(c, measured));
    assert_ok(nb_arena_create(&b.arena));
    b.checkpoint = c;
    (void)nb_bind_weight(&b, NARROW, WIDE, "transformer_blocks.1.ff.net.2.weight");
    nb_arena_destroy(b.arena);
    nb_checkpoint_close(c);
    return b.status;
}

/* To compute with and to convert. */
static void refuses(void **state, const char *path, const char *part)
{
    nb_plausibility p;
    if (bind(path, &p) != NB_E_DATA)
        fail_msg("%s: scales %g, halves %g: wanted a refusal", path, p.scales, p.halves);
    if (!strstr(nb_error_message(), part) || !strstr(nb_error_message(), path))
        fail_msg("wanted %s and %s in: %s", path, part, nb_error_message());
    const char *out = scratch_path(state, "converted.safetensors");
    assert_fails(convert(path, out, NB_QUANT_BF16, NB_FP4_MODELOPT), NB_E_DATA, part);
    assert_false(nb_file_exists(out));
}

static void refuses_wrong_readings(void **state)
{
    static const nb_fp4_rule dialects[] = {NB_FP4_MODELOPT, NB_FP4_COMFY,
                                           NB_FP4_COMPRESSED_TENSORS};
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++) {
        int is_comfy = dialects[i] == NB_FP4_COMFY;
        nb_plausibility p;
        const char *path = quantized(state, 1, NB_QUANT_NVFP4, dialects[i]);
        assert_ok(bind(path, &p));
        assert_true(p.scales > NB_IMPLAUSIBLE && p.halves > NB_IMPLAUSIBLE);
        assert_true(p.n_scales == N_MATRICES && p.n_pairs == N_BLOCKS);
        refuses(state, changed(state, path, swap_halves),
                is_comfy ? "even column in the high half" : "even column in the low half");
        refuses(state, changed(state, path, reorder_scales),
                is_comfy ? "wanted scales in tiles" : "wanted scales row by row");
    }
}

static void refuses_swapped_mxfp4(void **state)
{
    nb_plausibility p;
    const char *path = quantized(state, 1, NB_QUANT_MXFP4, NB_FP4_MODELOPT);
    assert_ok(bind(path, &p));
    assert_true(p.halves > NB_IMPLAUSIBLE && p.n_scales == 0);
    refuses(state, changed(state, path, swap_halves), "even column in the low half");
}

/* Without traces there is no evidence, whichever way the file is read. */
static void takes_random_weights(void **state)
{
    nb_plausibility p;
    const char *path = quantized(state, 0, NB_QUANT_NVFP4, NB_FP4_MODELOPT);
    assert_ok(bind(path, &p));
    assert_true(fabs(p.scales) < 5 && fabs(p.halves) < 5);
    const char *spoilt = changed(state, path, swap_halves);
    assert_ok(bind(spoilt, &p));
    assert_ok(convert(spoilt, scratch_path(state, "converted.safetensors"), NB_QUANT_BF16,
                      NB_FP4_MODELOPT));
    assert_ok(bind(changed(state, path, reorder_scales), &p));
    assert_true(fabs(p.scales) < 5 && fabs(p.halves) < 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refuses_wrong_readings, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(refuses_swapped_mxfp4, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(takes_random_weights, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
