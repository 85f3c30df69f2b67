// AdamW over flat arrays on the device with fp32 masters, and squared norms. Twin of kernels/adamw.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// One step over n elements, in one pass over memory (26 bytes an element read and written for bf16, 28 with the gradient):
// the formulas of kernels/adamw.h on `master`; `value` becomes master rounded to T.
//   master, moment1, moment2 [n] fp32   grad, value [n] T; value may be master when T is float
//   skip: device flag, or null; when *skip != 0 nothing changes
template <typename T>
struct AdamWArgs {
  float* master = nullptr;
  const T* grad = nullptr;
  float* moment1 = nullptr;
  float* moment2 = nullptr;
  T* value = nullptr;
  int64_t n = 0;
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0;
  float correction1 = 1, correction2 = 1;
  float grad_scale = 1;
  const int32_t* skip = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t AdamW(const AdamWArgs<T>& args, cudaStream_t stream);

// *out = sum of squares of x[0..n), over fixed blocks in fixed order: same bits each time. partials [kNormBlocks] double.
inline constexpr int kNormBlocks = 1024;
template <typename T>
[[nodiscard]] cudaError_t SquaredNorm(const T* x, int64_t n, double* partials, double* out, cudaStream_t stream);

// value = master rounded to T, and the other way round.
template <typename T>
[[nodiscard]] cudaError_t RoundTo(const float* master, T* value, int64_t n, cudaStream_t stream);
template <typename T>
[[nodiscard]] cudaError_t Widen(const T* value, float* out, int64_t n, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
