// Blocks of tokens small enough that their norms stay in the cache; each range of tokens sums for
// itself and adds what it has once.
#include "kernels/output_norm.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {

constexpr int64_t kTokensMin = 64;  // fewer are not worth another thread
constexpr int64_t kBlockTokens = 64;

int64_t ToUnits(double contribution) {
  if (!std::isfinite(contribution)) return 0;
  return static_cast<int64_t>(std::min(contribution, kOutputNormMax) * kOutputNormUnits + 0.5);
}

template <typename T>
void CombineRange(const OutputNormArgs<T>& args, int64_t begin, int64_t end, T* out) {
  const CombineArgs<T>& combine = args.combine;
  const int64_t top_k = combine.top_k;
  std::vector<T> norms(kBlockTokens * top_k);
  std::vector<int64_t> sums(args.experts, 0);
  for (int64_t block = begin; block < end; block += kBlockTokens) {
    const int64_t tokens = std::min(kBlockTokens, end - block);
    const T* weight = combine.weight + block * top_k;
    const int32_t* choice = args.choice + block * top_k;
    BestLoops<T>().combine_norms(combine.expert_rows, weight, combine.slot + block * top_k,
                                 out + block * combine.width, norms.data(), tokens, top_k,
                                 combine.width);
    for (int64_t i = 0; i < tokens * top_k; ++i) {
      sums[choice[i]] += ToUnits(static_cast<double>(weight[i]) * static_cast<double>(norms[i]));
    }
  }
  for (int64_t expert = 0; expert < args.experts; ++expert) {
    if (sums[expert] == 0) continue;
    std::atomic_ref<int64_t>(args.sums[expert]).fetch_add(sums[expert], std::memory_order_relaxed);
  }
}

}  // namespace

template <typename T>
void CombineWithNorms(const OutputNormArgs<T>& args, T* out, base::ThreadPool& pool) {
  pool.ForRanges(args.combine.tokens, kTokensMin,
                 [&](int64_t begin, int64_t end) { CombineRange(args, begin, end, out); });
}

template void CombineWithNorms<float>(const OutputNormArgs<float>&, float*, base::ThreadPool&);
template void CombineWithNorms<double>(const OutputNormArgs<double>&, double*, base::ThreadPool&);

}  // namespace espalier::kernels
