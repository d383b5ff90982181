/*
 * Files: read-only mappings, whole reads, and writes that are never seen half done.
 */
#ifndef NB_KERNELS_BASE_FILE_H
#define NB_KERNELS_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/buffer.h"

/* Maps a whole regular file read-only. E_NOINPUT if it is not there or not readable, E_DATA if
 * it is not a regular file. An empty file gives a buffer of 0 bytes. */
nb_status nb_file_map(const char *path, nb_buffer **out) NB_MUST_CHECK;

/* A new file under a temporary name in the target's folder. Write, then commit (sync, rename
 * over the final name, sync the folder) or abort (unlink). The final name never shows a partial
 * file. */
typedef struct nb_file_writer nb_file_writer;
nb_status nb_file_writer_open(const char *path, nb_file_writer **out) NB_MUST_CHECK;
nb_status nb_file_writer_write(nb_file_writer *w, const void *data, size_t bytes) NB_MUST_CHECK;
/* At a place of the file, which does not move where nb_file_writer_write goes on. */
nb_status nb_file_writer_write_at(nb_file_writer *w, size_t offset, const void *data,
                                  size_t bytes) NB_MUST_CHECK;
nb_status nb_file_writer_commit(nb_file_writer *w) NB_MUST_CHECK; /* consumes w either way */
void nb_file_writer_abort(nb_file_writer *w);                     /* consumes w; NULL is fine */

int nb_file_exists(const char *path); /* a file or folder of that name */
int nb_file_is_directory(const char *path);

/* "dir/name" into a fresh string that the caller frees; NULL when memory is short. */
char *nb_path_join(const char *dir, const char *name);

#endif
