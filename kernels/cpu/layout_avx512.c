#if defined(__x86_64__)

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/layout_body.h"

#endif
