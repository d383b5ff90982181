/*
 * Opening finds the files (find_in_folder), maps them (add_file), checks an index against what
 * its shards hold (open_index), and sorts all tensors by name (index_tensors). No system call
 * is made per tensor.
 */
#include "models/checkpoint.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "kernels/base/sha256.h"
#include "models/declared.h"

struct nb_checkpoint {
    char *path;
    char *source; /* `path`, or what was found in that folder */
    nb_container **files;
    int n_files;
    const nb_stored **by_name;
    int64_t n_tensors;
    const nb_stored **own_by_name; /* what the files hold, however it is named in by_name */
    int64_t n_own;
    nb_arena *storage; /* of tensors that are not the files' own; NULL: none */
    const struct nb_loras *loras;
};

static const char SUFFIX[] = ".safetensors", INDEX_SUFFIX[] = ".safetensors.index.json";

static nb_status add_file(nb_checkpoint *c, const char *path)
{
    nb_container **files = realloc(c->files, ((size_t)c->n_files + 1) * sizeof *files);
    if (!files) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    c->files = files;
    NB_TRY(nb_container_open(path, &c->files[c->n_files]));
    c->n_files++;
    return nb_declared_read(c->files[c->n_files - 1]);
}

static nb_status index_tensors(nb_checkpoint *c)
{
    int64_t n = 0;
    for (int i = 0; i < c->n_files; i++) n += nb_container_n_tensors(c->files[i]);
    const nb_stored **all = malloc(((size_t)n + 1) * sizeof *all);
    if (!all) return nb_fail(NB_E_SYSTEM, "%s: out of memory", c->path);
    n = 0;
    for (int i = 0; i < c->n_files; i++)
        for (int64_t t = 0; t < nb_container_n_tensors(c->files[i]); t++)
            all[n++] = nb_container_tensor(c->files[i], t);
    nb_status status = nb_checkpoint_set_tensors(c, all, n, NULL);
    free(all);
    return status;
}

nb_status nb_checkpoint_set_tensors(nb_checkpoint *c, const nb_stored *const *tensors,
                                    int64_t n, nb_arena *storage)
{
    const nb_stored **sorted, *const *twice;
    assert(!c->storage); /* new views may lie in it */
    NB_TRY(nb_stored_index(tensors, n, &sorted, &twice));
    if (twice) {
        nb_status status = nb_fail(NB_E_DATA, "%s: tensor %.300s is also in %s", twice[1]->file,
                                   twice[1]->name, twice[0]->file);
        free(sorted);
        return status;
    }
    if (!c->own_by_name) {
        c->own_by_name = sorted;
        c->n_own = n;
    }
    if (c->by_name != c->own_by_name) free(c->by_name);
    c->by_name = sorted;
    c->n_tensors = n;
    c->storage = storage;
    return NB_OK;
}

/* --- shards --- */

/* A shard is named relative to its index and may not leave the folder. */
static int is_inside(const char *name)
{
    if (!*name || *name == '/') return 0;
    for (const char *part = name; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || !part[2])) return 0;
    }
    return 1;
}

static nb_status add_shard(nb_checkpoint *c, const char *index_path, const char *name)
{
    if (!is_inside(name))
        return nb_fail(NB_E_DATA, "%s: shard %.300s is not inside the folder of the index",
                       index_path, name);
    char *folder = strdup(index_path);
    if (!folder) return nb_fail(NB_E_SYSTEM, "%s: out of memory", index_path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    char *path = slash ? nb_path_join(folder, name) : strdup(name);
    free(folder);
    nb_status status =
        path ? add_file(c, path) : nb_fail(NB_E_SYSTEM, "%s: out of memory", index_path);
    free(path);
    if (status == NB_E_NOINPUT) return nb_fail_context(status, "%s wants a shard", index_path);
    return status;
}

/* Opens each file that the map names once; `files` maps its name to its number. */
static nb_status open_shards(nb_checkpoint *c, const char *path, json_t *map, json_t *files)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        const char *name = json_string_value(file);
        if (!name)
            return nb_fail(NB_E_DATA, "%s: weight_map gives no file for tensor %.300s", path,
                           tensor);
        if (json_object_get(files, name)) continue;
        NB_TRY(add_shard(c, path, name));
        if (json_object_set_new(files, name, json_integer(c->n_files - 1)) != 0)
            return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    }
    return NB_OK;
}

