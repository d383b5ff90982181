/*
 * Do the 4-bit matrices of a checkpoint make sense as they are read? Names say how a file's
 * bytes lie; a writer whose names say one thing and whose bytes another gives weights that are
 * noise, and white pictures. Two orders leave traces in trained weights:
 *
 *     order of the scales. Rows and columns of a trained matrix differ in size, so the logs of
 *     the NVFP4 scales [n, k/16] have row means and column means that explain more of their
 *     variance than chance; scales in tiles read as plain ones, or the other way round, have
 *     not. Over the first 128 rows, which hold the same bytes in both orders, with
 *     RSS the sum of squares that the means leave:
 *         evidence = sum of count/2 log(RSS other / RSS as read) / sqrt(sum of (128 + k/16))
 *
 *     order of the halves of a byte. A unit that a matrix writes with large weights (its row)
 *     is read by the next with large weights (its column): ff.net.0.proj and ff.net.2, to_v and
 *     to_out. Rows do not depend on the order, of columns 2j and 2j+1 are exchanged. With r and
 *     c the log energies of row and column,
 *         evidence = sqrt(pairs) correlation of (r[2j] - r[2j+1]) with (c[2j] - c[2j+1])
 *     which changes its sign when the halves are exchanged.
 *
 * Both are about normally distributed with deviation 1 where weights are random, and strongly
 * positive where they are trained and read rightly. Below -NB_IMPLAUSIBLE a file is refused;
 * between, there is no evidence and it is taken as named. Not seen: what has no such traces
 * (random weights; a single matrix alone), MXFP4's order of scales, and a scaling of columns
 * against rows that was folded into both matrices.
 */
#ifndef NB_MODELS_PLAUSIBLE_H
#define NB_MODELS_PLAUSIBLE_H

#include "models/checkpoint.h"

#define NB_IMPLAUSIBLE 8.0

typedef struct nb_plausibility {
    int n_scales;     /* matrices whose scales could lie either way */
    int n_pairs;      /* matrices of which one reads what the other writes */
    double scales;    /* evidence that scales lie as read; 0: none */
    double halves;    /* evidence that the halves of a byte are in the order as read */
    const char *file; /* of the first matrix, borrowed from the checkpoint; NULL: no FP4 */
    const char *scales_name, *halves_name; /* the matrix with the least of each, or NULL */
    int is_tiled, high_first;              /* how those two are read */
} nb_plausibility;

/* Looks at a few matrices, evenly spread, and a few rows of each: some milliseconds whatever
 * the size. What cannot be read is left out; binding will say so. E_SYSTEM. */
nb_status nb_plausible_measure(const nb_checkpoint *c, nb_plausibility *out) NB_MUST_CHECK;

/* E_DATA if the evidence is against the reading; the sentence names file, tensor and order. */
nb_status nb_plausible_check(const nb_checkpoint *c) NB_MUST_CHECK;

#endif
