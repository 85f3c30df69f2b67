// From logits to log-probabilities and entropies, and back to the logits' gradient. Twin of kernels/head.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// One pass over each row of logits (kept in registers or shared memory where it fits; sums in fp32).
//   logits [rows, vocabulary]   targets [rows], -1: logp is 0
//   logp, lse [rows] fp32, written   entropy [rows] fp32, written unless null
template <typename T>
struct LogProbArgs {
  const T* logits = nullptr;
  const int32_t* targets = nullptr;
  float* logp = nullptr;
  float* lse = nullptr;
  float* entropy = nullptr;
  int64_t rows = 0, vocabulary = 0;
};
template <typename T>
[[nodiscard]] cudaError_t LogProb(const LogProbArgs<T>& args, cudaStream_t stream);

// In place: logits become dlogp * (onehot(target) - softmax(logits)); rows with target -1 become zero.
template <typename T>
[[nodiscard]] cudaError_t LogitsGradient(T* logits, const int32_t* targets, const float* lse, const float* dlogp,
                                         int64_t rows, int64_t vocabulary, cudaStream_t stream);

// LogProb and LogitsGradient in one kernel, for a loss whose slope dlogp [rows] is known beforehand: the second look at a row finds it in
// the cache. Same results as the two one after the other.
template <typename T>
[[nodiscard]] cudaError_t LogProbAndGradient(T* logits, const int32_t* targets, const float* dlogp, float* logp, int64_t rows,
                                             int64_t vocabulary, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