static nb_status check_promises(const nb_checkpoint *c, const char *path, json_t *map,
                                const json_t *files)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        const char *name = json_string_value(file);
        json_int_t number = json_integer_value(json_object_get(files, name));
        if (!nb_container_find(c->files[number], tensor))
            return nb_fail(NB_E_DATA, "%s: tensor %.300s should be in %.300s, and is not", path,
                           tensor, name);
    }
    return NB_OK;
}

static nb_status open_map(nb_checkpoint *c, const char *path, const json_t *index)
{
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) return nb_fail(NB_E_DATA, "%s: weight_map is no object", path);
    json_t *files = json_object();
    if (!files) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    nb_status status = open_shards(c, path, map, files);
    if (!status) status = check_promises(c, path, map, files);
    json_decref(files);
    return status;
}

static nb_status open_index(nb_checkpoint *c, const char *path)
{
    json_t *index;
    NB_TRY(nb_json_load_object(path, &index));
    nb_status status = open_map(c, path, index);
    json_decref(index);
    return status;
}

/* --- folders --- */

/* The only file of the folder with that suffix, to be freed, in *out; untouched if there is
 * none. */
static nb_status find_only(const char *folder, const char *suffix, char **out)
{
    char *found = NULL;
    nb_status status = NB_OK;
    DIR *dir = opendir(folder);
    if (!dir) return nb_fail(NB_E_NOINPUT, "%s: cannot be read: %s", folder, strerror(errno));
    for (const struct dirent *entry; !status && (entry = readdir(dir));) {
        if (!nb_name_ends_with(entry->d_name, suffix)) continue;
        if (found)
            status = nb_fail(NB_E_NOINPUT, "%s: several *%s files; name the one to read",
                             folder, suffix);
        else if (!(found = nb_path_join(folder, entry->d_name)))
            status = nb_fail(NB_E_SYSTEM, "%s: out of memory", folder);
    }
    closedir(dir);
    if (status)
        free(found);
    else if (found)
        *out = found;
    return status;
}

static nb_status find_in_folder(const char *folder, char **out)
{
    static const char *const names[] = {
        "model.safetensors", "diffusion_pytorch_model.safetensors",
        "model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = nb_path_join(folder, names[i]);
        if (!path) return nb_fail(NB_E_SYSTEM, "%s: out of memory", folder);
        if (nb_file_exists(path)) {
            *out = path;
            return NB_OK;
        }
        free(path);
    }
    char *path = NULL;
    NB_TRY(find_only(folder, INDEX_SUFFIX, &path));
    if (!path) NB_TRY(find_only(folder, SUFFIX, &path));
    if (!path)
        return nb_fail(
            NB_E_NOINPUT,
            "%s: no model.safetensors, diffusion_pytorch_model.safetensors, index of "
            "shards or other *.safetensors in this folder",
            folder);
    *out = path;
    return NB_OK;
}

static nb_status open_files(nb_checkpoint *c, const char *path)
{
    return nb_name_ends_with(path, ".json") ? open_index(c, path) : add_file(c, path);
}

/* Opens the two files of nunchaku's folders (models/nunchaku.h), if they are there. */
static nb_status open_pair(nb_checkpoint *c, int *opened)
{
    char *blocks = nb_path_join(c->path, "transformer_blocks.safetensors");
    char *rest = nb_path_join(c->path, "unquantized_layers.safetensors");
    nb_status status = NB_OK;
    if (!blocks || !rest) status = nb_fail(NB_E_SYSTEM, "%s: out of memory", c->path);
    *opened = !status && nb_file_exists(blocks) && nb_file_exists(rest);
    if (*opened) status = add_file(c, blocks);
    if (*opened && !status) status = add_file(c, rest);
    free(blocks);
    free(rest);
    return status;
}

static nb_status open_path(nb_checkpoint *c)
{
    int is_pair = 0;
    if (nb_file_is_directory(c->path)) NB_TRY(open_pair(c, &is_pair));
    if (nb_file_is_directory(c->path) && !is_pair)
        NB_TRY(find_in_folder(c->path, &c->source));
    else if (!(c->source = strdup(c->path)))
        return nb_fail(NB_E_SYSTEM, "%s: out of memory", c->path);
    if (!is_pair) NB_TRY(open_files(c, c->source));
    return index_tensors(c);
}

nb_status nb_checkpoint_open(const char *path, nb_checkpoint **out)
{
    nb_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    c->path = strdup(path);
    nb_status status = c->path ? open_path(c) : nb_fail(NB_E_SYSTEM, "%s: out of memory", path);
    if (status)
        nb_checkpoint_close(c);
    else
        *out = c;
    return status;
}

