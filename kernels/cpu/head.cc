// The head in chunks of rows, so that the logits of a large vocabulary never stand in memory all at
// once.
#include "kernels/head.h"

#include <algorithm>

#include "kernels/cpu/loops.h"
#include "kernels/matmul.h"

namespace espalier::kernels {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 21;

template <typename T>
int64_t ChunkRows(const HeadArgs<T>& args) {
  if (args.keep && args.rows * args.vocabulary <= kLogitsKept)
    return std::max<int64_t>(args.rows, 1);
  return std::max<int64_t>(64, kChunkElements / args.vocabulary);
}

template <typename T>
void Logits(const HeadArgs<T>& args, int64_t begin, int64_t rows, T* logits,
            base::ThreadPool& pool) {
  Matmul(MatmulArgs<T>{.product = Product::kNT,
                       .a = args.hidden + begin * args.width,
                       .b = args.weight,
                       .c = logits,
                       .m = rows,
                       .n = args.vocabulary,
                       .k = args.width},
         pool);
}

}  // namespace

template <typename T>
void Head(const HeadArgs<T>& args, Buffer<T>& buffer, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  const int64_t chunk = ChunkRows(args);
  T* logits = buffer.Get(std::min(chunk, args.rows) * args.vocabulary);
  for (int64_t first = 0; first < args.rows; first += chunk) {
    const int64_t rows = std::min(chunk, args.rows - first);
    Logits(args, first, rows, logits, pool);
    pool.ForRanges(rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* x = logits + row * args.vocabulary;
        const int64_t at = first + row;
        const int32_t target = args.targets[at];
        args.lse[at] = loops.log_sum_exp(x, args.vocabulary,
                                         args.entropy == nullptr ? nullptr : args.entropy + at);
        args.logp[at] = target < 0 ? T(0) : x[target] - args.lse[at];
      }
    });
  }
}

template <typename T>
void HeadBackward(const HeadArgs<T>& args, const T* dlogp, T* dhidden, T* dweight,
                  Buffer<T>& buffer, base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  const int64_t chunk = ChunkRows(args), width = args.width, vocabulary = args.vocabulary;
  T* logits = buffer.data();
  for (int64_t first = 0; first < args.rows; first += chunk) {
    const int64_t rows = std::min(chunk, args.rows - first);
    if (chunk < args.rows) Logits(args, first, rows, logits, pool);
    pool.ForRanges(rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = first + row;
        const int32_t target = args.targets[at];
        loops.head_backward(logits + row * vocabulary, vocabulary, std::max(target, 0),
                            args.lse[at], target < 0 ? T(0) : dlogp[at]);
      }
    });
    Matmul(MatmulArgs<T>{.product = Product::kNN,
                         .a = logits,
                         .b = args.weight,
                         .c = dhidden + first * width,
                         .m = rows,
                         .n = width,
                         .k = vocabulary},
           pool);
    Matmul(MatmulArgs<T>{.product = Product::kTN,
                         .a = logits,
                         .b = args.hidden + first * width,
                         .c = dweight,
                         .m = vocabulary,
                         .n = width,
                         .k = rows,
                         .accumulate = true},
           pool);
  }
}

#define ESPALIER_INSTANTIATE(T)                                                   \
  template void Head<T>(const HeadArgs<T>&, Buffer<T>&, base::ThreadPool&);       \
  template void HeadBackward<T>(const HeadArgs<T>&, const T*, T*, T*, Buffer<T>&, \
                                base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
