#define _GNU_SOURCE
#include "kernels/base/folder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/file.h"

static nb_status short_of_memory(const char *path)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
}

/* ---- removing ---- */

static int remove_entry(int parent, const char *name);

static void remove_entries(int fd)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return;
    }
    for (const struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_entry(dirfd(dir), e->d_name);
    closedir(dir);
}

/* A file, or a folder with all that is in it; links are not followed. */
static int remove_entry(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0) return 0;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) remove_entries(fd);
    return unlinkat(parent, name, AT_REMOVEDIR);
}

/* The process that "NAME.tmp123" belongs to, for entries of that form, else 0. */
static pid_t owner_of(const char *entry, const char *name)
{
    static const char suffix[] = ".tmp";
    size_t n = strlen(name);
    if (strncmp(entry, name, n) != 0 || strncmp(entry + n, suffix, 4) != 0) return 0;
    const char *digits = entry + n + 4;
    for (const char *c = digits; *c; c++)
        if (!isdigit((unsigned char)*c)) return 0;
    long pid = strtol(digits, NULL, 10);
    return pid > 0 && pid < 0x7fffffff ? (pid_t)pid : 0;
}

void nb_folder_remove_leftovers(const char *path)
{
    char *folder = strdup(path);
    if (!folder) return;
    for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/'; n--) folder[n - 1] = 0;
    char *slash = strrchr(folder, '/'), *name = slash ? slash + 1 : folder;
    name = strdup(name);
    if (slash) slash[slash == folder] = 0;
    DIR *dir = name ? opendir(slash ? folder : ".") : NULL;
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        pid_t pid = owner_of(e->d_name, name);
        if (pid && pid != getpid() && kill(pid, 0) != 0 && errno == ESRCH)
            remove_entry(dirfd(dir), e->d_name);
    }
    if (dir) closedir(dir);
    free(name);
    free(folder);
}

/* ---- writing ---- */

struct nb_folder_writer {
    char *path, *temporary;
};

static void free_writer(nb_folder_writer *w)
{
    free(w->path);
    free(w->temporary);
    free(w);
}

nb_status nb_folder_make(const char *path)
{
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && nb_file_is_directory(path))) return NB_OK;
    return nb_fail(NB_E_CANTCREATE, "%s: cannot be created: %s", path, strerror(errno));
}

/* Nothing, or an empty folder. */
static nb_status check_free(const char *path)
{
    int n_entries = 0;
    if (!nb_file_exists(path)) return NB_OK;
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && (e = readdir(dir));)
        n_entries += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (!dir || n_entries) {
        if (dir) closedir(dir);
        return nb_fail(NB_E_CANTCREATE, "%s: is there already", path);
    }
    closedir(dir);
    return NB_OK;
}

static nb_status make_temporary(nb_folder_writer *w, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    w->path = strndup(path, n);
    if (!w->path || asprintf(&w->temporary, "%s.tmp%ld", w->path, (long)getpid()) < 0) {
        w->temporary = NULL;
        return short_of_memory(path);
    }
    NB_TRY(check_free(w->path));
    nb_folder_remove_leftovers(w->path);
    remove_entry(AT_FDCWD, w->temporary); /* of a process long gone that had our number */
    if (mkdir(w->temporary, 0777) == 0) return NB_OK;
    return nb_fail(NB_E_CANTCREATE, "%s: cannot be created: %s", path, strerror(errno));
}

nb_status nb_folder_writer_open(const char *path, nb_folder_writer **out)
{
    nb_folder_writer *w = calloc(1, sizeof *w);
    if (!w) return short_of_memory(path);
    nb_status status = make_temporary(w, path);
    if (status)
        free_writer(w);
    else
        *out = w;
    return status;
}

const char *nb_folder_writer_path(const nb_folder_writer *w)
{
    return w->temporary;
}

nb_status nb_folder_writer_commit(nb_folder_writer *w)
{
    nb_status status = NB_OK;
    if (rename(w->temporary, w->path) != 0)
        status =
            nb_fail(NB_E_CANTCREATE, "%s: cannot be created: %s", w->path, strerror(errno));
    if (status) remove_entry(AT_FDCWD, w->temporary);
    free_writer(w);
    return status;
}

void nb_folder_writer_abort(nb_folder_writer *w)
{
    if (!w) return;
    remove_entry(AT_FDCWD, w->temporary);
    free_writer(w);
}

/* ---- copying ---- */

static nb_status copy_bytes(int fd, const char *from, nb_file_writer *w)
{
    enum { CHUNK = 1 << 20 };
    char *chunk = malloc(CHUNK);
    nb_status status = chunk ? NB_OK : short_of_memory(from);
    while (!status) {
        ssize_t n = read(fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) break;
        status = n < 0 ? nb_fail(NB_E_IO, "%s: cannot be read: %s", from, strerror(errno))
                       : nb_file_writer_write(w, chunk, (size_t)n);
    }
    free(chunk);
    return status;
}

static nb_status copy_descriptor(int fd, const char *from, const char *to)
{
    struct stat st;
    nb_file_writer *w;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return nb_fail(NB_E_DATA, "%s: not a regular file", from);
    NB_TRY(nb_file_writer_open(to, &w));
    nb_status status = copy_bytes(fd, from, w);
    if (!status) return nb_file_writer_commit(w);
    nb_file_writer_abort(w);
    return status;
}

nb_status nb_file_copy(const char *from, const char *to)
{
    int fd = open(from, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe must not make it wait */
    if (fd < 0) return nb_fail(NB_E_NOINPUT, "%s: cannot be read: %s", from, strerror(errno));
    nb_status status = copy_descriptor(fd, from, to);
    close(fd);
    return status;
}

static int is_shown(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

nb_status nb_folder_each(const char *path, nb_folder_visit *visit, void *arg)
{
    struct dirent **entries;
    nb_status status = NB_OK;
    int n = scandir(path, &entries, is_shown, alphasort);
    if (n < 0) return nb_fail(NB_E_NOINPUT, "%s: cannot be read: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        char *entry = nb_path_join(path, entries[i]->d_name);
        if (!status && !entry) status = short_of_memory(path);
        if (!status) status = visit(arg, entry, entries[i]->d_name);
        free(entry);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static nb_status copy_entry(void *arg, const char *path, const char *name)
{
    struct stat st;
    char *to = nb_path_join(arg, name);
    nb_status status = NB_OK;
    if (!to) return short_of_memory(path);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        status = nb_folder_copy(path, to);
    else
        status = nb_file_copy(path, to);
    free(to);
    return status;
}

nb_status nb_folder_copy(const char *from, const char *to)
{
    char *target = strdup(to);
    if (!target) return short_of_memory(to);
    nb_status status = nb_folder_make(to);
    if (!status) status = nb_folder_each(from, copy_entry, target);
    free(target);
    return status;
}