void nb_checkpoint_close(nb_checkpoint *c)
{
    if (!c) return;
    for (int i = 0; i < c->n_files; i++) nb_container_close(c->files[i]);
    free(c->files);
    if (c->by_name != c->own_by_name) free(c->by_name);
    free(c->own_by_name);
    nb_arena_destroy(c->storage);
    free(c->source);
    free(c->path);
    free(c);
}

nb_status nb_checkpoint_derive(const nb_checkpoint *c, const nb_stored *const *tensors,
                               int64_t n, nb_arena *storage, nb_checkpoint **out)
{
    nb_checkpoint *derived = calloc(1, sizeof *derived);
    if (!derived) return nb_fail(NB_E_SYSTEM, "%s: out of memory", c->path);
    derived->path = strdup(c->path);
    derived->source = strdup(c->source);
    nb_status status = derived->path && derived->source
                           ? nb_checkpoint_set_tensors(derived, tensors, n, storage)
                           : nb_fail(NB_E_SYSTEM, "%s: out of memory", c->path);
    if (status)
        nb_checkpoint_close(derived);
    else
        *out = derived;
    return status;
}

/* --- access --- */

const char *nb_checkpoint_path(const nb_checkpoint *c)
{
    return c->path;
}

const char *nb_checkpoint_source(const nb_checkpoint *c)
{
    return c->source;
}

int64_t nb_checkpoint_n_tensors(const nb_checkpoint *c)
{
    return c->n_tensors;
}

const nb_stored *nb_checkpoint_tensor(const nb_checkpoint *c, int64_t index)
{
    return c->by_name[index];
}

const nb_stored *nb_checkpoint_find(const nb_checkpoint *c, const char *name)
{
    return nb_stored_find(c->by_name, c->n_tensors, name);
}

const nb_stored *nb_checkpoint_find_matrix(const nb_checkpoint *c, const char *name)
{
    char packed[512];
    const nb_stored *t = nb_checkpoint_find(c, name);
    if (t || !nb_name_ends_with(name, ".weight")) return t;
    snprintf(packed, sizeof packed, "%s_packed", name);
    return nb_checkpoint_find(c, packed);
}

void nb_checkpoint_set_loras(nb_checkpoint *c, const struct nb_loras *loras)
{
    c->loras = loras;
}

const struct nb_loras *nb_checkpoint_loras(const nb_checkpoint *c)
{
    return c->loras;
}

int nb_checkpoint_n_files(const nb_checkpoint *c)
{
    return c->n_files;
}

const nb_container *nb_checkpoint_file(const nb_checkpoint *c, int index)
{
    return c->files[index];
}

size_t nb_checkpoint_bytes(const nb_checkpoint *c)
{
    size_t bytes = 0;
    for (int i = 0; i < c->n_files; i++)
        bytes += nb_buffer_bytes(nb_container_buffer(c->files[i]));
    return bytes;
}

void nb_checkpoint_prefetch(const nb_checkpoint *c)
{
    for (int i = 0; i < c->n_files; i++) {
        const nb_buffer *file = nb_container_buffer(c->files[i]);
        madvise(nb_buffer_data(file), nb_buffer_bytes(file), MADV_WILLNEED);
    }
}

static void digest_tensor(nb_sha256 *h, const nb_stored *t)
{
    enum { SAMPLE = 4096 };
    const unsigned char *data = t->data;
    size_t n = t->bytes < SAMPLE ? t->bytes : SAMPLE;
    int64_t rank = t->rank;
    nb_sha256_update(h, t->name, strlen(t->name) + 1);
    nb_sha256_update(h, nb_dtype_name(t->dtype), strlen(nb_dtype_name(t->dtype)) + 1);
    nb_sha256_update(h, &rank, sizeof rank);
    nb_sha256_update(h, t->shape, (size_t)rank * sizeof t->shape[0]);
    nb_sha256_update(h, data, n);
    nb_sha256_update(h, data + t->bytes - n, n);
}

void nb_checkpoint_digest(const nb_checkpoint *c, char digest[65])
{
    unsigned char bytes[NB_SHA256_BYTES];
    nb_sha256 h;
    nb_sha256_init(&h);
    for (int64_t i = 0; i < c->n_own; i++) digest_tensor(&h, c->own_by_name[i]);
    nb_sha256_final(&h, bytes);
    nb_sha256_hex(bytes, digest);
}
