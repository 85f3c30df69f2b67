// Draws one token a row from logits on the device. Twin of kernels/sampling.h: the same token for the same random number up to rounding.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

template <typename T>
struct SampleArgs {
  const T* logits = nullptr;        // [rows, vocabulary]
  const double* uniform = nullptr;  // [rows] in (0, 1)
  int32_t* token = nullptr;         // [rows]
  float* logp = nullptr;            // [rows] at temperature 1
  int64_t rows = 0, vocabulary = 0;
  double temperature = 1.0;         // 0: the likeliest, lowest index of equals
};
template <typename T>
[[nodiscard]] cudaError_t SampleTokens(const SampleArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
