#include "kernels/roof.h"

#include "kernels/base/cpu.h"
#include "kernels/cpu/roof.h"

const char *nb_roof_name(nb_roof roof)
{
    static const char *const names[NB_ROOF_COUNT] = {"f32", "bf16", "int8", "read"};
    return names[roof];
}

#if defined(__x86_64__)

/* By rising capability. */
static const struct rung {
    nb_roof roof;
    unsigned cap;
    const nb_roof_loop *loop;
} rungs[] = {
    {NB_ROOF_F32, NB_CPU_AVX2, &nb_roof_f32_avx2},
    {NB_ROOF_READ, NB_CPU_AVX2, &nb_roof_read_avx2},
    {NB_ROOF_F32, NB_CPU_AVX512, &nb_roof_f32_avx512},
    {NB_ROOF_READ, NB_CPU_AVX512, &nb_roof_read_avx512},
    {NB_ROOF_BF16, NB_CPU_AVX512_BF16, &nb_roof_bf16_avx512bf16},
    {NB_ROOF_INT8, NB_CPU_AVX512_VNNI, &nb_roof_int8_avx512vnni},
};

const nb_roof_loop *nb_roof_find(nb_roof roof, unsigned caps)
{
    const nb_roof_loop *found = NULL;
    for (size_t i = 0; i < sizeof rungs / sizeof rungs[0]; i++)
        if (rungs[i].roof == roof && (caps & rungs[i].cap)) found = rungs[i].loop;
    return found;
}

#else

const nb_roof_loop *nb_roof_find(nb_roof roof, unsigned caps)
{
    (void)roof;
    (void)caps;
    return NULL;
}

#endif

nb_roof nb_roof_of_compute(nb_compute compute, unsigned caps)
{
    static const nb_roof own[NB_COMPUTE_COUNT] = {
        [NB_COMPUTE_BF16] = NB_ROOF_BF16, [NB_COMPUTE_A8] = NB_ROOF_INT8};
    return nb_roof_find(own[compute], caps) ? own[compute] : NB_ROOF_F32;
}
