/*
 * measure_scales and measure_halves each go through the checkpoint's matrices and add up
 * evidence; both take every so-manieth of what they find, so that their time does not grow.
 */
#include "models/plausible.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/packed.h"

enum {
    NAME_BYTES = 256,
    MAX_MATRICES = 16, /* looked at for the order of scales */
    MAX_PAIRS = 12,    /* and for the order of halves */
    SAMPLE_ROWS = 64,  /* of a matrix whose columns are measured */
    SAMPLE_BLOCKS = 16 /* of a row that is measured */
};

static nb_status no_memory(void)
{
    return nb_fail(NB_E_SYSTEM, "out of memory for a look at the weights");
}

/* ---- matrices ---- */

/* A matrix, and what each byte of its scales means. */
struct matrix {
    nb_packed p;
    int64_t columns; /* of scales */
    int block;
    double scale[NB_SCALE_CODES];
};

static int is_codes(const nb_stored *t)
{
    return t->dtype == NB_DTYPE_U8 && t->rank == 2 &&
           (nb_name_ends_with(t->name, ".weight") ||
            nb_name_ends_with(t->name, ".weight_packed"));
}

/* 0 if it cannot be read. */
static int find_matrix(const nb_checkpoint *c, const nb_stored *t, struct matrix *m)
{
    if (!is_codes(t) || nb_packed_find(c, t, 0, &m->p) != NB_OK) return 0;
    int is_nvfp4 = m->p.kind == NB_SCALE_NVFP4;
    m->block = is_nvfp4 ? NB_NVFP4_BLOCK : NB_MXFP4_BLOCK;
    m->columns = m->p.k / m->block;
    for (int i = 0; i < NB_SCALE_CODES; i++)
        m->scale[i] =
            (double)(is_nvfp4 ? nb_f32_from_e4m3((uint8_t)i) : nb_f32_from_e8m0((uint8_t)i));
    return 1;
}

static uint8_t scale_code(const struct matrix *m, int is_tiled, int64_t row, int64_t column)
{
    int64_t place =
        is_tiled ? nb_tiled_place(row, column, m->columns) : row * m->columns + column;
    return ((const uint8_t *)m->p.scales->data)[place];
}

/* ---- the order of scales ---- */

/* Scales that shape alone does not tell the order of. */
static int may_lie_either_way(const struct matrix *m)
{
    return m->p.kind == NB_SCALE_NVFP4 && m->p.n % NB_TILE_ROWS == 0 &&
           m->columns % NB_TILE_COLUMNS == 0;
}

/* Of the logs of the first 128 rows' scales: what the means of rows and columns leave of their
 * squares. sums [columns]: scratch. */
static double residual(const struct matrix *m, int is_tiled, double *sums)
{
    double logs[NB_SCALE_CODES], all = 0, squares = 0, rows = 0, between = 0;
    double count = (double)NB_TILE_ROWS * (double)m->columns;
    for (int i = 0; i < NB_SCALE_CODES; i++) { /* 0 and NaN as the least that there is */
        double scale = fabs(m->scale[i]);
        logs[i] = log(scale > 0x1p-9 ? scale : 0x1p-9);
    }
    for (int64_t j = 0; j < m->columns; j++) sums[j] = 0;
    for (int64_t i = 0; i < NB_TILE_ROWS; i++) {
        double row = 0;
        for (int64_t j = 0; j < m->columns; j++) {
            double value = logs[scale_code(m, is_tiled, i, j)];
            row += value;
            sums[j] += value;
            squares += value * value;
        }
        all += row;
        rows += row * row / (double)m->columns;
    }
    for (int64_t j = 0; j < m->columns; j++) between += sums[j] * sums[j] / NB_TILE_ROWS;
    return squares + all * all / count - rows - between;
}

struct orders {
    double sum, variance, least;
    nb_plausibility *out;
};

static nb_status add_scales(const struct matrix *m, struct orders *o)
{
    double *sums = malloc((size_t)m->columns * sizeof *sums);
    if (!sums) return no_memory();
    double read = residual(m, m->p.is_tiled, sums), other = residual(m, !m->p.is_tiled, sums);
    free(sums);
    if (!(read > 1e-6 && other > 1e-6)) return NB_OK; /* all scales are the same */
    double gain = 0.5 * NB_TILE_ROWS * (double)m->columns * log(other / read);
    o->sum += gain;
    o->variance += (double)(NB_TILE_ROWS + m->columns);
    o->out->n_scales++;
    if (gain >= o->least && o->out->scales_name) return NB_OK;
    o->least = gain;
    o->out->scales_name = m->p.scales->name;
    o->out->is_tiled = m->p.is_tiled;
    return NB_OK;
}

