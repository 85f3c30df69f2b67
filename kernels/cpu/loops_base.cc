// The loops for any x86-64 or other processor; CMakeLists.txt sets the flags.
#define ESPALIER_LOOPS_SET loops_base
#define ESPALIER_LOOPS_NAME "base"
#include "kernels/cpu/loops_body.h"
