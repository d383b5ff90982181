#include "cli/bench_profile.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/observe.h"

/* What is told apart; linears by what they are computed at. */
typedef enum kind {
    KIND_LINEAR,
    KIND_ATTN = KIND_LINEAR + NB_COMPUTE_COUNT,
    KIND_CONV,
    KIND_NORM,
    KIND_ROPE,
    KIND_ELEMENTWISE,
    KIND_LAYOUT,
    KIND_EMBED,
    KIND_COUNT
} kind;

static const char *const kind_names[KIND_COUNT] = {
    "linear f32", "linear bf16", "linear a8",   "linear a4", "attention", "convolution",
    "norm",       "rope",        "elementwise", "layout",    "embed"};

static const kind kinds[NB_OP_COUNT] = {
    [NB_OP_LINEAR] = KIND_LINEAR,      [NB_OP_ATTN] = KIND_ATTN,
    [NB_OP_CONV2D] = KIND_CONV,        [NB_OP_LAYER_NORM] = KIND_NORM,
    [NB_OP_RMS_NORM] = KIND_NORM,      [NB_OP_GROUP_NORM] = KIND_NORM,
    [NB_OP_ROPE] = KIND_ROPE,          [NB_OP_CHW_TO_ROWS] = KIND_LAYOUT,
    [NB_OP_ROWS_TO_CHW] = KIND_LAYOUT, [NB_OP_EMBED] = KIND_EMBED,
    [NB_OP_AXPY] = KIND_ELEMENTWISE,   [NB_OP_BLEND] = KIND_ELEMENTWISE,
    [NB_OP_SILU] = KIND_ELEMENTWISE,   [NB_OP_ADD] = KIND_ELEMENTWISE,
    [NB_OP_COPY] = KIND_ELEMENTWISE,
};

/* Of calls of one kind. */
struct sum {
    double calls;
    nb_bench_time spent;
    double floor, floors[NB_ROOF_COUNT]; /* seconds: all, and those that each roof gave */
};

struct nb_bench_profile {
    nb_stream *s;
    const nb_bench_roofs *roofs;
    nb_observer observer;
    nb_bench_time began; /* of the call under way */
    struct sum now[KIND_COUNT];
    struct part {
        nb_bench_time spent;
        struct sum sums[KIND_COUNT];
    } parts[]; /* [n_parts] */
};

static void add_time(nb_bench_time *sum, nb_bench_time time)
{
    sum->wall += time.wall;
    sum->cpu += time.cpu;
}

static void add_sum(struct sum *to, const struct sum *from)
{
    to->calls += from->calls;
    add_time(&to->spent, from->spent);
    to->floor += from->floor;
    for (int i = 0; i < NB_ROOF_COUNT; i++) to->floors[i] += from->floors[i];
}

static void note_begin(void *arg, const nb_op_call *call)
{
    nb_bench_profile *p = arg;
    (void)call;
    p->began = nb_bench_now();
}

static void note_end(void *arg, const nb_op_call *call)
{
    nb_bench_profile *p = arg;
    nb_op_work work = nb_op_work_of(call);
    nb_roof roof = nb_roof_of_compute(call->compute, nb_device_caps(p->s->device));
    double peak = p->roofs->all[roof], read = p->roofs->all[NB_ROOF_READ];
    double arithmetic = peak > 0 ? work.flops / peak : 0;
    double memory = read > 0 ? work.bytes / read : 0;
    struct sum one = {.calls = 1, .spent = nb_bench_since(p->began)};
    one.floor = arithmetic > memory ? arithmetic : memory;
    one.floors[arithmetic > memory ? roof : NB_ROOF_READ] = one.floor;
    add_sum(&p->now[kinds[call->op] + (call->op == NB_OP_LINEAR ? call->compute : 0)], &one);
}

