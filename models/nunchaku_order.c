#include "models/nunchaku_order.h"

#include <string.h>

enum { TILE_BYTES = NB_NUNCHAKU_ROWS * NB_NUNCHAKU_COLUMNS / 2, WORD_BYTES = 4 };

/* Bytes before the tile of a row and the `i`-th 64 columns, if a tile has `bytes`. */
static int64_t tile_at(int64_t k_padded, int64_t row, int64_t i, int64_t bytes)
{
    return (row / NB_NUNCHAKU_ROWS * (k_padded / NB_NUNCHAKU_COLUMNS) + i) * bytes;
}

void nb_nunchaku_codes(const void *codes, int64_t k_padded, int64_t row, int64_t k,
                       uint8_t *out)
{
    enum { COLUMNS = 8, LANES = 4 }; /* of a word; of a row */
    int64_t p = row % NB_NUNCHAKU_ROWS / 16, s = row % 16 / 8, l = row % 8;
    const uint8_t *lanes = (const uint8_t *)codes + (8 * p + l) * LANES * 4 * WORD_BYTES;
    for (int64_t k0 = 0; k0 < k; k0 += COLUMNS, out += WORD_BYTES) {
        int64_t m = k0 / COLUMNS % LANES, t = k0 / 32 % 2;
        const uint8_t *tile =
            lanes + tile_at(k_padded, row, k0 / NB_NUNCHAKU_COLUMNS, TILE_BYTES);
        memcpy(out, tile + ((m * 2 + s) * 2 + t) * WORD_BYTES, WORD_BYTES);
    }
}

void nb_nunchaku_scales(const void *scales, int64_t k_padded, int64_t row, int64_t count,
                        uint8_t *out)
{
    enum { SCALES = 4 }; /* of a row in a tile */
    int64_t s = row % NB_NUNCHAKU_ROWS / 32, a = row % 32 / 8, b = row % 8;
    const uint8_t *lane = (const uint8_t *)scales + ((4 * b + a) * 4 + s) * SCALES;
    for (int64_t i = 0; i < count; i++)
        out[i] =
            lane[tile_at(k_padded, row, i / SCALES, NB_NUNCHAKU_ROWS * SCALES) + i % SCALES];
}

/* In a tile of 16 x 16. */
static int64_t branch_place(int64_t row, int64_t column)
{
    int64_t s = row / 8, l = row % 8, t = column / 8, m = column % 8 / 2;
    return (((4 * l + m) * 2 + s) * 2 + t) * 2 + column % 2;
}

int64_t nb_nunchaku_up_place(int64_t row, int64_t column, int64_t rank)
{
    return (row / 16 * (rank / 16) + column / 16) * 256 + branch_place(row % 16, column % 16);
}

int64_t nb_nunchaku_down_place(int64_t row, int64_t column, int64_t rank)
{
    return (column / 16 * (rank / 16) + row / 16) * 256 + branch_place(row % 16, column % 16);
}

void nb_nunchaku_awq_codes(const void *codes, int64_t k, int64_t row, int64_t k0,
                           uint8_t out[32])
{
    enum { WORDS = 16, ROWS = 4 };
    int64_t group = k0 / NB_NUNCHAKU_AWQ_GROUP, half = k0 / 32 % 2;
    int64_t run = (row / ROWS * (k / NB_NUNCHAKU_AWQ_GROUP) + group) * ROWS + row % ROWS;
    const uint8_t *words = (const uint8_t *)codes + (run * WORDS + half * 8) * 2;
    for (int i = 0; i < 8; i++) {
        unsigned word = words[2 * i] | (unsigned)words[2 * i + 1] << 8;
        for (int j = 0; j < 4; j++) out[8 * j + i] = (uint8_t)(word >> 4 * j & 15);
    }
}
