/* Which variant runs in a slot, found by climbing the ladder again: the first rung that puts
 * the same function into the slot names it. No variant has to be registered for that. */
#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "kernels/base/cpu.h"
#include "kernels/cpu/cpu_ops.h"

static const struct slot {
    const char *op;
    size_t offset;
    int by_compute;
} slots[] = {
    {"linear", offsetof(struct nb_ops, linear), 1},
    {"attn", offsetof(struct nb_ops, attn), 1},
    {"conv2d", offsetof(struct nb_ops, conv2d), 1},
    {"layer_norm", offsetof(struct nb_ops, layer_norm), 0},
    {"rms_norm", offsetof(struct nb_ops, rms_norm), 0},
    {"group_norm", offsetof(struct nb_ops, group_norm), 0},
    {"rope", offsetof(struct nb_ops, rope), 0},
    {"chw_to_rows", offsetof(struct nb_ops, chw_to_rows), 0},
    {"rows_to_chw", offsetof(struct nb_ops, rows_to_chw), 0},
    {"embed", offsetof(struct nb_ops, embed), 0},
    {"axpy", offsetof(struct nb_ops, axpy), 0},
    {"blend", offsetof(struct nb_ops, blend), 0},
    {"silu", offsetof(struct nb_ops, silu), 0},
    {"add", offsetof(struct nb_ops, add), 0},
    {"copy", offsetof(struct nb_ops, copy), 0},
};

static_assert(sizeof(struct nb_ops) == (12 + 3 * NB_COMPUTE_COUNT) * sizeof(nb_any_fn),
              "every slot has its row above");

nb_any_fn nb_ops_find(const struct nb_ops *ops, const char *op, nb_compute compute)
{
    nb_any_fn fn = NULL;
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++) {
        if (strcmp(slots[i].op, op) != 0) continue;
        size_t offset = slots[i].offset;
        if (slots[i].by_compute) offset += (size_t)compute * sizeof fn;
        memcpy(&fn, (const char *)ops + offset, sizeof fn);
    }
    return fn;
}

const char *nb_ops_variant_name(const nb_device *device, const char *op, nb_compute compute)
{
    static const char *const names[NB_CPU_N_CAPS + 1] = {"reference", "avx2", "avx512",
                                                         "avx512-vnni", "avx512-bf16"};
    nb_any_fn fn = nb_ops_find(nb_device_ops(device), op, compute);
    assert(fn);
    for (int rung = 0; rung <= NB_CPU_N_CAPS; rung++) {
        struct nb_ops ops;
        nb_ops_init_ref(&ops);
        nb_ops_climb_cpu(&ops, nb_device_caps(device) & ((1u << rung) - 1u));
        if (nb_ops_find(&ops, op, compute) == fn) return names[rung];
    }
    return nb_device_name(device);
}