static nb_status measure_scales(const nb_checkpoint *c, nb_plausibility *out)
{
    int64_t n = nb_checkpoint_n_tensors(c), n_codes = 0, seen = 0;
    struct orders o = {.out = out};
    struct matrix m;
    for (int64_t i = 0; i < n; i++) n_codes += is_codes(nb_checkpoint_tensor(c, i));
    int64_t step = n_codes / MAX_MATRICES + 1;
    for (int64_t i = 0; i < n; i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        if (!is_codes(t) || seen++ % step || !find_matrix(c, t, &m)) continue;
        if (!out->file) out->file = t->file;
        if (may_lie_either_way(&m)) NB_TRY(add_scales(&m, &o));
    }
    if (o.variance > 0) out->scales = o.sum / sqrt(o.variance);
    return NB_OK;
}

/* ---- the order of halves ---- */

/* What `down` reads, `up` writes: all of it, or the first or last of its columns. */
static const struct tie {
    const char *up, *down;
    int is_last;
} ties[] = {
    {".ff.net.0.proj", ".ff.net.2", 0},
    {".ff_context.net.0.proj", ".ff_context.net.2", 0},
    {".attn.to_v", ".attn.to_out.0", 0},
    {".attn.add_v_proj", ".attn.to_add_out", 0},
    {".proj_mlp", ".proj_out", 1},
    {".attn.to_v", ".proj_out", 0},
    {".DenseReluDense.wi_1", ".DenseReluDense.wo", 0},
    {".SelfAttention.v", ".SelfAttention.o", 0},
    {".mlp.fc1", ".mlp.fc2", 0},
    {".self_attn.v_proj", ".self_attn.out_proj", 0},
    {".mlp.up_proj", ".mlp.down_proj", 0},
};

/* The matrix that writes what t reads, or NULL. */
static const nb_stored *find_up(const nb_checkpoint *c, const nb_stored *t,
                                const struct tie *tie)
{
    char down[NAME_BYTES], name[NAME_BYTES];
    const char *dot = strrchr(t->name, '.');
    snprintf(down, sizeof down, "%.*s", dot ? (int)(dot - t->name) : 0, t->name);
    if (!nb_name_ends_with(down, tie->down)) return NULL;
    int bytes = (int)(strlen(down) - strlen(tie->down));
    snprintf(name, sizeof name, "%.*s%s.weight", bytes, down, tie->up);
    return nb_checkpoint_find_matrix(c, name);
}

/* Log of the mean square of a row, by its scales. */
static double packed_row(const struct matrix *m, int64_t row)
{
    int64_t step = m->columns / SAMPLE_BLOCKS + 1;
    double sum = 0;
    for (int64_t j = 0; j < m->columns; j += step) {
        double scale = m->scale[scale_code(m, m->p.is_tiled, row, j)];
        sum += scale * scale;
    }
    return log(sum / (double)((m->columns + step - 1) / step) + 1e-30);
}

/* The same of a matrix that is not packed. */
static double plain_row(const nb_stored *t, int64_t row)
{
    int64_t k = t->shape[1], step = k / (SAMPLE_BLOCKS * 4) + 1;
    double sum = 0;
    for (int64_t j = 0; j < k; j += step) {
        double value = (double)nb_load_f32(t->dtype, t->data, row * k + j);
        sum += value * value;
    }
    return log(sum / (double)((k + step - 1) / step) + 1e-30);
}

static int is_plain(const nb_stored *t)
{
    return t->rank == 2 && (t->dtype == NB_DTYPE_F32 || t->dtype == NB_DTYPE_F16 ||
                            t->dtype == NB_DTYPE_BF16 || t->dtype == NB_DTYPE_F8_E4M3);
}

/* Adds the squares of a row's columns first ... first+count to energy [count]. */
static void add_squares(const struct matrix *m, int64_t row, int64_t first, int64_t count,
                        double *energy)
{
    static const double square[8] = {0, 0.25, 1, 2.25, 4, 9, 16, 36};
    const uint8_t *codes = (const uint8_t *)m->p.codes->data + row * (m->p.k / 2);
    int even = m->p.dialect == NB_FP4_COMFY ? 4 : 0;
    double factor = 0;
    for (int64_t i = 0; i < count; i += 2) {
        int64_t k = first + i;
        if (i == 0 || k % m->block == 0) {
            double scale = m->scale[scale_code(m, m->p.is_tiled, row, k / m->block)];
            factor = scale * scale;
        }
        energy[i] += factor * square[codes[k / 2] >> even & 7];
        energy[i + 1] += factor * square[codes[k / 2] >> (4 - even) & 7];
    }
}

/* How columns first ... first+count of `down` go with the rows of `up` (packed, if `packed` is
 * not NULL), in pairs. energy [count]: scratch. */
