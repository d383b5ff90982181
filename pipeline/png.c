/*
 * libpng reports errors by a jump out of its call, so each of its sessions is one function that
 * sets the jump and calls others; what must survive the jump lives in a struct outside of it.
 */
#include "pipeline/png.h"

#include <errno.h>
#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/file.h"

/* Where the bytes go, and the first error's status: its sentence is already written. */
typedef struct sink {
    nb_file_writer *file; /* or, if NULL, ... */
    int fd;
    const char *name;
    nb_status status;
    const nb_image *image;
    const nb_png_text *texts;
    int n_texts;
    png_text *chunks; /* [n_texts] */
} sink;

void nb_image_from_planes(uint8_t *rgb, const float *planes, int64_t height, int64_t width)
{
    int64_t n = height * width;
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++) {
            float x = planes[c * n + i];
            x = x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; /* NaN fails the first test */
            rgb[3 * i + c] = (uint8_t)lrintf(x * 255.0f);
        }
}

/* ---- writing ------------------------------------------------------------------------------
 */

static nb_status write_fd(int fd, const char *name, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes) {
        ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return nb_fail(NB_E_IO, "%s: cannot be written: %s", name, strerror(errno));
        at += n;
        bytes -= (size_t)n;
    }
    return NB_OK;
}

static void on_write(png_structp png, png_bytep data, size_t bytes)
{
    sink *s = png_get_io_ptr(png);
    s->status = s->file ? nb_file_writer_write(s->file, data, bytes)
                        : write_fd(s->fd, s->name, data, bytes);
    if (s->status) png_error(png, "write");
}

static void on_flush(png_structp png)
{
    (void)png;
}

