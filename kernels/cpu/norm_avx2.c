#if defined(__x86_64__)

#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/norm_body.h"

#endif
