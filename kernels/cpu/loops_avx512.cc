// The loops for AVX-512 (x86-64-v4); CMakeLists.txt sets the flags.
#define ESPALIER_LOOPS_SET loops_avx512
#define ESPALIER_LOOPS_NAME "avx512"
#include "kernels/cpu/loops_body.h"
