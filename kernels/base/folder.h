/*
 * Folders that are never seen half done, and copies of files and folders.
 */
#ifndef NB_KERNELS_BASE_FOLDER_H
#define NB_KERNELS_BASE_FOLDER_H

#include "kernels/base/status.h"

/* A new folder under a temporary name beside the final one. Fill nb_folder_writer_path(), then
 * commit (rename) or abort (remove with all that is in it). E_CANTCREATE, also if something of
 * that name is there already, unless it is an empty folder. */
typedef struct nb_folder_writer nb_folder_writer;
nb_status nb_folder_writer_open(const char *path, nb_folder_writer **out) NB_MUST_CHECK;
const char *nb_folder_writer_path(const nb_folder_writer *w);
nb_status nb_folder_writer_commit(nb_folder_writer *w) NB_MUST_CHECK; /* consumes w */
void nb_folder_writer_abort(nb_folder_writer *w); /* consumes w; NULL is fine */

/* Removes what writers of this file or folder left behind that were killed. */
void nb_folder_remove_leftovers(const char *path);

/* A folder that may be there already. E_CANTCREATE. */
nb_status nb_folder_make(const char *path) NB_MUST_CHECK;

/* A regular file (links are followed), whole or not at all. */
nb_status nb_file_copy(const char *from, const char *to) NB_MUST_CHECK;

/* Calls `visit` for each entry of a folder but hidden ones, in the order of their names, until
 * one fails. E_NOINPUT. */
typedef nb_status nb_folder_visit(void *arg, const char *path, const char *name);
nb_status nb_folder_each(const char *path, nb_folder_visit *visit, void *arg) NB_MUST_CHECK;

/* Folders and all regular files in them but hidden ones, `to` made if it is not there. */
nb_status nb_folder_copy(const char *from, const char *to) NB_MUST_CHECK;

#endif
