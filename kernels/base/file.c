#define _GNU_SOURCE
#include "kernels/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void release_mapping(void *data, size_t bytes, void *arg)
{
    (void)arg;
    if (bytes) munmap(data, bytes);
}

static nb_status map_descriptor(int fd, const char *path, nb_buffer **out)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return nb_fail(NB_E_IO, "%s: cannot be examined: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return nb_fail(NB_E_DATA, "%s: not a regular file", path);
    size_t bytes = (size_t)st.st_size;
    void *data = NULL;
    if (bytes) {
        data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            return nb_fail(NB_E_SYSTEM, "%s: cannot be mapped: %s", path, strerror(errno));
    }
    nb_status status = nb_buffer_take(data, bytes, release_mapping, NULL, out);
    if (status && bytes) munmap(data, bytes);
    return status;
}

nb_status nb_file_map(const char *path, nb_buffer **out)
{
    /* Without O_NONBLOCK a FIFO would make us wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return nb_fail(NB_E_NOINPUT, "%s: cannot be read: %s", path, strerror(errno));
    nb_status status = map_descriptor(fd, path, out);
    close(fd);
    return status;
}

struct nb_file_writer {
    int fd;
    char *path, *temporary;
};

static void free_writer(nb_file_writer *w)
{
    if (w->fd >= 0) close(w->fd);
    free(w->path);
    free(w->temporary);
    free(w);
}

nb_status nb_file_writer_open(const char *path, nb_file_writer **out)
{
    nb_file_writer *w = calloc(1, sizeof *w);
    if (!w) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *w);
    w->fd = -1;
    w->path = strdup(path);
    if (!w->path || asprintf(&w->temporary, "%s.tmp%ld", path, (long)getpid()) < 0) {
        w->temporary = NULL;
        free_writer(w);
        return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    }
    w->fd = nb_file_is_directory(path)
                ? (errno = EISDIR, -1)
                : open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        nb_status status =
            nb_fail(NB_E_CANTCREATE, "%s: cannot be created: %s", path, strerror(errno));
        free_writer(w);
        return status;
    }
    *out = w;
    return NB_OK;
}

nb_status nb_file_writer_write(nb_file_writer *w, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes) {
        ssize_t n = write(w->fd, at, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return nb_fail(NB_E_IO, "%s: cannot be written: %s", w->path, strerror(errno));
        at += n;
        bytes -= (size_t)n;
    }
    return NB_OK;
}

nb_status nb_file_writer_write_at(nb_file_writer *w, size_t offset, const void *data,
                                  size_t bytes)
{
    const char *at = data;
    while (bytes) {
        ssize_t n = pwrite(w->fd, at, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return nb_fail(NB_E_IO, "%s: cannot be written: %s", w->path, strerror(errno));
        at += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return NB_OK;
}

/* A rename is durable only once its folder is on disk; some file systems refuse, harmlessly. */
static void sync_folder_of(const char *path)
{
    char *folder = strdup(path);
    if (!folder) return;
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

nb_status nb_file_writer_commit(nb_file_writer *w)
{
    nb_status status = NB_OK;
    int fd = w->fd;
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS)
        status = nb_fail(NB_E_IO, "%s: cannot be synced: %s", w->path, strerror(errno));
    w->fd = -1;
    if (close(fd) != 0 && !status)
        status = nb_fail(NB_E_IO, "%s: cannot be closed: %s", w->path, strerror(errno));
    if (!status && rename(w->temporary, w->path) != 0)
        status =
            nb_fail(NB_E_CANTCREATE, "%s: cannot be created: %s", w->path, strerror(errno));
    if (status)
        unlink(w->temporary);
    else
        sync_folder_of(w->path);
    free_writer(w);
    return status;
}

void nb_file_writer_abort(nb_file_writer *w)
{
    if (!w) return;
    unlink(w->temporary);
    free_writer(w);
}

int nb_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

int nb_file_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *nb_path_join(const char *dir, const char *name)
{
    char *path;
    size_t n = strlen(dir);
    if (asprintf(&path, n && dir[n - 1] == '/' ? "%s%s" : "%s/%s", dir, name) < 0) return NULL;
    return path;
}
