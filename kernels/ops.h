/*
 * The table of operations of a device: one typed pointer per operation (and compute policy,
 * where the policy changes the arithmetic). The CPU's table is filled with every reference
 * first and then overwritten by what its capabilities allow; another device fills its own.
 * Callers use the functions of each operation's header, which check shapes and go through this
 * table.
 */
#ifndef NB_KERNELS_OPS_H
#define NB_KERNELS_OPS_H

#include "kernels/attn.h"
#include "kernels/conv.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/rope.h"

struct nb_ops {
    nb_linear_fn *linear[NB_COMPUTE_COUNT];
    nb_attn_fn *attn[NB_COMPUTE_COUNT];
    nb_conv2d_fn *conv2d[NB_COMPUTE_COUNT];
    nb_norm_fn *layer_norm;
    nb_norm_fn *rms_norm;
    nb_group_norm_fn *group_norm;
    nb_rope_fn *rope;
    nb_layout_fn *chw_to_rows;
    nb_layout_fn *rows_to_chw;
    nb_embed_fn *embed;
    nb_elementwise_fn *axpy;
    nb_elementwise_fn *blend;
    nb_elementwise_fn *silu;
    nb_elementwise_fn *add;
    nb_elementwise_fn *copy;
};

/* Every slot a reference in plain C: the specification (kernels/ref/). */
void nb_ops_init_ref(struct nb_ops *ops);

/* Overwrites slots by variants that `caps` (bits of nb_cpu_cap) allow (kernels/cpu/). */
void nb_ops_climb_cpu(struct nb_ops *ops, unsigned caps);

/* The function in the slot of operation `op` ("attn"), NULL where there is no such operation:
 * for code that treats all operations alike. */
typedef void (*nb_any_fn)(void);
nb_any_fn nb_ops_find(const struct nb_ops *ops, const char *op, nb_compute compute);

/* What runs in a slot, for messages: "avx512-bf16", "avx2", "reference" ... */
const char *nb_ops_variant_name(const nb_device *device, const char *op, nb_compute compute);

#endif
