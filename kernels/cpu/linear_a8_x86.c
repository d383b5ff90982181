/* The 8-bit linear of each rung of x86. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/linear_a8.h"

#if defined(__x86_64__)

static const nb_a8_isa avx2 = {
    .rows = 6,
    .lanes = 16,
    .element_bytes = 2,
    .tile_full = nb_a8_tile_full_avx2,
    .tile_half = nb_a8_tile_half_avx2,
    .decode = nb_a8_decode_avx2,
    .pack = nb_a8_pack_avx2,
    .finish = nb_linear_finish_avx2,
};

static const nb_a8_isa avx512vnni = {
    .rows = 6,
    .lanes = 32,
    .element_bytes = 1,
    .tile_full = nb_a8_tile_full_avx512vnni,
    .tile_half = nb_a8_tile_half_avx512vnni,
    .decode = nb_a8_decode_avx512vnni,
    .pack = nb_a8_pack_avx512vnni,
    .finish = nb_linear_finish_avx512,
    .pack_few = nb_a8_pack_few_avx512vnni,
    .few = nb_a8_few_avx512vnni,
};

void nb_linear_a8_avx2(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_a8(s, a, &avx2);
}

void nb_linear_a8_avx512vnni(nb_stream *s, const nb_linear_args *a)
{
    nb_linear_a8(s, a, &avx512vnni);
}

#endif
