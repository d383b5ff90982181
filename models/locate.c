#include "models/locate.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/buffer.h"
#include "kernels/base/file.h"

enum { COMMIT_DIGITS = 40 };

static nb_status short_of_memory(const char *name)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", name);
}

/* $VARIABLE/below, to be freed; NULL if the variable is not set (or memory is short). */
static char *below_variable(nb_getenv_fn *env, const char *variable, const char *below)
{
    const char *value = env(variable);
    if (!value || !*value) return NULL;
    return below ? nb_path_join(value, below) : strdup(value);
}

static char *cache_root(nb_getenv_fn *env)
{
    char *root = below_variable(env, "HF_HUB_CACHE", NULL);
    if (!root) root = below_variable(env, "HF_HOME", "hub");
    if (!root) root = below_variable(env, "XDG_CACHE_HOME", "huggingface/hub");
    if (!root) root = below_variable(env, "HOME", ".cache/huggingface/hub");
    return root;
}

static int is_part(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            c != '-' && c != '_' && c != '.')
            return 0;
    }
    return n > 0 && text[0] != '.';
}

/* "models--org--name" of "org/name[@revision]", to be freed, and the revision. NULL if the name
 * is not of that form, which also keeps the path inside the cache. */
static char *cache_folder(const char *name, const char **revision)
{
    static const char prefix[] = "models--";
    const char *slash = strchr(name, '/'), *at = strchr(name, '@');
    size_t n = at ? (size_t)(at - name) : strlen(name);
    *revision = at ? at + 1 : "main";
    if (!slash || slash >= name + n) return NULL;
    size_t org = (size_t)(slash - name), repository = n - org - 1;
    if (!is_part(name, org) || !is_part(slash + 1, repository)) return NULL;
    if (!is_part(*revision, strlen(*revision))) return NULL;
    char *folder = calloc(1, sizeof prefix + n + 1);
    if (!folder) return NULL;
    memcpy(folder, prefix, sizeof prefix - 1);
    memcpy(folder + sizeof prefix - 1, name, org);
    memcpy(folder + sizeof prefix - 1 + org, "--", 2);
    memcpy(folder + sizeof prefix - 1 + org + 2, slash + 1, repository);
    return folder;
}

static int is_commit(const char *text, size_t n)
{
    return n == COMMIT_DIGITS && strspn(text, "0123456789abcdef") >= COMMIT_DIGITS;
}

/* The commit that refs/<revision> holds. */
static nb_status read_reference(const char *name, const char *path,
                                char commit[COMMIT_DIGITS + 1])
{
    nb_buffer *file;
    if (nb_file_map(path, &file))
        return nb_fail(NB_E_NOINPUT,
                       "%s: no such file or folder, and not in the Hugging Face cache: no %s",
                       name, path);
    char text[COMMIT_DIGITS + 1] = {0};
    size_t bytes = nb_buffer_bytes(file);
    if (bytes >= COMMIT_DIGITS) memcpy(text, nb_buffer_data(file), COMMIT_DIGITS);
    nb_buffer_unref(file);
    if (!is_commit(text, strlen(text))) return nb_fail(NB_E_DATA, "%s: holds no commit", path);
    memcpy(commit, text, sizeof text);
    return NB_OK;
}

/* `folder` is the repository's in the cache. */
static nb_status find_snapshot(const char *name, const char *folder, const char *revision,
                               char **out)
{
    char commit[COMMIT_DIGITS + 1] = {0};
    if (is_commit(revision, strlen(revision))) {
        memcpy(commit, revision, COMMIT_DIGITS);
    } else {
        char *refs = nb_path_join(folder, "refs");
        char *path = refs ? nb_path_join(refs, revision) : NULL;
        nb_status status = path ? read_reference(name, path, commit) : short_of_memory(name);
        free(refs);
        free(path);
        NB_TRY(status);
    }
    char *snapshots = nb_path_join(folder, "snapshots");
    char *path = snapshots ? nb_path_join(snapshots, commit) : NULL;
    free(snapshots);
    if (!path) return short_of_memory(name);
    if (!nb_file_is_directory(path)) {
        nb_status status =
            nb_fail(NB_E_NOINPUT, "%s: not in the Hugging Face cache: no %s", name, path);
        free(path);
        return status;
    }
    *out = path;
    return NB_OK;
}

static nb_status locate_in_cache(const char *name, nb_getenv_fn *env, char **out)
{
    const char *revision;
    char *folder = cache_folder(name, &revision);
    if (!folder) return nb_fail(NB_E_NOINPUT, "%s: no such file or folder", name);
    char *root = cache_root(env);
    char *path = root ? nb_path_join(root, folder) : NULL;
    nb_status status =
        path ? find_snapshot(name, path, revision, out)
             : nb_fail(NB_E_NOINPUT,
                       "%s: no such file or folder, and no Hugging Face cache: neither "
                       "HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set",
                       name);
    free(path);
    free(root);
    free(folder);
    return status;
}

nb_status nb_model_locate(const char *name, nb_getenv_fn *env, char **out)
{
    if (!nb_file_exists(name)) return locate_in_cache(name, env, out);
    char *path = strdup(name);
    if (!path) return short_of_memory(name);
    *out = path;
    return NB_OK;
}
