// The loops for AVX2 and FMA (x86-64-v3); CMakeLists.txt sets the flags.
#define ESPALIER_LOOPS_SET loops_avx2
#define ESPALIER_LOOPS_NAME "avx2"
#include "kernels/cpu/loops_body.h"
