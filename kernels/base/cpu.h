/*
 * What the processor at hand can do, and a mask to pretend that it can do less (the check
 * harness climbs the ladder with it; the program offers it for diagnosis).
 */
#ifndef NB_KERNELS_BASE_CPU_H
#define NB_KERNELS_BASE_CPU_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nb_cpu_cap {
    NB_CPU_AVX2 = 1 << 0,        /* AVX2, FMA and F16C */
    NB_CPU_AVX512 = 1 << 1,      /* AVX-512 F, BW, DQ, VL */
    NB_CPU_AVX512_VNNI = 1 << 2, /* ... and VNNI, VBMI */
    NB_CPU_AVX512_BF16 = 1 << 3, /* ... and BF16 */
} nb_cpu_cap;

enum { NB_CPU_N_CAPS = 4 };

unsigned nb_cpu_caps(void);             /* of the processor and the operating system */
const char *nb_cpu_cap_name(int index); /* "AVX2" for bit 0 ...; index < NB_CPU_N_CAPS */

/* Processors this process may run on. */
int nb_cpu_count(void);

/* The processor's name as it gives it itself ("AMD EPYC ..."), into a buffer of 64 bytes. */
void nb_cpu_name(char name[64]);

#ifdef __cplusplus
}
#endif
#endif
