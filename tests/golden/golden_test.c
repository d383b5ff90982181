/*
 * golden_test CASE_DIR NIBBLE: does `nibble image --compute f32` give what diffusers gave?
 *
 * Runs the case (case.json, see make_flux.py) with --dump and -o, and compares
 *     each tensor of expected.safetensors   |a - b| <= 1e-4 of the expected tensor's range;
 *                                           sigmas 1e-6; noise and latents.0 bit for bit
 *     the pictures                          1/255 a channel, and all but 3 % of the channels
 *                                           equal: truncating instead of rounding stays
 *                                           within 1/255
 *     the prompt's token ids                exactly, by `nibble tokenize`
 * One line for each, with the error. Exit status 0 only if all are there and all agree.
 */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"
#include "models/safetensors.h"
#include "tests/golden/run.h"

static const double TOLERANCE = 1e-4, SIGMA_TOLERANCE = 1e-6, MAX_UNEQUAL = 0.03;

static int n_failures;

static void report(int ok, const char *name, const char *what)
{
    printf("%s %-24s %s\n", ok ? "ok  " : "FAIL", name, what);
    n_failures += !ok;
}

/* ---------------------------------------------------------------- tensors */

static char *shape_text(const nb_stored *t)
{
    char *text = run_text("%s [", nb_dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++) {
        char *longer = run_text("%s%s%lld", text, i > 0 ? "," : "", (long long)t->shape[i]);
        free(text);
        text = longer;
    }
    char *closed = run_text("%s]", text);
    free(text);
    return closed;
}

static int same_shape(const nb_stored *a, const nb_stored *b)
{
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof a->shape[0]) == 0;
}

/* Largest |got - want| (infinite where a NaN is involved), where it is, and the range of want.
 */
static double largest_error(const nb_stored *got, const nb_stored *want, double *range,
                            int64_t *where)
{
    double low = INFINITY, high = -INFINITY, worst = -1;
    for (int64_t i = 0; i < nb_stored_count(want); i++) {
        double w = nb_load_f32(want->dtype, want->data, i);
        double error = fabs(nb_load_f32(got->dtype, got->data, i) - w);
        if (!(error <= worst)) {
            worst = isnan(error) ? INFINITY : error;
            *where = i;
        }
        if (w < low) low = w;
        if (w > high) high = w;
    }
    *range = high - low;
    return worst;
}

static void compare_tensor(const nb_stored *got, const nb_stored *want)
{
    if (got == NULL) {
        report(0, want->name, "is not in the dump");
        return;
    }
    if (!same_shape(got, want)) {
        char *g = shape_text(got), *w = shape_text(want);
        char *what = run_text("is %s, wanted %s", g, w);
        report(0, want->name, what);
        free(what);
        free(w);
        free(g);
        return;
    }
    int exact = strcmp(want->name, "noise") == 0 || strcmp(want->name, "latents.0") == 0;
    double tolerance = strcmp(want->name, "sigmas") == 0 ? SIGMA_TOLERANCE : TOLERANCE;
    double range = 0;
    int64_t where = 0;
    double error = largest_error(got, want, &range, &where);
    int ok =
        exact ? memcmp(got->data, want->data, want->bytes) == 0 : error <= tolerance * range;
    char *what =
        run_text("error %.2e of range %.3g (%s %.0e), worst at %lld: %.9g, wanted %.9g",
                 error / range, range, exact ? "must be equal;" : "allowed", tolerance,
                 (long long)where, (double)nb_load_f32(got->dtype, got->data, where),
                 (double)nb_load_f32(want->dtype, want->data, where));
    report(ok, want->name, what);
    free(what);
}

static void compare_tensors(const char *got_path, const char *want_path)
{
    nb_safetensors *got = NULL, *want = NULL;
    if (nb_safetensors_open(want_path, &want) != NB_OK) run_die("%s", nb_error_message());
    if (nb_safetensors_open(got_path, &got) != NB_OK) {
        report(0, "dump", nb_error_message());
    } else {
        for (int64_t i = 0; i < nb_safetensors_n_tensors(want); i++) {
            const nb_stored *w = nb_safetensors_tensor(want, i);
            compare_tensor(nb_safetensors_find(got, w->name), w);
        }
        nb_safetensors_close(got);
    }
    nb_safetensors_close(want);
}

