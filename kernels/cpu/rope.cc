// Rotary embedding by rows, with angles from a table.
#include "kernels/rope.h"

#include <cmath>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {

template <typename T>
void RopeTable<T>::Reserve(int64_t positions) {
  const int64_t half = head_dim_ / 2;
  int64_t have = static_cast<int64_t>(cos_.size()) / half;
  if (positions <= have) return;
  cos_.resize(positions * half);
  sin_.resize(positions * half);
  for (; have < positions; ++have) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = have * std::pow(theta_, -2.0 * i / head_dim_);
      cos_[have * half + i] = static_cast<T>(std::cos(angle));
      sin_[have * half + i] = static_cast<T>(std::sin(angle));
    }
  }
}

template <typename T>
void Rope(T* x, int64_t rows, int64_t heads, const int32_t* positions, const RopeTable<T>& table,
          RopeDirection direction, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  const T sign = direction == RopeDirection::kForward ? T(1) : T(-1);
  pool.ForRanges(rows, 64, [&](int64_t begin, int64_t end) {
    loops.rope(x + begin * heads * table.head_dim(), end - begin, heads, table.head_dim(),
               positions + begin, table.cos(), table.sin(), sign);
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                   \
  template class RopeTable<T>;                                                                    \
  template void Rope<T>(T*, int64_t, int64_t, const int32_t*, const RopeTable<T>&, RopeDirection, \
                        base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
