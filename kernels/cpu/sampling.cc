// Sampling by inverting the cumulative distribution, row by row.
#include "kernels/sampling.h"

#include <algorithm>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace {

// `weights` is scratch [vocabulary].
template <typename T>
int64_t Draw(const T* logits, int64_t vocabulary, double temperature, double uniform, T* weights) {
  if (temperature == 0) return std::max_element(logits, logits + vocabulary) - logits;
  double rest = uniform * BestLoops<T>().sampling_weights(
                              logits, vocabulary, static_cast<T>(1.0 / temperature), weights);
  // Rounding may leave a little over at the end: the last token with any weight takes it.
  int64_t token = 0;
  for (int64_t i = 0; i < vocabulary; ++i) {
    if (weights[i] <= 0) continue;
    token = i;
    rest -= weights[i];
    if (rest < 0) break;
  }
  return token;
}

}  // namespace

template <typename T>
void SampleTokens(const SampleArgs<T>& args, Buffer<T>& scratch, base::ThreadPool& pool) {
  T* weights = scratch.Get(args.vocabulary * pool.threads());
  pool.ForTasks(args.rows, [&](int64_t row, int thread) {
    const T* logits = args.logits + row * args.vocabulary;
    const int64_t token = Draw(logits, args.vocabulary, args.temperature, args.uniform[row],
                               weights + thread * args.vocabulary);
    args.token[row] = static_cast<int32_t>(token);
    args.logp[row] = static_cast<float>(
        logits[token] - BestLoops<T>().log_sum_exp(logits, args.vocabulary, nullptr));
  });
}

template void SampleTokens<float>(const SampleArgs<float>&, Buffer<float>&, base::ThreadPool&);
template void SampleTokens<double>(const SampleArgs<double>&, Buffer<double>&, base::ThreadPool&);

}  // namespace espalier::kernels