/* ---------------------------------------------------------------- pictures */

typedef struct picture {
    png_image header;
    png_bytep pixels; /* [height, width, 3]; NULL: cannot be read, header.message says why */
} picture;

static picture picture_read(const char *path)
{
    picture p = {.header = {.version = PNG_IMAGE_VERSION}, .pixels = NULL};
    if (!png_image_begin_read_from_file(&p.header, path)) return p;
    if (p.header.format & PNG_FORMAT_FLAG_ALPHA) run_die("%s: has an alpha channel", path);
    p.header.format = PNG_FORMAT_RGB;
    p.pixels = malloc(PNG_IMAGE_SIZE(p.header));
    if (p.pixels == NULL) run_die("out of memory");
    if (!png_image_finish_read(&p.header, NULL, p.pixels, 0, NULL)) {
        free(p.pixels);
        p.pixels = NULL;
    }
    return p;
}

static void compare_pixels(const char *name, const picture *got, const picture *want)
{
    size_t n = PNG_IMAGE_SIZE(want->header), unequal = 0;
    int worst = 0;
    for (size_t i = 0; i < n; i++) {
        int error = abs((int)got->pixels[i] - (int)want->pixels[i]);
        if (error > worst) worst = error;
        unequal += error != 0;
    }
    char *what = run_text("%ux%u, largest difference %d/255, %zu of %zu channels differ",
                          want->header.width, want->header.height, worst, unequal, n);
    report(worst <= 1 && (double)unequal <= MAX_UNEQUAL * (double)n, name, what);
    free(what);
}

static void compare_picture(const char *name, const char *got_path, const char *want_path)
{
    picture got = picture_read(got_path), want = picture_read(want_path);
    if (want.pixels == NULL) run_die("%s: %s", want_path, want.header.message);
    if (got.pixels == NULL) {
        report(0, name, got.header.message);
    } else if (got.header.width != want.header.width ||
               got.header.height != want.header.height) {
        char *what = run_text("is %ux%u, wanted %ux%u", got.header.width, got.header.height,
                              want.header.width, want.header.height);
        report(0, name, what);
        free(what);
    } else {
        compare_pixels(name, &got, &want);
    }
    free(got.pixels);
    free(want.pixels);
}

static int is_png(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 4 && strcmp(entry->d_name + n - 4, ".png") == 0;
}

/* Both folders' PNGs by name: the program numbers a batch from 0 or 1, that is not our
 * business. */
static void compare_pictures(const char *got_dir, const char *want_dir)
{
    struct dirent **got, **want;
    int n_got = scandir(got_dir, &got, is_png, alphasort);
    int n_want = scandir(want_dir, &want, is_png, alphasort);
    if (n_want < 1) run_die("%s: holds no PNG", want_dir);
    if (n_got != n_want) {
        char *what = run_text("%d written, wanted %d", n_got, n_want);
        report(0, "pictures", what);
        free(what);
    }
    for (int i = 0; i < n_got && i < n_want; i++) {
        char *g = run_text("%s/%s", got_dir, got[i]->d_name);
        char *w = run_text("%s/%s", want_dir, want[i]->d_name);
        compare_picture(want[i]->d_name, g, w);
        free(g);
        free(w);
    }
    for (int i = 0; i < n_got; i++) free(got[i]);
    for (int i = 0; i < n_want; i++) free(want[i]);
    if (n_got >= 0) free(got);
    free(want);
}

/* ---------------------------------------------------------------- token ids */

static int same_ids(const char *text, const json_t *ids)
{
    size_t n = 0;
    for (;; n++) {
        char *end;
        long long id = strtoll(text, &end, 10);
        if (end == text) break;
        if (n >= json_array_size(ids)) return 0;
        if (id != json_integer_value(json_array_get(ids, n))) return 0;
        text = end;
    }
    return n == json_array_size(ids) && text[strspn(text, " \t\r\n")] == '\0';
}

