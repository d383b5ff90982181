/*
 * What comfy's files declare of their layers: `_quantization_metadata` in the header, JSON
 * {"layers": {name: {"format": ...}}}, or a tensor `name.comfy_quant` with the inner object as
 * text. A declaration that its tensors contradict means that the file is damaged or is read
 * wrongly.
 *
 *     nvfp4            name.weight U8, name.weight_scale F8_E4M3
 *     float8_e4m3fn    name.weight F8_E4M3
 *     float8_e5m2      name.weight F8_E5M2
 *
 * `"full_precision_matrix_mult": true` asks for products of inputs that are not rounded to few
 * bits, whatever else is: the layer's weight has exact_inputs (kernels/weight.h), and is
 * computed at a8 and a4 as it is at bf16. Files from before these notes ask for it by a tensor
 * `scaled_fp8` of two elements (one of none asks for nothing): in the name of every FP8 layer
 * with a `scale_weight` that has the same prefix.
 */
#ifndef NB_MODELS_DECLARED_H
#define NB_MODELS_DECLARED_H

#include "models/container.h"

/* E_DATA names the file, the layer, what is declared and what was found; also for a format that
 * is not known and for JSON that is none. A layer of another part of the model, whose weight is
 * not in the file, is no fault. Weights whose layers ask for it have exact_inputs set. */
nb_status nb_declared_read(nb_container *f) NB_MUST_CHECK;

#endif
