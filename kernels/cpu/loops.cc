// Chooses the set of loops by what the processor says it can do.
#include "kernels/cpu/loops.h"

namespace espalier::kernels {

#define ESPALIER_DECLARE_SET(set)     \
  namespace set {                     \
  extern const Loops<float> kFloat;   \
  extern const Loops<double> kDouble; \
  }
ESPALIER_DECLARE_SET(loops_base)
ESPALIER_DECLARE_SET(loops_avx2)
ESPALIER_DECLARE_SET(loops_avx512)
#undef ESPALIER_DECLARE_SET

namespace {
template <typename T>
const Loops<T>& Pick(const Loops<float>& for_float, const Loops<double>& for_double) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return for_float;
  } else {
    return for_double;
  }
}
}  // namespace

template <typename T>
int LoopSets(const Loops<T>* sets[3]) {
  int count = 0;
  sets[count++] = &Pick<T>(loops_base::kFloat, loops_base::kDouble);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v3")) {
    sets[count++] = &Pick<T>(loops_avx2::kFloat, loops_avx2::kDouble);
  }
  if (__builtin_cpu_supports("x86-64-v4")) {
    sets[count++] = &Pick<T>(loops_avx512::kFloat, loops_avx512::kDouble);
  }
#endif
  return count;
}

template <typename T>
const Loops<T>& BestLoops() {
  static const Loops<T>& best = []() -> const Loops<T>& {
    const Loops<T>* sets[3];
    return *sets[LoopSets<T>(sets) - 1];
  }();
  return best;
}

template int LoopSets<float>(const Loops<float>* sets[3]);
template int LoopSets<double>(const Loops<double>* sets[3]);
template const Loops<float>& BestLoops<float>();
template const Loops<double>& BestLoops<double>();

}  // namespace espalier::kernels
