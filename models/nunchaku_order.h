/*
 * The orders in which nunchaku's files hold matrices, for its kernels to load whole registers
 * of a warp, and their way back to rows. n and k are padded to 128.
 *
 * codes: 4 bits [n, k], in tiles of 128 rows and 64 columns, those of 128 rows one after the
 * other. A tile is 1024 words of 8 codes, the lowest bits first. In a product of m16n8k64 a
 * lane holds columns 8 m ... 8 m + 7 (m = lane % 4) of row lane / 4 and the columns 32 further
 * on; it loads two such rows at once, so
 *
 *     row 16 p + 8 s + l, columns 32 t + 8 m ...       word (((8p + l) 4 + m) 2 + s) 2 + t
 *
 * scales: E4M3 [n, k/16], in such tiles of 128 rows and 4 scales
 *
 *     row 32 s + 8 a + b, scale c                      byte ((4b + a) 4 + s) 4 + c
 *
 * vectors of n or k: a lane holds two neighbours and two that are 8 further on
 *
 *     element 16 a + 8 b + 2 c + d                     element 16 a + 4 c + 2 b + d
 *
 * groups: scales of 16 bits [n, k/64] of integers: for 128 rows and a group such a vector
 *
 * branches: 16 bits, in tiles of 16 x 16; those of `up` [n, rank] lie row by row, those of
 * `down` [rank, k] column by column
 *
 *     row 8 s + l, column 8 t + 2 m + d                element (((4l + m) 2 + s) 2 + t) 2 + d
 *
 * awq: 4 bits [n, k], n a multiple of 4 and k of 64: for 4 rows and 64 columns 16 words of 16
 * bits for each of the rows
 *
 *     column 32 h + 8 j + i                            bits 4 j ... 4 j + 3 of word 8 h + i
 *
 * Source: the documented permutations of its weight packer; PTX ISA, fragments of mma.m16n8k64
 * and m16n8k16.
 */
#ifndef NB_MODELS_NUNCHAKU_ORDER_H
#define NB_MODELS_NUNCHAKU_ORDER_H

#include <stdint.h>

enum { NB_NUNCHAKU_ROWS = 128, NB_NUNCHAKU_COLUMNS = 64, NB_NUNCHAKU_AWQ_GROUP = 64 };

/* Columns 0 ... k of a row, k a multiple of 16, of a matrix padded to `k_padded`: k / 2 bytes,
 * the even column in the low half. */
void nb_nunchaku_codes(const void *codes, int64_t k_padded, int64_t row, int64_t k,
                       uint8_t *out);

/* Scales 0 ... count of a row. */
void nb_nunchaku_scales(const void *scales, int64_t k_padded, int64_t row, int64_t count,
                        uint8_t *out);

/* Where element i of a vector lies. */
static inline int64_t nb_nunchaku_vector_place(int64_t i)
{
    return i / 16 * 16 + i / 2 % 4 * 4 + i / 8 % 2 * 2 + i % 2;
}

/* Where the scale of a row and of a group of columns lies, of `groups` in a row. */
static inline int64_t nb_nunchaku_group_place(int64_t row, int64_t group, int64_t groups)
{
    return (row / NB_NUNCHAKU_ROWS * groups + group) * NB_NUNCHAKU_ROWS +
           nb_nunchaku_vector_place(row % NB_NUNCHAKU_ROWS);
}

/* Where an element of `up` or `down` lies. */
int64_t nb_nunchaku_up_place(int64_t row, int64_t column, int64_t rank);
int64_t nb_nunchaku_down_place(int64_t row, int64_t column, int64_t rank);

/* 32 codes from column k0 on, a multiple of 32, of a row: one in a byte. */
void nb_nunchaku_awq_codes(const void *codes, int64_t k, int64_t row, int64_t k0,
                           uint8_t out[32]);

#endif
