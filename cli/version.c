/*
 * nibble version: what this program is and what it was built with.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <gnu/libc-version.h>
#include <pcre2.h>
#include <png.h>
#include <utf8proc.h>

#include "cli/common.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

#if defined(__SANITIZE_ADDRESS__)
#define KIND "with sanitizers"
#elif defined(__OPTIMIZE__)
#define KIND "optimised"
#else
#define KIND "not optimised"
#endif

const char *nb_build(void)
{
    return COMPILER ", " KIND;
}

json_t *nb_libraries(void)
{
    char pcre2[64] = "";
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "glibc", gnu_get_libc_version(), "jansson",
                     jansson_version_str(), "libpng", png_get_libpng_ver(NULL), "pcre2", pcre2,
                     "utf8proc", utf8proc_version());
}

static nb_status run(void *values, const nb_parsed *parsed)
{
    const nb_common_options *common = values;
    const char *name;
    json_t *version, *libraries = nb_libraries();
    if (parsed->n_words)
        return nb_fail(NB_E_USAGE, "version: wanted no words, found %.60s", parsed->words[0]);
    if (common->json)
        return nb_print_json(json_pack("{s:s, s:s, s:o}", "version", NB_VERSION, "build",
                                       nb_build(), "libraries", libraries));
    printf("nibble %s\n%s\n", NB_VERSION, nb_build());
    json_object_foreach(libraries, name, version)
        printf("%s %s\n", name, json_string_value(version));
    json_decref(libraries);
    return NB_OK;
}

const nb_command nb_command_version = {
    .name = "version",
    .summary = "print the version, the build and the libraries",
    .usage = "",
    .examples = "nibble version\nnibble version --json\n",
    .groups = {NB_MESSAGE_GROUP},
    .bytes = sizeof(nb_common_options),
    .run = run,
};
