#include "tests/golden/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void run_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("golden: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(RUN_BROKEN);
}

char *run_text(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text == NULL) run_die("out of memory");
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}

/* In the child: `path` takes the place of the descriptor `fd`. */
static void redirect(const char *path, int flags, int fd)
{
    int opened = open(path, flags, 0600);
    if (opened < 0 || dup2(opened, fd) < 0) {
        fprintf(stderr, "golden: %s: %s\n", path, strerror(errno));
        _exit(RUN_BROKEN);
    }
    close(opened);
}

int run_program(const char *const *argv, const char *in, const char *out)
{
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) run_die("fork: %s", strerror(errno));
    if (child == 0) {
        redirect(in != NULL ? in : "/dev/null", O_RDONLY, STDIN_FILENO);
        if (out != NULL) redirect(out, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
        execv(argv[0], (char *const *)argv); /* exec takes non-const for history's sake */
        fprintf(stderr, "golden: %s: %s\n", argv[0], strerror(errno));
        _exit(RUN_BROKEN);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) run_die("waitpid: %s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

char *run_read(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) run_die("%s: %s", path, strerror(errno));
    size_t used = 0, room = 1 << 16;
    char *text = malloc(room);
    while (text != NULL) {
        used += fread(text + used, 1, room - 1 - used, f);
        if (used < room - 1) break;
        room *= 2;
        char *more = realloc(text, room);
        if (more == NULL) free(text);
        text = more;
    }
    if (text == NULL || ferror(f)) run_die("%s: cannot be read", path);
    fclose(f);
    text[used] = '\0';
    return text;
}

char *run_temp_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char *folder = run_text("%s/nibble-golden-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(folder) == NULL) run_die("%s: %s", folder, strerror(errno));
    return folder;
}

void run_remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        char *path = run_text("%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
        free(path);
    }
    if (dir != NULL) closedir(dir);
    rmdir(folder);
}
