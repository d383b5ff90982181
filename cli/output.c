#include "cli/output.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text/utf8.h"

int nb_output_is_stdout(const nb_output *output)
{
    return !strcmp(output->pattern, "-");
}

/* Bytes of a %d or %04d at `text`, and its width; 0 if there is none. */
static size_t number_at(const char *text, int *width)
{
    size_t n = 1;
    *width = 0;
    if (text[0] != '%') return 0;
    for (; isdigit((unsigned char)text[n]) && n < 4; n++)
        *width = *width * 10 + (text[n] - '0');
    return text[n] == 'd' ? n + 1 : 0;
}

static int has_number(const char *pattern)
{
    int width;
    for (; *pattern; pattern++)
        if (number_at(pattern, &width)) return 1;
    return 0;
}

/* Where "-0001" goes: before the extension of the last part. */
static const char *stem_end(const char *pattern)
{
    const char *slash = strrchr(pattern, '/'), *name = slash ? slash + 1 : pattern;
    const char *dot = strrchr(name, '.');
    return dot && dot != name ? dot : pattern + strlen(pattern);
}

static nb_status append_number(nb_str *s, const char *format, int width, uint64_t number)
{
    char text[1100];
    int n = snprintf(text, sizeof text, "%s%0*" PRIu64, format, width, number);
    return nb_str_append(s, text, (size_t)n);
}

static nb_status expand(const nb_output *output, int index, uint64_t seed, nb_str *path)
{
    static const char mark[] = "{seed}";
    const char *pattern = output->pattern;
    int by_seed = output->seeds_differ && strstr(pattern, mark);
    int add = output->n_pictures > 1 && !has_number(pattern) && !by_seed;
    const char *end = stem_end(pattern);
    uint64_t number = (uint64_t)index + 1;
    for (const char *at = pattern;;) {
        int width;
        size_t n = number_at(at, &width);
        if (add && at == end) NB_TRY(append_number(path, "-", 4, number));
        if (!*at) return nb_str_append(path, "", 1);
        if (n)
            NB_TRY(append_number(path, "", width, number));
        else if (!strncmp(at, mark, n = sizeof mark - 1))
            NB_TRY(append_number(path, "", 1, seed));
        else
            NB_TRY(nb_str_append(path, at, n = 1));
        at += n;
    }
}

nb_status nb_output_path(const nb_output *output, int index, uint64_t seed, char **out)
{
    nb_str path = {0};
    nb_status status = expand(output, index, seed, &path);
    if (status)
        nb_str_fini(&path);
    else
        *out = path.data;
    return status;
}

nb_status nb_output_check_path(const char *path)
{
    struct stat st;
    nb_status status = NB_OK;
    if (!*path) return nb_fail(NB_E_CANTCREATE, "output: wanted a path, found nothing");
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return nb_fail(NB_E_CANTCREATE, "%s: cannot be created: it is a folder", path);
        if (!S_ISREG(st.st_mode)) return NB_OK;
    }
    char *folder = strdup(path);
    if (!folder) return nb_fail(NB_E_SYSTEM, "out of memory");
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    const char *name = slash ? folder : ".";
    if (stat(name, &st) != 0)
        status = nb_fail(NB_E_CANTCREATE, "%s: cannot be created: the folder %s: %s", path,
                         name, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        status = nb_fail(NB_E_CANTCREATE, "%s: cannot be created: %s is no folder", path, name);
    else if (access(name, W_OK) != 0)
        status = nb_fail(NB_E_CANTCREATE, "%s: cannot be created: the folder %s: %s", path,
                         name, strerror(errno));
    free(folder);
    return status;
}

nb_status nb_output_check(const nb_output *output, uint64_t seed)
{
    char *path;
    if (nb_output_is_stdout(output)) return NB_OK;
    NB_TRY(nb_output_path(output, 0, seed, &path));
    nb_status status = nb_output_check_path(path);
    free(path);
    return status;
}

/* A rename over a device or pipe would replace it by a file. */
static int is_special(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

nb_status nb_output_write(const nb_picture *picture, const char *path, int metadata)
{
    if (!strcmp(path, "-")) return nb_picture_write(picture, NULL, STDOUT_FILENO, metadata);
    if (!is_special(path)) return nb_picture_write(picture, path, -1, metadata);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return nb_fail(NB_E_CANTCREATE, "%s: cannot be opened: %s", path, strerror(errno));
    nb_status status = nb_picture_write(picture, NULL, fd, metadata);
    if (status) status = nb_fail_context(status, "%s", path);
    close(fd);
    return status;
}
