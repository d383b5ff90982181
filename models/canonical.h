/*
 * One naming for all files: whatever a file calls its tensors, an architecture finds them under
 * the names of the published diffusers and transformers folders. BFL's single files are mapped
 * here: their names, their fused q|k|v and q|k|v|mlp rows, the final layer's halves (shift,
 * scale where diffusers has scale, shift), the decoder levels of the autoencoder counted from
 * the other end; llama.cpp's names of T5; and the prefixes that all-in-one files put in front
 * of each part. Scales beside a fused matrix go with its rows. Names that are not in the table
 * stay as they are, so a checkpoint that is canonical already is unchanged.
 *
 * Everything is a view of the mapping but names and the final layer (of some 40 MB), which are
 * copied; and the layers of nunchaku's files, which are put in order (models/nunchaku.h).
 */
#ifndef NB_MODELS_CANONICAL_H
#define NB_MODELS_CANONICAL_H

#include "models/checkpoint.h"

/* What a checkpoint, or a part of one, is. */
typedef enum nb_component_kind {
    NB_KIND_UNKNOWN,
    NB_KIND_FLUX, /* FLUX.1 transformer */
    NB_KIND_CLIP, /* text model */
    NB_KIND_T5,   /* encoder */
    NB_KIND_VAE,  /* AutoencoderKL */
    NB_KIND_LORA,
    NB_KIND_NO_WEIGHTS, /* tokenizer, scheduler ... */
    NB_KIND_COUNT
} nb_component_kind;

/* nb_checkpoint_open, with canonical names. E_DATA also if a fused tensor cannot be cut. */
nb_status nb_canonical_open(const char *path, nb_checkpoint **out) NB_MUST_CHECK;

/* The same, of an all-in-one file only the part `kind`: without what has another part's
 * prefix. What is said of such a checkpoint as a whole, which of its types has most bytes or
 * that its FP8 has scales, is then said of the part. UNKNOWN: all of it. */
nb_status nb_canonical_open_part(const char *path, nb_component_kind kind,
                                 nb_checkpoint **out) NB_MUST_CHECK;

/* The same for an open checkpoint, once; it is unchanged on failure. */
nb_status nb_canonical_rename(nb_checkpoint *c) NB_MUST_CHECK;

/* How a module of another layout becomes canonical ones. In a pattern # is a number, taken over
 * to the same # of the result, and ~ is that number counted from the last level of a decoder.
 */
enum { NB_CANONICAL_PIECES = 4 };

typedef enum nb_canonical_cut {
    NB_CUT_WHOLE,
    NB_CUT_THIRDS,     /* q | k | v */
    NB_CUT_THREE_REST, /* q | k | v | mlp, q to v as high as linear2 */
    NB_CUT_SWAP        /* two halves change places */
} nb_canonical_cut;

typedef struct nb_canonical_rule {
    const char *from; /* NULL ends the table */
    nb_canonical_cut cut;
    const char *to[NB_CANONICAL_PIECES];
} nb_canonical_rule;

/* The first rule that fits is used: longer ones stand before their beginnings. */
extern const nb_canonical_rule nb_canonical_rules[];

/* The prefixes that are dropped, and what they stand before; text NULL ends the table. */
typedef struct nb_canonical_prefix {
    const char *text;
    nb_component_kind kind;
} nb_canonical_prefix;
extern const nb_canonical_prefix nb_canonical_prefixes[];

#endif
