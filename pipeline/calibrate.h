/*
 * Calibration: what the inputs of a pipeline's matrices look like while it draws. The model
 * draws some prompts as ever, and of every matrix W [n, k] that multiplies an x [m, k] of host
 * memory the mean of x[.][i]^2 over all rows of all its uses is kept for each column i: with
 * it, quantising W by least squares weighs columns by how much their errors count, which is
 * the diagonal of the Hessian of the layer's output error. Beside them the largest |x[.][.]| is
 * kept, for the scale that 4- and 8-bit inputs have. x is what the layer is given, before
 * anything that stands beside W (scales of columns, low-rank branches): quantising makes all
 * that a part of the weight.
 */
#ifndef NB_PIPELINE_CALIBRATE_H
#define NB_PIPELINE_CALIBRATE_H

#include "pipeline/txt2img.h"

typedef struct nb_calibration nb_calibration;

/* Draws `request` once for each prompt, from the seeds request->seed, + 1, + 2 ...; the
 * pictures are thrown away. `progress` is called before each prompt and may be NULL. CPU only.
 * What nb_txt2img may say. */
nb_status nb_calibrate(nb_pipeline *p, nb_stream *s, const nb_txt2img_request *request,
                       const char *const *prompts, int n_prompts,
                       void (*progress)(void *arg, int prompt), void *arg,
                       nb_calibration **out) NB_MUST_CHECK;
void nb_calibration_destroy(nb_calibration *c);

/* Mean squares [k] of the inputs of a module ("transformer_blocks.0.attn.to_q"), valid until
 * the calibration is destroyed; NULL where it was not seen or has other columns. As nb_quantize
 * asks for them (models/quantize.h): `arg` is the calibration. */
const float *nb_calibration_importance(void *arg, const char *module, int64_t k);

/* The largest magnitude of a module's inputs; 0 where it was not seen or has other columns. */
float nb_calibration_amax(void *arg, const char *module, int64_t k);

/* How many matrices were seen. */
int nb_calibration_count(const nb_calibration *c);

#endif
