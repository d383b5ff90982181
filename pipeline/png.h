/*
 * Pictures in PNG files: 8-bit RGB with text chunks, written so that a file of the final name
 * is always whole; and any PNG read as 8-bit RGB. Source: PNG (ISO/IEC 15948), libpng.
 */
#ifndef NB_PIPELINE_PNG_H
#define NB_PIPELINE_PNG_H

#include <stdint.h>

#include "kernels/base/tensor.h"

enum { NB_PNG_MAX_SIDE = 1 << 20 };

typedef struct nb_image {
    int64_t width, height;
    uint8_t *rgb; /* [height, width, 3] */
} nb_image;

/* A text chunk, in UTF-8: tEXt where it is ASCII, else (or if asked for) iTXt. */
typedef struct nb_png_text {
    const char *key, *text;
    int international; /* iTXt in any case */
} nb_png_text;

/* rgb from planes [3, H, W] in 0 .. 1 (clamped; NaN gives 0): x * 255, half to even. The caller
 * owns the storage of rgb [H, W, 3]. */
void nb_image_from_planes(uint8_t *rgb, const float *planes, int64_t height, int64_t width);

/* Writes under a temporary name, syncs, renames. E_CANTCREATE, E_IO. */
nb_status nb_png_write(const char *path, const nb_image *image, const nb_png_text *texts,
                       int n_texts) NB_MUST_CHECK;

/* Writes to an open descriptor (a pipe, the standard output); `name` is for errors. */
nb_status nb_png_write_fd(int fd, const char *name, const nb_image *image,
                          const nb_png_text *texts, int n_texts) NB_MUST_CHECK;

/* Any colour type and depth becomes RGB8 (16 bits are rounded, grey is spread, alpha is
 * dropped). E_NOINPUT, E_DATA. The caller frees out->rgb. */
nb_status nb_png_read(const char *path, nb_image *out) NB_MUST_CHECK;

/* The text of a key in the text chunks before the pixels, into a fresh string that the caller
 * frees; NULL in *out if there is no such key. */
nb_status nb_png_read_text(const char *path, const char *key, char **out) NB_MUST_CHECK;

#endif