static void on_write_error(png_structp png, png_const_charp message)
{
    sink *s = png_get_error_ptr(png);
    if (!s->status) s->status = nb_fail(NB_E_BUG, "%s: libpng: %s", s->name, message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static int is_ascii(const char *text)
{
    while (*text && (unsigned char)*text < 0x80) text++;
    return *text == 0;
}

/* tEXt is Latin-1, and ASCII is all that is Latin-1 and UTF-8 at once; the rest is iTXt. */
static void set_texts(png_structp png, png_infop info, sink *s)
{
    for (int i = 0; i < s->n_texts; i++) {
        const nb_png_text *t = &s->texts[i];
        int plain = !t->international && is_ascii(t->text);
        s->chunks[i] = (png_text){
            .compression = plain ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
            .key = (char *)t->key,
            .text = (char *)t->text,
            .text_length = plain ? strlen(t->text) : 0,
            .itxt_length = plain ? 0 : strlen(t->text),
        };
    }
    if (s->n_texts) png_set_text(png, info, s->chunks, s->n_texts);
}

static void write_picture(png_structp png, png_infop info, sink *s)
{
    const nb_image *image = s->image;
    png_set_write_fn(png, s, on_write, on_flush);
    png_set_user_limits(png, NB_PNG_MAX_SIDE, NB_PNG_MAX_SIDE);
    png_set_compression_level(png, 6);
    png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    set_texts(png, info, s);
    png_write_info(png, info);
    for (int64_t y = 0; y < image->height; y++)
        png_write_row(png, image->rgb + 3 * image->width * y);
    png_write_end(png, info);
}

static nb_status no_memory(const char *name)
{
    return nb_fail(NB_E_SYSTEM, "%s: out of memory", name);
}

static nb_status write_all(sink *s)
{
    s->chunks = calloc((size_t)s->n_texts + 1, sizeof *s->chunks);
    png_structp png = s->chunks ? png_create_write_struct(PNG_LIBPNG_VER_STRING, s,
                                                          on_write_error, on_warning)
                                : NULL;
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info)
        s->status = no_memory(s->name);
    else if (setjmp(png_jmpbuf(png)) == 0)
        write_picture(png, info, s);
    png_destroy_write_struct(&png, &info);
    free(s->chunks);
    return s->status;
}

nb_status nb_png_write(const char *path, const nb_image *image, const nb_png_text *texts,
                       int n_texts)
{
    sink s = {.name = path, .image = image, .texts = texts, .n_texts = n_texts, .fd = -1};
    NB_TRY(nb_file_writer_open(path, &s.file));
    if (write_all(&s)) {
        nb_file_writer_abort(s.file);
        return s.status;
    }
    return nb_file_writer_commit(s.file);
}

nb_status nb_png_write_fd(int fd, const char *name, const nb_image *image,
                          const nb_png_text *texts, int n_texts)
{
    sink s = {.name = name, .image = image, .texts = texts, .n_texts = n_texts, .fd = fd};
    return write_all(&s);
}

/* ---- reading ------------------------------------------------------------------------------
 */

typedef struct source {
    const char *path;
    const unsigned char *data;
    size_t bytes, at;
    nb_status status;
    uint8_t *rgb; /* what is being read; freed on failure */
    nb_image image;
    const char *key; /* or the text that is wanted */
    char *text;
} source;

static void on_read(png_structp png, png_bytep to, size_t bytes)
{
    source *s = png_get_io_ptr(png);
    if (bytes > s->bytes - s->at) png_error(png, "the file ends early");
    memcpy(to, s->data + s->at, bytes);
    s->at += bytes;
}

static void on_read_error(png_structp png, png_const_charp message)
{
    source *s = png_get_error_ptr(png);
    if (!s->status) s->status = nb_fail(NB_E_DATA, "%s: not a valid PNG: %s", s->path, message);
    png_longjmp(png, 1);
}

/* Interlaced pictures come in passes over the same rows, so all rows are kept. */
static void read_pixels(png_structp png, png_infop info, source *s)
{
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    int64_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    if (png_get_rowbytes(png, info) != 3 * (size_t)width) png_error(png, "odd row size");
    s->rgb = calloc((size_t)height, 3 * (size_t)width);
    if (!s->rgb) {
        s->status = no_memory(s->path);
        png_error(png, "memory");
    }
    for (int pass = 0; pass < passes; pass++)
        for (int64_t y = 0; y < height; y++) png_read_row(png, s->rgb + 3 * width * y, NULL);
    s->image = (nb_image){.width = width, .height = height, .rgb = s->rgb};
}

static void find_text(png_structp png, png_infop info, source *s)
{
    png_textp texts;
    int n = png_get_text(png, info, &texts, NULL);
    for (int i = 0; i < n; i++)
        if (!s->text && strcmp(texts[i].key, s->key) == 0 && texts[i].text) {
            s->text = strdup(texts[i].text);
            if (!s->text) s->status = no_memory(s->path);
        }
}

static void read_picture(png_structp png, png_infop info, source *s)
{
    png_set_read_fn(png, s, on_read);
    png_set_user_limits(png, NB_PNG_MAX_SIDE, NB_PNG_MAX_SIDE);
    png_read_info(png, info);
    if (!s->key) {
        read_pixels(png, info, s);
        png_read_end(png, NULL);
        return;
    }
    find_text(png, info, s); /* chunks before the pixels, where writers put them */
}

static nb_status read_all(source *s)
{
    nb_buffer *file;
    NB_TRY(nb_file_map(s->path, &file));
    s->data = nb_buffer_data(file);
    s->bytes = nb_buffer_bytes(file);
    png_structp png =
        png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_read_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info)
        s->status = no_memory(s->path);
    else if (setjmp(png_jmpbuf(png)) == 0)
        read_picture(png, info, s);
    png_destroy_read_struct(&png, &info, NULL);
    nb_buffer_unref(file);
    if (s->status) {
        free(s->rgb);
        free(s->text);
    }
    return s->status;
}

nb_status nb_png_read(const char *path, nb_image *out)
{
    source s = {.path = path};
    NB_TRY(read_all(&s));
    *out = s.image;
    return NB_OK;
}

nb_status nb_png_read_text(const char *path, const char *key, char **out)
{
    source s = {.path = path, .key = key};
    NB_TRY(read_all(&s));
    *out = s.text;
    return NB_OK;
}
