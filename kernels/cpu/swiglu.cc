// SwiGLU, element by element.
#include "kernels/swiglu.h"

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {
constexpr int64_t kElementsMin = 16384;  // fewer are not worth another thread
}

template <typename T>
void Swiglu(const T* gate, const T* up, T* h, int64_t n, base::ThreadPool& pool) {
  pool.ForRanges(n, kElementsMin, [&](int64_t begin, int64_t end) {
    BestLoops<T>().swiglu_forward(gate + begin, up + begin, h + begin, end - begin);
  });
}

template <typename T>
void SwigluBackward(T* gate, T* up, T* dh, int64_t n, base::ThreadPool& pool) {
  pool.ForRanges(n, kElementsMin, [&](int64_t begin, int64_t end) {
    BestLoops<T>().swiglu_backward(gate + begin, up + begin, dh + begin, end - begin);
  });
}

#define ESPALIER_INSTANTIATE(T)                                                \
  template void Swiglu<T>(const T*, const T*, T*, int64_t, base::ThreadPool&); \
  template void SwigluBackward<T>(T*, T*, T*, int64_t, base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