nb_status nb_bench_profile_create(nb_stream *s, const nb_bench_roofs *roofs, int n_parts,
                                  nb_bench_profile **out)
{
    nb_bench_profile *p = calloc(1, sizeof *p + (size_t)n_parts * sizeof p->parts[0]);
    if (!p) return nb_fail(NB_E_SYSTEM, "out of memory for the profile");
    p->s = s;
    p->roofs = roofs;
    p->observer = (nb_observer){note_begin, note_end, p};
    s->observer = &p->observer;
    *out = p;
    return NB_OK;
}

void nb_bench_profile_destroy(nb_bench_profile *p)
{
    if (!p) return;
    p->s->observer = NULL;
    free(p);
}

void nb_bench_profile_take(nb_bench_profile *p, int part, nb_bench_time spent)
{
    for (int i = 0; i < KIND_COUNT && part >= 0; i++)
        add_sum(&p->parts[part].sums[i], &p->now[i]);
    if (part >= 0) add_time(&p->parts[part].spent, spent);
    memset(p->now, 0, sizeof p->now);
}

/* ---- rows ---- */

static nb_roof largest_roof(const struct sum *sum)
{
    nb_roof roof = NB_ROOF_F32;
    for (int i = 0; i < NB_ROOF_COUNT; i++)
        if (sum->floors[i] > sum->floors[roof]) roof = (nb_roof)i;
    return roof;
}

static nb_status add_row(const struct sum *sum, nb_bench_time whole, const char *part,
                         const char *operation, int runs, json_t *rows)
{
    double wall = sum->spent.wall / runs, cpu = sum->spent.cpu / runs;
    json_t *row = json_pack("{s:s, s:s}", "part", part, "operation", operation);
    if (json_array_append(rows, row) != 0)
        return nb_fail(NB_E_SYSTEM, "out of memory for the results");
    if (sum->calls > 0) json_object_set_new(row, "calls", json_real(sum->calls / runs));
    json_object_set_new(row, "seconds", json_real(wall));
    json_object_set_new(row, "part_percent", json_real(100 * sum->spent.wall / whole.wall));
    json_object_set_new(row, "cpu_seconds", json_real(cpu));
    json_object_set_new(row, "cores", json_real(cpu / wall));
    if (sum->floor > 0) {
        json_object_set_new(row, "floor_seconds", json_real(sum->floor / runs));
        json_object_set_new(row, "floor_percent",
                            json_real(100 * sum->floor / sum->spent.wall));
        json_object_set_new(row, "roof", json_string(nb_roof_name(largest_roof(sum))));
    }
    json_decref(row);
    return NB_OK;
}

nb_status nb_bench_profile_add_rows(const nb_bench_profile *p, int part, const char *name,
                                    int runs, json_t *rows)
{
    const struct part *of = &p->parts[part];
    struct sum all = {0}, rest = {.spent = of->spent};
    for (int i = 0; i < KIND_COUNT; i++) add_sum(&all, &of->sums[i]);
    rest.spent.wall -= all.spent.wall;
    rest.spent.cpu -= all.spent.cpu;
    all.spent = of->spent;
    NB_TRY(add_row(&all, of->spent, name, "all", runs, rows));
    for (int i = 0; i < KIND_COUNT; i++)
        if (of->sums[i].calls > 0)
            NB_TRY(add_row(&of->sums[i], of->spent, name, kind_names[i], runs, rows));
    return add_row(&rest, of->spent, name, "none", runs, rows);
}

const nb_bench_column nb_bench_profile_columns[] = {
    {"part", "part", 0},
    {"operation", "operation", 0},
    {"calls", "calls", 0},
    {"seconds", "s", 4},
    {"part_percent", "% of part", 1},
    {"cpu_seconds", "cpu s", 4},
    {"cores", "cpu s/s", 2},
    {"floor_seconds", "floor s", 4},
    {"floor_percent", "% of floor", 1},
    {"roof", "floor by", 0},
};

const int nb_bench_profile_n_columns = (int)NB_COUNT(nb_bench_profile_columns);
