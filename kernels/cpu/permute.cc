// Counting sort of choices by expert, and row copies along it.
#include "kernels/permute.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {
constexpr int64_t kRowsMin = 64;  // fewer rows are not worth another thread
}

void PlanSlots(const int32_t* choice, int64_t tokens, int64_t top_k,
               std::span<const int32_t> group_of, int64_t* offsets, int32_t* slot,
               int32_t* token_of) {
  const int64_t groups = static_cast<int64_t>(group_of.size());
  std::fill(offsets, offsets + groups + 1, 0);
  for (int64_t i = 0; i < tokens * top_k; ++i) ++offsets[group_of[choice[i]] + 1];
  for (int64_t group = 0; group < groups; ++group) offsets[group + 1] += offsets[group];
  std::vector<int64_t> next(offsets, offsets + groups);
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    const int64_t row = next[group_of[choice[i]]]++;
    slot[i] = static_cast<int32_t>(row);
    token_of[row] = static_cast<int32_t>(i / top_k);
  }
}

template <typename T>
void GatherRows(const T* x, const int32_t* source, T* out, int64_t rows, int64_t width,
                base::ThreadPool& pool) {
  pool.ForRanges(rows, kRowsMin, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(out + row * width, x + source[row] * width, width * sizeof(T));
    }
  });
}

template <typename T>
void Combine(const CombineArgs<T>& args, T* out, base::ThreadPool& pool) {
  pool.ForRanges(args.tokens, kRowsMin, [&](int64_t begin, int64_t end) {
    BestLoops<T>().combine(args.expert_rows, args.weight + begin * args.top_k,
                           args.slot + begin * args.top_k, out + begin * args.width, end - begin,
                           args.top_k, args.width);
  });
}

template <typename T>
void CombineBackward(const CombineArgs<T>& args, const T* dout, T* dexpert, T* dweight,
                     base::ThreadPool& pool) {
  pool.ForRanges(args.tokens, kRowsMin, [&](int64_t begin, int64_t end) {
    BestLoops<T>().combine_backward(
        dout + begin * args.width, args.expert_rows, args.weight + begin * args.top_k,
        args.slot + begin * args.top_k, dexpert, dweight + begin * args.top_k, end - begin,
        args.top_k, args.width);
  });
}

template <typename T>
void Unpermute(const CombineArgs<T>& args, T* out, base::ThreadPool& pool) {
  pool.ForRanges(args.tokens, kRowsMin, [&](int64_t begin, int64_t end) {
    BestLoops<T>().gather_add(args.expert_rows, args.slot + begin * args.top_k,
                              out + begin * args.width, end - begin, args.top_k, args.width);
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                   \
  template void GatherRows<T>(const T*, const int32_t*, T*, int64_t, int64_t, base::ThreadPool&); \
  template void Combine<T>(const CombineArgs<T>&, T*, base::ThreadPool&);                         \
  template void CombineBackward<T>(const CombineArgs<T>&, const T*, T*, T*, base::ThreadPool&);   \
  template void Unpermute<T>(const CombineArgs<T>&, T*, base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
