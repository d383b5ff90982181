#include "kernels/cpu/cpu_ops.h"

#include "kernels/base/cpu.h"

void nb_ops_climb_cpu(struct nb_ops *ops, unsigned caps)
{
    (void)ops;
    (void)caps;
}
