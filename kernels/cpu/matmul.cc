// Cuts products into independent blocks for the threads; the BLAS does the rest.
#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm.h"

namespace espalier::kernels {
namespace {

constexpr int64_t kMinBlock = 32;     // rows or columns: smaller blocks waste the BLAS' packing
constexpr int64_t kGroupBlock = 256;  // rows of one group that make one task

// Rows [begin, end) of C, for row-split products.
template <typename T>
void MatmulRows(const MatmulArgs<T>& args, int64_t begin, int64_t end) {
  const bool transposed = args.product == Product::kTN;
  Gemm(args.product, end - begin, args.n, args.k,
       transposed ? args.a + begin : args.a + begin * args.k, transposed ? args.m : args.k, args.b,
       args.product == Product::kNT ? args.k : args.n, args.c + begin * args.n, args.n,
       args.accumulate);
}

template <typename T>
void MatmulColumns(const MatmulArgs<T>& args, int64_t begin, int64_t end) {
  const bool transposed = args.product == Product::kNT;
  Gemm(args.product, args.m, end - begin, args.k, args.a,
       args.product == Product::kTN ? args.m : args.k,
       transposed ? args.b + begin * args.k : args.b + begin, transposed ? args.k : args.n,
       args.c + begin, args.n, args.accumulate);
}

}  // namespace

template <typename T>
void Matmul(const MatmulArgs<T>& args, base::ThreadPool& pool) {
  if (args.m == 0 || args.n == 0) return;
  if (args.m >= args.n) {
    pool.ForRanges(args.m, kMinBlock,
                   [&](int64_t begin, int64_t end) { MatmulRows(args, begin, end); });
  } else {
    pool.ForRanges(args.n, kMinBlock,
                   [&](int64_t begin, int64_t end) { MatmulColumns(args, begin, end); });
  }
}

template <typename T>
void GroupedMatmul(const GroupedMatmulArgs<T>& args, base::ThreadPool& pool) {
  const int64_t groups = static_cast<int64_t>(args.b.size());
  const auto block = [&](int64_t group, int64_t begin, int64_t end) {
    Gemm(args.product, end - begin, args.n, args.k, args.a + begin * args.k, args.k, args.b[group],
         args.product == Product::kNT ? args.k : args.n, args.c + begin * args.n, args.n,
         args.accumulate);
  };
  if (pool.threads() == 1) {
    for (int64_t group = 0; group < groups; ++group)
      block(group, args.offsets[group], args.offsets[group + 1]);
    return;
  }
  int64_t longest = 0;
  for (int64_t group = 0; group < groups; ++group) {
    longest = std::max(longest, args.offsets[group + 1] - args.offsets[group]);
  }
  // Tasks are numbered [block][group]; those past the end of a short group are empty.
  const int64_t blocks = (longest + kGroupBlock - 1) / kGroupBlock;
  pool.ForTasks(blocks * groups, [&](int64_t task, int) {
    const int64_t group = task % groups;
    const int64_t begin = args.offsets[group] + task / groups * kGroupBlock;
    const int64_t end = std::min(begin + kGroupBlock, args.offsets[group + 1]);
    if (begin < end) block(group, begin, end);
  });
}

template <typename T>
void GroupedGradient(const GroupedGradientArgs<T>& args, base::ThreadPool& pool) {
  const int64_t groups = static_cast<int64_t>(args.c.size());
  const int64_t pieces =
      std::max<int64_t>(1, std::min<int64_t>(pool.threads(), args.m / kMinBlock));
  pool.ForTasks(groups * pieces, [&](int64_t task, int) {
    const int64_t group = task / pieces, piece = task % pieces;
    const int64_t first = args.offsets[group], rows = args.offsets[group + 1] - first;
    if (rows == 0) return;
    const int64_t begin = args.m * piece / pieces, end = args.m * (piece + 1) / pieces;
    Gemm(Product::kTN, end - begin, args.n, rows, args.a + first * args.m + begin, args.m,
         args.b + first * args.n, args.n, args.c[group] + begin * args.n, args.n,
         /*accumulate=*/true);
  });
}

void LimitBlasThreads() { openblas_set_num_threads(1); }

#define ESPALIER_INSTANTIATE(T)                                                   \
  template void Matmul<T>(const MatmulArgs<T>&, base::ThreadPool&);               \
  template void GroupedMatmul<T>(const GroupedMatmulArgs<T>&, base::ThreadPool&); \
  template void GroupedGradient<T>(const GroupedGradientArgs<T>&, base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