static double correlate(const struct matrix *down, const nb_stored *up,
                        const struct matrix *packed, int64_t first, int64_t count,
                        double *energy)
{
    int64_t rows = down->p.n < SAMPLE_ROWS ? down->p.n : SAMPLE_ROWS;
    double cross = 0, r2 = 0, c2 = 0;
    for (int64_t i = 0; i < count; i++) energy[i] = 1e-30;
    for (int64_t i = 0; i < rows; i++) add_squares(down, i, first, count, energy);
    for (int64_t i = 0; i < count; i += 2) {
        double c = log(energy[i] / energy[i + 1]);
        double r = packed ? packed_row(packed, i) - packed_row(packed, i + 1)
                          : plain_row(up, i) - plain_row(up, i + 1);
        if (!isfinite(c) || !isfinite(r)) continue;
        cross += r * c;
        r2 += r * r;
        c2 += c * c;
    }
    return r2 > 0 && c2 > 0 ? cross / sqrt(r2 * c2) : 0;
}

struct halves {
    double sum, n, least;
    nb_plausibility *out;
};

static nb_status add_pair(const nb_checkpoint *c, const struct matrix *down,
                          const nb_stored *up, int is_last, struct halves *h)
{
    struct matrix packed;
    int is_packed = find_matrix(c, up, &packed);
    if (!is_packed && !is_plain(up)) return NB_OK;
    int64_t count = (is_packed ? packed.p.n : up->shape[0]) & ~INT64_C(1);
    int64_t first = is_last ? down->p.k - count : 0;
    if (count < 2 || first < 0 || first % 2 || count > down->p.k) return NB_OK;
    double *energy = malloc((size_t)count * sizeof *energy);
    if (!energy) return no_memory();
    double found = correlate(down, up, is_packed ? &packed : NULL, first, count, energy);
    free(energy);
    h->sum += found * (double)count / 2;
    h->n += (double)count / 2;
    h->out->n_pairs++;
    if (found >= h->least && h->out->halves_name) return NB_OK;
    h->least = found;
    h->out->halves_name = down->p.codes->name;
    h->out->high_first = down->p.dialect == NB_FP4_COMFY;
    return NB_OK;
}

/* Columns that were scaled by themselves say nothing about rows. */
static int has_smooth(const nb_checkpoint *c, const nb_stored *t)
{
    char name[NAME_BYTES];
    const char *dot = strrchr(t->name, '.');
    snprintf(name, sizeof name, "%.*s.pre_quant_scale", (int)(dot - t->name), t->name);
    return nb_checkpoint_find(c, name) != NULL;
}

/* Calls add_pair on every `step`-th pair, or with h NULL only counts; returns how many. */
static nb_status each_pair(const nb_checkpoint *c, int64_t step, struct halves *h, int64_t *n)
{
    *n = 0;
    for (int64_t i = 0; i < nb_checkpoint_n_tensors(c); i++) {
        const nb_stored *t = nb_checkpoint_tensor(c, i);
        struct matrix down;
        if (!is_codes(t) || has_smooth(c, t)) continue;
        for (size_t j = 0; j < sizeof ties / sizeof *ties; j++) {
            const nb_stored *up = find_up(c, t, &ties[j]);
            if (!up || (*n)++ % step || !h || !find_matrix(c, t, &down)) continue;
            NB_TRY(add_pair(c, &down, up, ties[j].is_last, h));
        }
    }
    return NB_OK;
}

static nb_status measure_halves(const nb_checkpoint *c, nb_plausibility *out)
{
    struct halves h = {.out = out};
    int64_t n;
    NB_TRY(each_pair(c, 1, NULL, &n));
    NB_TRY(each_pair(c, n / MAX_PAIRS + 1, &h, &n));
    if (h.n > 0) out->halves = h.sum / sqrt(h.n);
    return NB_OK;
}

/* ---- both ---- */

nb_status nb_plausible_measure(const nb_checkpoint *c, nb_plausibility *out)
{
    nb_plausibility p = {.file = NULL};
    NB_TRY(measure_scales(c, &p));
    NB_TRY(measure_halves(c, &p));
    *out = p;
    return NB_OK;
}

nb_status nb_plausible_check(const nb_checkpoint *c)
{
    nb_plausibility p;
    NB_TRY(nb_plausible_measure(c, &p));
    if (p.scales < -NB_IMPLAUSIBLE)
        return nb_fail(NB_E_DATA,
                       "%s: tensor %.300s: wanted scales %s, found scales that look as if they "
                       "lay %s (evidence %.0f in %d matrices)",
                       p.file, p.scales_name, p.is_tiled ? "in tiles" : "row by row",
                       p.is_tiled ? "row by row" : "in tiles", -p.scales, p.n_scales);
    if (p.halves < -NB_IMPLAUSIBLE)
        return nb_fail(NB_E_DATA,
                       "%s: tensor %.300s: wanted the even column in the %s half of each byte, "
                       "found columns that look exchanged (evidence %.0f in %d matrices)",
                       p.file, p.halves_name, p.high_first ? "high" : "low", -p.halves,
                       p.n_pairs);
    return NB_OK;
}
