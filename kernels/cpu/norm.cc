// RMSNorm by rows.
#include "kernels/norm.h"

#include <algorithm>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {
constexpr int64_t kRowsMin = 64;  // fewer rows are not worth another thread
}

template <typename T>
void RmsNorm(const RmsNormArgs<T>& args, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  pool.ForRanges(args.rows, kRowsMin, [&](int64_t begin, int64_t end) {
    loops.rmsnorm_forward(args.x + begin * args.width, args.weight, args.y + begin * args.width,
                          args.rstd + begin, end - begin, args.width, static_cast<T>(args.eps));
  });
}

template <typename T>
void RmsNormBackward(const RmsNormBackwardArgs<T>& args, Buffer<T>& scratch,
                     base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  const int64_t shares =
      std::max<int64_t>(1, std::min<int64_t>(pool.threads(), args.rows / kRowsMin));
  T* partial = scratch.Get(shares * args.width);
  std::fill(partial, partial + shares * args.width, T(0));
  pool.ForTasks(shares, [&](int64_t share, int) {
    const int64_t begin = args.rows * share / shares, end = args.rows * (share + 1) / shares;
    loops.rmsnorm_backward(args.dy + begin * args.width, args.x + begin * args.width, args.weight,
                           args.rstd + begin, args.dx + begin * args.width,
                           partial + share * args.width, end - begin, args.width);
  });
  for (int64_t share = 0; share < shares; ++share)
    loops.add(partial + share * args.width, args.dweight, args.width);
}

#define ESPALIER_INSTANTIATE(T)                                       \
  template void RmsNorm<T>(const RmsNormArgs<T>&, base::ThreadPool&); \
  template void RmsNormBackward<T>(const RmsNormBackwardArgs<T>&, Buffer<T>&, base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
