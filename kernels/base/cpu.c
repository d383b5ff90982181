#define _GNU_SOURCE
#include "kernels/base/cpu.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

unsigned nb_cpu_caps(void)
{
    unsigned caps = 0;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return caps;
    caps |= NB_CPU_AVX2; /* every processor with AVX2 has F16C */
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return caps;
    caps |= NB_CPU_AVX512;
    if (!__builtin_cpu_supports("avx512vbmi")) return caps;
    if (__builtin_cpu_supports("avx512vnni")) caps |= NB_CPU_AVX512_VNNI;
    if (__builtin_cpu_supports("avx512bf16")) caps |= NB_CPU_AVX512_BF16;
    return caps;
}

void nb_cpu_name(char name[64])
{
    unsigned brand[13] = {0};
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(0x80000000u, &eax, &ebx, &ecx, &edx) && eax >= 0x80000004u)
        for (unsigned i = 0; i < 3; i++)
            __get_cpuid(0x80000002u + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2],
                        &brand[4 * i + 3]);
    const char *from = (const char *)brand;
    while (*from == ' ') from++;
    memset(name, 0, 64);
    strncpy(name, *from ? from : "x86-64", 63);
    for (size_t n = strlen(name); n && name[n - 1] == ' '; n--) name[n - 1] = 0;
}

#else

unsigned nb_cpu_caps(void)
{
    return 0;
}

void nb_cpu_name(char name[64])
{
    memset(name, 0, 64);
    strncpy(name, "generic", 63);
}

#endif

const char *nb_cpu_cap_name(int index)
{
    static const char *const names[NB_CPU_N_CAPS] = {"AVX2", "AVX-512", "AVX-512 VNNI",
                                                     "AVX-512 BF16"};
    return names[index];
}

int nb_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}
