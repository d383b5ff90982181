#include "kernels/base/device.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/cpu.h"
#include "kernels/ops.h"

struct nb_device {
    struct nb_ops ops;
    unsigned caps;
    char name[16];
};

nb_status nb_device_open_cpu(unsigned caps, nb_device **out)
{
    nb_device *d = calloc(1, sizeof *d);
    if (!d) return nb_fail(NB_E_SYSTEM, "out of memory: %zu bytes asked for", sizeof *d);
    d->caps = caps & nb_cpu_caps();
    memcpy(d->name, "cpu", sizeof "cpu");
    nb_ops_init_ref(&d->ops);
    nb_ops_climb_cpu(&d->ops, d->caps);
    *out = d;
    return NB_OK;
}

nb_status nb_device_open(const char *name, nb_device **out)
{
    if (!strcmp(name, "cpu")) return nb_device_open_cpu(nb_cpu_caps(), out);
    if (!strncmp(name, "cuda", 4))
        return nb_fail(NB_E_UNAVAILABLE, "device %s: this build has no CUDA", name);
    return nb_fail(NB_E_USAGE, "device: wanted cpu or cuda[:N], found %s", name);
}

void nb_device_close(nb_device *d)
{
    free(d);
}

const char *nb_device_name(const nb_device *d)
{
    return d->name;
}

const struct nb_ops *nb_device_ops(const nb_device *d)
{
    return &d->ops;
}

unsigned nb_device_caps(const nb_device *d)
{
    return d->caps;
}
