/*
 * A device: memory and a table of operations. An architecture in models/ never asks which
 * device it is on; it allocates from the stream and calls operations, and the table does the
 * rest.
 */
#ifndef NB_KERNELS_BASE_DEVICE_H
#define NB_KERNELS_BASE_DEVICE_H

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_device nb_device;
struct nb_ops;

/* The CPU restricted to `caps` (nb_cpu_caps() for all that it can do; 0 gives the references in
 * plain C). Never fails for want of a capability: missing rungs of the ladder are skipped. */
nb_status nb_device_open_cpu(unsigned caps, nb_device **out) NB_MUST_CHECK;

/* "cpu", "cuda", "cuda:1"; E_UNAVAILABLE with a sentence that says why when it is not there. */
nb_status nb_device_open(const char *name, nb_device **out) NB_MUST_CHECK;

void nb_device_close(nb_device *d);

const char *nb_device_name(const nb_device *d);         /* "cpu" */
const struct nb_ops *nb_device_ops(const nb_device *d); /* kernels/ops.h */
unsigned nb_device_caps(const nb_device *d);            /* bits of nb_cpu_cap */

#ifdef __cplusplus
}
#endif
#endif
