#include "kernels/cpu/a4_body.h"
#include "kernels/cpu/cpu_ops.h"

void nb_linear_a4_avx2(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_a4(s, a, round_row);
}
