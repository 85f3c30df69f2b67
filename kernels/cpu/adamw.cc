// AdamW and squared norm over flat arrays: bound by memory, so one pass each.
#include "kernels/adamw.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {
constexpr int64_t kElementsMin = 32768;  // fewer are not worth another thread
constexpr int64_t kNormBlock = 1 << 16;
}  // namespace

template <typename T>
void AdamW(const AdamWArgs<T>& args, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  pool.ForRanges(args.n, kElementsMin, [&](int64_t begin, int64_t end) {
    loops.adamw(args.value + begin, args.grad + begin, args.moment1 + begin, args.moment2 + begin,
                end - begin, static_cast<T>(args.lr), static_cast<T>(args.beta1),
                static_cast<T>(args.beta2), static_cast<T>(args.eps),
                static_cast<T>(args.weight_decay), static_cast<T>(1 / args.correction1),
                static_cast<T>(1 / args.correction2), static_cast<T>(args.grad_scale));
  });
}

template <typename T>
double SquaredNorm(const T* x, int64_t n, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  const int64_t blocks = (n + kNormBlock - 1) / kNormBlock;
  const auto block_sum = [&](int64_t block) {
    return loops.squared_norm(x + block * kNormBlock, std::min(kNormBlock, n - block * kNormBlock));
  };
  if (blocks == 1) return block_sum(0);
  std::vector<double> sums(blocks);
  pool.ForTasks(blocks, [&](int64_t block, int) { sums[block] = block_sum(block); });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

#define ESPALIER_INSTANTIATE(T)                                   \
  template void AdamW<T>(const AdamWArgs<T>&, base::ThreadPool&); \
  template double SquaredNorm<T>(const T*, int64_t, base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
