#include "cli/common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/cpu.h"
#include "kernels/base/file.h"
#include "models/locate.h"

#define AT(field) offsetof(nb_common_options, field)

const nb_option nb_message_options[NB_N_MESSAGE_OPTIONS] = {
    {.name = "quiet",
     .letter = 'q',
     .type = NB_OPTION_FLAG,
     .offset = AT(quiet),
     .help = "say nothing but errors and a random seed"},
    {.name = "verbose",
     .letter = 'v',
     .type = NB_OPTION_FLAG,
     .offset = AT(verbose),
     .help = "say which code ran and how long each stage took"},
    {.name = "json",
     .type = NB_OPTION_FLAG,
     .offset = AT(json),
     .help = "the result as one JSON value on stdout"},
    {.name = "log-format",
     .type = NB_OPTION_CHOICE,
     .value = "text|json",
     .offset = AT(log_format),
     .fallback = "text",
     .help = "the form of lines on stderr"},
};

/* In the order of the words of --compute; the others are those of nb_compute. */
enum { COMPUTE_AUTO };

const nb_option nb_machine_options[NB_N_MACHINE_OPTIONS] = {
    {.name = "device",
     .type = NB_OPTION_STRING,
     .value = "NAME",
     .offset = AT(device),
     .fallback = "cpu",
     .help = "where to compute: cpu"},
    {.name = "compute",
     .type = NB_OPTION_CHOICE,
     .value = "auto|f32|bf16|a8|a4",
     .offset = AT(compute),
     .fallback = "auto",
     .help = "precision of products. a8: bf16, but 8-bit integers in layers\n"
             "of FP8, FP4 and GGUF weights; a4: 4-bit activations, emulated,\n"
             "in layers of FP4 weights. auto: the fastest that keeps what\n"
             "the weights can draw: a8 for such a transformer where there\n"
             "is AVX-512 VNNI, else bf16 where there is AVX-512 BF16, else\n"
             "f32; -v says which and why"},
    {.name = "threads",
     .letter = 't',
     .type = NB_OPTION_INT,
     .value = "N",
     .min = 0,
     .max = 4096,
     .offset = AT(threads),
     .fallback = "0",
     .help = "0: one for each processor; the result is the same for any number"},
    {.name = "max-ram",
     .type = NB_OPTION_BYTES,
     .value = "BYTES",
     .min = 0,
     .max = 1e15,
     .offset = AT(max_ram),
     .help = "memory to use besides mapped weights, like 2G; pictures that\n"
             "need more are decoded in tiles"},
};

const char *nb_getenv(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* The demo of the checkout that this program was built in, or where NIBBLE_DEMO says. */
static nb_status locate_demo(char **out)
{
    const char *place = nb_getenv("NIBBLE_DEMO");
    char *path = place ? strdup(place) : nb_path_join(NB_DEMO_DIR, "flux");
    if (!path) return nb_fail(NB_E_SYSTEM, "out of memory");
    if (!nb_file_is_directory(path)) {
        nb_fail(NB_E_NOINPUT,
                "%s: the built-in demo is not there; name a model with --model, or its place "
                "with NIBBLE_DEMO",
                path);
        free(path);
        return NB_E_NOINPUT;
    }
    *out = path;
    return NB_OK;
}

nb_status nb_model_resolve(const char *model, char **out)
{
    if (!model || (!strcmp(model, "demo") && !nb_file_exists(model))) return locate_demo(out);
    if (!*model) return nb_fail(NB_E_USAGE, "--model: wanted a path or a name, found nothing");
    return nb_model_locate(model, nb_getenv, out);
}

nb_status nb_machine_open(const nb_common_options *common, nb_device **device)
{
    return nb_device_open(common->device, device);
}

nb_status nb_machine_compute(const nb_common_options *common, const nb_device *device,
                             const nb_pipeline *pipeline, nb_arithmetic *out)
{
    nb_arithmetic a = {.why = ""};
    if (common->compute != COMPUTE_AUTO)
        a.compute = (nb_compute)(common->compute - 1);
    else if (pipeline)
        NB_TRY(nb_arithmetic_of(pipeline, device, &a));
    else
        nb_arithmetic_choose(device, NULL, &a);
    nb_console_say(common->console, NB_LOG_DEBUG, "device %s, compute %s%s%s",
                   nb_device_name(device), nb_compute_name(a.compute),
                   *a.why ? " (auto): " : "", a.why);
    *out = a;
    return NB_OK;
}

nb_status nb_stdout_flush(void)
{
    int failed = ferror(stdout);
    errno = 0;
    if (fflush(stdout) == 0 && !failed) return NB_OK;
    return nb_fail(NB_E_IO, "stdout: cannot be written: %s",
                   errno ? strerror(errno) : "an earlier write failed");
}

/* jansson's integers end at 2^63, and larger seeds are negative ones in its text. There a quote
 * before a colon ends a key, for one inside a string has a backslash before it. */
static void put_json(const char *text)
{
    static const char key[] = "\"seed\":-";
    const char *at;
    while ((at = strstr(text, key)) != NULL) {
        char *end;
        long long seed = strtoll(at + strlen(key) - 1, &end, 10);
        printf("%.*s%llu", (int)(at + strlen(key) - 1 - text), text, (unsigned long long)seed);
        text = end;
    }
    puts(text);
}

nb_status nb_print_json(json_t *value)
{
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) return nb_fail(NB_E_SYSTEM, "out of memory for the JSON result");
    put_json(text);
    free(text);
    return nb_stdout_flush();
}