static void compare_ids(const char *nibble, const char *tokenizer, const char *prompt,
                        const char *temp, const char *name, const json_t *ids)
{
    if (!json_is_array(ids)) run_die("case.json: %s is not an array", name);
    char *out = run_text("%s/ids", temp);
    const char *argv[] = {nibble, "tokenize", "-m", tokenizer, "-p", prompt, NULL};
    int status = run_program(argv, NULL, out);
    char *text = run_read(out);
    text[strcspn(text, "\n")] = '\0';
    char *what = status != 0 ? run_text("nibble tokenize ended with %d", status)
                             : run_text("%zu ids: %.60s", json_array_size(ids), text);
    report(status == 0 && same_ids(text, ids), name, what);
    free(what);
    free(text);
    free(out);
}

/* ---------------------------------------------------------------- the case */

static const char *string_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    if (s == NULL) run_die("case.json: %s is not a string", key);
    return s;
}

/* argument with @CASE@ replaced by the case's folder. */
static char *expand(const char *argument, const char *case_dir)
{
    static const char mark[] = "@CASE@";
    const char *at = strstr(argument, mark);
    if (at == NULL) return run_text("%s", argument);
    return run_text("%.*s%s%s", (int)(at - argument), argument, case_dir, at + sizeof mark - 1);
}

/* model NULL: the parts are named in args. */
static void run_image(const char *nibble, const char *model, const json_t *args,
                      const char *case_dir, const char *temp)
{
    char *dump = run_text("%s/dump.safetensors", temp), *png = run_text("%s/%%04d.png", temp);
    const char *argv[RUN_MAX_ARGS] = {nibble,   "image", "--compute", "f32",
                                      "--dump", dump,    "-o",        png};
    size_t n = 8;
    if (model != NULL) argv[n++] = "-m";
    if (model != NULL) argv[n++] = model;
    size_t first = n, i;
    json_t *item;
    json_array_foreach(args, i, item)
    {
        if (n + 1 >= RUN_MAX_ARGS || !json_is_string(item)) run_die("case.json: bad args");
        argv[n++] = expand(json_string_value(item), case_dir);
    }
    int status = run_program(argv, NULL, NULL);
    char *what = run_text("ended with %d", status);
    report(status == 0, "nibble image", what);
    free(what);
    while (n > first) free((char *)argv[--n]);
    free(png);
    free(dump);
}

int main(int argc, char **argv)
{
    if (argc != 3) run_die("usage: golden_test CASE_DIR NIBBLE");
    const char *dir = argv[1], *nibble = argv[2];
    char *json_path = run_text("%s/case.json", dir), *temp = run_temp_folder();
    json_t *json = NULL;
    if (nb_json_load(json_path, &json) != NB_OK) run_die("%s", nb_error_message());
    const json_t *args = json_object_get(json, "args");
    if (!json_is_array(args) || json_array_size(args) < 2) run_die("case.json: no args");
    int whole = json_object_get(json, "model") != NULL;
    char *model = run_text("%s/%s", dir, string_of(json, whole ? "model" : "parts"));
    char *clip = run_text("%s/tokenizer", model), *t5 = run_text("%s/tokenizer_2", model);
    const char *prompt = json_string_value(json_array_get(args, 1));
    if (prompt == NULL || strcmp(json_string_value(json_array_get(args, 0)), "-p") != 0)
        run_die("case.json: args do not begin with -p PROMPT");

    compare_ids(nibble, clip, prompt, temp, "clip_ids", json_object_get(json, "clip_ids"));
    compare_ids(nibble, t5, prompt, temp, "t5_ids", json_object_get(json, "t5_ids"));
    run_image(nibble, whole ? model : NULL, args, dir, temp);
    char *dump = run_text("%s/dump.safetensors", temp);
    char *want = run_text("%s/expected.safetensors", dir);
    compare_tensors(dump, want);
    compare_pictures(temp, dir);
    printf("%s: %d failures\n", dir, n_failures);

    run_remove_folder(temp);
    free(want);
    free(dump);
    free(t5);
    free(clip);
    free(model);
    json_decref(json);
    free(temp);
    free(json_path);
    return n_failures == 0 ? 0 : 1;
}
