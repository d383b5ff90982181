/*
 * How alike two pictures of the same size are.
 *
 *   PSNR    10 log10(255^2 / mean squared difference) in dB over all channels; pictures that
 *           are equal count as NB_PSNR_EQUAL
 *   SSIM    the structural similarity of Wang, Bovik, Sheikh and Simoncelli (2004): luma of
 *           BT.601, Gaussian windows of 11 x 11 with sigma 1.5, K1 0.01, K2 0.03, the mean over
 *           all windows that lie within the picture; 1 for equal ones
 *   cosine  of two vectors: of the latents before the VAE; 1 for equal directions
 *
 * Host memory, double precision, one thread.
 */
#ifndef NB_PIPELINE_LIKENESS_H
#define NB_PIPELINE_LIKENESS_H

#include <stdint.h>

#include "kernels/base/status.h"

#define NB_PSNR_EQUAL 99.0

/* a and b: RGB [height, width, 3]. */
double nb_psnr(const uint8_t *a, const uint8_t *b, int64_t width, int64_t height);

/* E_USAGE for a picture below 11 pixels a side, E_SYSTEM. */
nb_status nb_ssim(const uint8_t *a, const uint8_t *b, int64_t width, int64_t height,
                  double *out) NB_MUST_CHECK;

/* 0 where one of the vectors is all zeros. */
double nb_cosine(const float *a, const float *b, int64_t n);

#endif
