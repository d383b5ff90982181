/*
 * The names of LoRA files. A key is a prefix, a module and what the tensor is of the module:
 *
 *     transformer. transformer_blocks.0.attn.to_q .lora_A.weight     diffusers, PEFT and
 *                                                                    ai-toolkit
 *     lora_unet_ double_blocks_0_img_attn_qkv .lora_down.weight      kohya's scripts
 *     diffusion_model. double_blocks.0.img_attn.qkv .lora_up.weight  ComfyUI
 *     double_blocks.0.img_attn.qkv .lora_B.weight                    BFL
 *     lora_transformer_ transformer_blocks_0_attn_to_q .alpha        OneTrainer
 *     double_blocks.0.processor.qkv_lora1 .down.weight               XLabs
 *     lora_te1_ text_model_encoder_layers_0_mlp_fc1 .alpha           kohya's text encoders
 *
 * Modules are matched against whole patterns, where a name without dots has underscores in
 * their place: names are never taken apart at underscores.
 */
#ifndef NB_MODELS_LORA_NAMES_H
#define NB_MODELS_LORA_NAMES_H

#include <stddef.h>

#include "models/canonical.h"

typedef enum nb_lora_role {
    NB_LORA_NONE, /* no tensor of a LoRA */
    NB_LORA_DOWN, /* [rank, k], A */
    NB_LORA_UP,   /* [n, rank], B */
    NB_LORA_UP_BIAS,
    NB_LORA_ALPHA,
    NB_LORA_PART,      /* of a product of two matrices (models/lora_factors.c) */
    NB_LORA_DIFF_BIAS, /* [n], added to the bias as it is */
    NB_LORA_FOREIGN,   /* of an adapter of another kind */
} nb_lora_role;

/* W1 and W2 whole, or each as a product A B. */
typedef enum nb_lora_part {
    NB_LORA_W1,
    NB_LORA_W1_A,
    NB_LORA_W1_B,
    NB_LORA_W2,
    NB_LORA_W2_A,
    NB_LORA_W2_B,
    NB_LORA_N_PARTS
} nb_lora_part;

typedef struct nb_lora_key {
    nb_lora_role role;
    const char *kind;    /* PART: "LoHa" or "LoKr"; FOREIGN: "DoRA" */
    nb_lora_part part;   /* PART: which of them */
    size_t stem_bytes;   /* of prefix and module: tensors with one stem belong together */
    const char *module;  /* within the name, to the end of the stem */
    const char *dialect; /* "kohya"; told by prefix, module and suffix */
} nb_lora_key;

/* What `name` is; role NONE if it is nothing of a LoRA's. */
nb_lora_key nb_lora_key_of(const char *name);

enum { NB_LORA_NAME_BYTES = 96 };

/* The canonical modules that a module is, one after the other in its rows. */
typedef struct nb_lora_target {
    int n; /* 0: there is no such module */
    nb_canonical_cut cut;
    char names[NB_CANONICAL_PIECES][NB_LORA_NAME_BYTES];
} nb_lora_target;

nb_lora_target nb_lora_target_of(const char *module, size_t bytes);

/* The model that a key's module is from, where it is surely not FLUX.1: "Stable Diffusion";
 * NULL otherwise. */
const char *nb_lora_other_family(const char *name);

#endif
