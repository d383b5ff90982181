/*
 * One layer X of a nunchaku file: 4-bit codes, and all that stands beside them, in the orders
 * of models/nunchaku_order.h.
 *
 *     X.qweight      I8 [n, k/2]     codes: E2M1, or integers -8 ... 7 (svdq-int4)
 *     X.wscales      F8_E4M3 [k/16, n]; 16 bits [k/64, n] with integers
 *     X.wtscale      one number      of the whole matrix; 1 if there is none
 *     X.wcscales     [n]             of the rows; 1 if there are none
 *     X.smooth       [k]             x is divided by it
 *     X.lora_down    [k, rank]       of the x that is not divided
 *     X.lora_up      [n, rank]
 *     X.bias         [n]
 *
 *     y = (x / smooth) Wᵀ + (x downᵀ) upᵀ + bias, W = code * wscales * wtscale * wcscales
 *
 * n and k are padded to 128 there. With integers the layer behind a GELU is made for
 * x + 0.171875, which has no sign, and its bias makes up for W times that.
 *
 * A modulation is another kind of layer (AWQ): n = chunks * width outputs, those of a place in
 * all chunks side by side, and 1 already added to the bias of the scales among them.
 *
 *     X.qweight      I32 [n/4, k/2]  codes 0 ... 15
 *     X.wscales      16 bits [k/64, n], may have more rows
 *     X.wzeros       likewise
 *     X.bias         [n]
 *
 *     W = code * wscales + wzeros
 */
#ifndef NB_MODELS_NUNCHAKU_LAYER_H
#define NB_MODELS_NUNCHAKU_LAYER_H

#include "models/checkpoint.h"

enum { NB_NUNCHAKU_NAME_BYTES = 256 };

typedef struct nb_nunchaku_layer {
    int64_t n, k, n_padded, k_padded, rank; /* rank 0: no branch */
    const nb_stored *codes, *scales, *bias, *smooth, *down, *up;
    const nb_stored *row_scales; /* NULL: none */
    float scale;                 /* of the whole matrix */
    float shift;                 /* what the file wants added to x; 0 but for integers */
    int is_integer;
} nb_nunchaku_layer;

typedef struct nb_nunchaku_modulation {
    int64_t n, k;
    int chunks;
    const nb_stored *codes, *scales, *zeros, *bias;
} nb_nunchaku_modulation;

/* Layer `module`, [n, k] without padding. `behind_gelu`: its input comes from there.
 * `wants_branch`: lora_down and lora_up may not both be missing. E_DATA names the tensor that
 * is missing, or has another type or shape. */
nb_status nb_nunchaku_find_layer(const nb_checkpoint *c, const char *module, int64_t n,
                                 int64_t k, int behind_gelu, int wants_branch,
                                 nb_nunchaku_layer *out) NB_MUST_CHECK;
nb_status nb_nunchaku_find_modulation(const nb_checkpoint *c, const char *module, int chunks,
                                      int64_t width, nb_nunchaku_modulation *out) NB_MUST_CHECK;

/* Element i of a vector of the layer, in order. */
float nb_nunchaku_vector(const nb_stored *t, int64_t i);

/* Row `row` of W as F32 [k]; `codes` is room for k bytes. */
void nb_nunchaku_row(const nb_nunchaku_layer *l, int64_t row, uint8_t *codes, float *out);

/* Scale and offset of 64 columns from column k0 on, of integer codes that have no sign: of row
 * `row` of a layer, and of a modulation's output `i` in the order of chunks. */
typedef struct nb_nunchaku_step {
    float scale, offset;
} nb_nunchaku_step;
nb_nunchaku_step nb_nunchaku_layer_step(const nb_nunchaku_layer *l, int64_t row, int64_t k0);
nb_nunchaku_step nb_nunchaku_modulation_step(const nb_nunchaku_modulation *m, int64_t i,
                                             int64_t k0);

/* Where output i of a modulation, in the order of chunks, lies in the file; and its bias. */
int64_t nb_nunchaku_modulation_row(const nb_nunchaku_modulation *m, int64_t i);
float nb_nunchaku_modulation_bias(const nb_nunchaku_modulation *m, int64_t i);

#endif
