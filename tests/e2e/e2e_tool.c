/*
 * e2e_tool: what the scripts of this folder need beside the shell.
 *
 *   e2e_tool tensor FILE NAME KEY JSON   sets a field of a tensor in a safetensors header
 *   e2e_tool drop FILE NAME              takes a tensor out of the header
 *   e2e_tool rename FILE NAME NEW
 *   e2e_tool fill FILE NAME HEX          repeats bytes over a tensor's data: ff is NaN
 *   e2e_tool header FILE TEXT            puts TEXT in place of the header
 *   e2e_tool length FILE N               writes N as the header's length, nothing else
 *   e2e_tool set FILE KEY JSON           sets a key of a JSON file; "null!" takes it out
 *   e2e_tool get FILE PATH               prints a value of JSON: "images.0.path", "" is all
 *   e2e_tool png FILE [KEY]              prints "WxH", or the text of a key
 *   e2e_tool pack OUT PREFIX FILE ...    one file, safetensors or .gguf, of all tensors
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "pipeline/png.h"
#include "tests/e2e/pack.h"

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "e2e_tool: %s: %s\n", what, nb_error_message());
    exit(2);
}

static void must(nb_status status, const char *what)
{
    if (status) die(what);
}

static void write_parts(const char *path, const void *a, size_t na, const void *b, size_t nb,
                        const void *c, size_t nc)
{
    FILE *f = fopen(path, "wb");
    if (!f) die(path);
    if (fwrite(a, 1, na, f) != na || fwrite(b, 1, nb, f) != nb || fwrite(c, 1, nc, f) != nc ||
        fclose(f) != 0)
        die(path);
}

/* A safetensors file in memory, the header parsed. */
struct container {
    const char *path;
    nb_buffer *file;
    json_t *header;
    const char *data;
    size_t n_data;
};

static struct container open_container(const char *path)
{
    struct container c = {.path = path};
    nb_buffer *map;
    uint64_t n;
    must(nb_file_map(path, &map), path);
    size_t bytes = nb_buffer_bytes(map);
    /* The file is rewritten: work on a copy. */
    must(nb_buffer_create(bytes, &c.file), path);
    memcpy(nb_buffer_data(c.file), nb_buffer_data(map), bytes);
    nb_buffer_unref(map);
    const char *at = nb_buffer_data(c.file);
    memcpy(&n, at, sizeof n);
    must(nb_json_parse(path, at + 8, (size_t)n, &c.header), path);
    c.data = at + 8 + n;
    c.n_data = bytes - 8 - (size_t)n;
    return c;
}

static void write_header(const struct container *c, const char *text)
{
    uint64_t n = strlen(text);
    write_parts(c->path, &n, sizeof n, text, (size_t)n, c->data, c->n_data);
}

static void close_container(struct container *c)
{
    json_decref(c->header);
    nb_buffer_unref(c->file);
}

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    if (!value) die(text);
    return value;
}

/* tensor, drop, rename */
static void change_tensor(int argc, char **argv)
{
    const char *what = argv[1];
    struct container c = open_container(argv[2]);
    json_t *tensor = json_object_get(c.header, argv[3]);
    if (!tensor) die(argv[3]);
    if (!strcmp(what, "tensor") && argc == 6) {
        json_object_set_new(tensor, argv[4], parse(argv[5]));
    } else {
        if (!strcmp(what, "rename")) json_object_set(c.header, argv[4], tensor);
        json_object_del(c.header, argv[3]);
    }
    char *text = json_dumps(c.header, JSON_COMPACT);
    write_header(&c, text);
    free(text);
    close_container(&c);
}

static void fill_tensor(const char *path, const char *name, const char *hex)
{
    struct container c = open_container(path);
    json_t *offsets = json_object_get(json_object_get(c.header, name), "data_offsets");
    size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    size_t end = (size_t)json_integer_value(json_array_get(offsets, 1)),
           n_hex = strlen(hex) / 2;
    if (!offsets || end > c.n_data || !n_hex) die(name);
    char *data = nb_buffer_data(c.file), digits[3] = "";
    size_t header = nb_buffer_bytes(c.file) - c.n_data;
    for (size_t i = begin; i < end; i++) {
        memcpy(digits, hex + 2 * ((i - begin) % n_hex), 2);
        data[header + i] = (char)strtoul(digits, NULL, 16);
    }
    write_parts(path, data, nb_buffer_bytes(c.file), "", 0, "", 0);
    close_container(&c);
}

static void change_header(const char *path, const char *text)
{
    struct container c = open_container(path);
    write_header(&c, text);
    close_container(&c);
}

static void change_length(const char *path, const char *number)
{
    struct container c = open_container(path);
    uint64_t n = strtoull(number, NULL, 10);
    const char *at = nb_buffer_data(c.file);
    write_parts(path, &n, sizeof n, at + 8, nb_buffer_bytes(c.file) - 8, "", 0);
    close_container(&c);
}

static void set_key(const char *path, const char *key, const char *value)
{
    json_t *json;
    must(nb_json_load(path, &json), path);
    if (!strcmp(value, "null!"))
        json_object_del(json, key);
    else
        json_object_set_new(json, key, parse(value));
    char *text = json_dumps(json, JSON_INDENT(1));
    write_parts(path, text, strlen(text), "\n", 1, "", 0);
    free(text);
    json_decref(json);
}

/* Follows "images.0.path" down; dies where there is no such thing. */
static const json_t *follow(const json_t *json, const char *path)
{
    char key[128];
    while (*path) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        json = json_is_array(json) ? json_array_get(json, strtoul(key, NULL, 10))
                                   : json_object_get(json, key);
        if (!json) die(key);
        path += n + (path[n] == '.');
    }
    return json;
}

static void get_value(const char *file, const char *path)
{
    json_t *json = json_load_file(file, JSON_DECODE_ANY, NULL);
    if (!json) die(file);
    const json_t *value = follow(json, path);
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    puts(json_is_string(value) ? json_string_value(value) : text);
    free(text);
    json_decref(json);
}

static void tell_png(const char *path, const char *key)
{
    nb_image image;
    char *text = NULL;
    must(nb_png_read(path, &image), path);
    if (key) must(nb_png_read_text(path, key, &text), path);
    if (key)
        puts(text ? text : "");
    else
        printf("%" PRId64 "x%" PRId64 "\n", image.width, image.height);
    free(text);
    free(image.rgb);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    if ((!strcmp(what, "tensor") && argc == 6) || (!strcmp(what, "drop") && argc == 4) ||
        (!strcmp(what, "rename") && argc == 5))
        change_tensor(argc, argv);
    else if (!strcmp(what, "fill") && argc == 5)
        fill_tensor(argv[2], argv[3], argv[4]);
    else if (!strcmp(what, "header") && argc == 4)
        change_header(argv[2], argv[3]);
    else if (!strcmp(what, "length") && argc == 4)
        change_length(argv[2], argv[3]);
    else if (!strcmp(what, "set") && argc == 5)
        set_key(argv[2], argv[3], argv[4]);
    else if (!strcmp(what, "get") && argc == 4)
        get_value(argv[2], argv[3]);
    else if (!strcmp(what, "pack") && argc >= 5 && argc % 2)
        pack(argc - 2, argv + 2);
    else if (!strcmp(what, "png") && argc <= 4)
        tell_png(argv[2], argc == 4 ? argv[3] : NULL);
    else
        die("what the header of e2e_tool.c says was wanted");
    return 0;
}
