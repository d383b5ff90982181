/*
 * Runs a fuzz target over files and folders of files, without a fuzzer: what was once found
 * stays found.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "tests/fuzz/target.h"

static int run_file(const char *path)
{
    nb_buffer *file;
    if (nb_file_map(path, &file)) {
        fprintf(stderr, "%s\n", nb_error_message());
        return 0;
    }
    /* A heap block as long as the input, so that reading past its end is seen. */
    size_t bytes = nb_buffer_bytes(file);
    uint8_t *copy = malloc(bytes ? bytes : 1);
    if (copy && bytes) memcpy(copy, nb_buffer_data(file), bytes);
    if (copy) LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
    nb_buffer_unref(file);
    return copy != NULL;
}

static int run_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0, ok = dir != NULL;
    for (const struct dirent *entry; ok && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        char *path = nb_path_join(folder, entry->d_name);
        ok = path && run_file(path);
        free(path);
        n++;
    }
    if (dir) closedir(dir);
    printf("%s: %d inputs\n", folder, n);
    return ok && n > 0;
}

int main(int argc, char **argv)
{
    int ok = argc > 1;
    for (int i = 1; i < argc; i++)
        ok &= nb_file_is_directory(argv[i]) ? run_folder(argv[i]) : run_file(argv[i]);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
