/* The CPU's variants, named operation_policy_instructions. */
#ifndef NB_KERNELS_CPU_CPU_OPS_H
#define NB_KERNELS_CPU_CPU_OPS_H

#include "kernels/ops.h"

#endif
