// AdamW over flat arrays on the device with fp32 masters, and squared norms. Twin of kernels/adamw.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// A fp32 master in two halves: `value` is its upper half rounded to bf16 (ties away from zero), `low` what is left, as a signed number
// of units in the last place of fp32. Together they are the master bit for bit, and the optimizer need not write the value beside it.
//   master [n] fp32   value [n]   low [n]
[[nodiscard]] cudaError_t SplitMaster(const float* master, __nv_bfloat16* value, int16_t* low, int64_t n,
                                      cudaStream_t stream);
[[nodiscard]] cudaError_t JoinMaster(const __nv_bfloat16* value, const int16_t* low, float* master, int64_t n,
                                     cudaStream_t stream);

// One step over n elements, in one pass over memory: the formulas of kernels/adamw.h on the master.
//   grad, value [n] T   moment1, moment2 [n] fp32
//   master  fp32 [n], and `value` becomes master rounded to T (28 bytes an element in bf16); value may be master when T is float
//   low     or, with T = bf16: the master is value and low (26 bytes), and `master` is not read
//   skip    device flag, or null; when *skip != 0 nothing changes
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
  int16_t* low = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t AdamW(const AdamWArgs<T>& args, cudaStream_t stream);

// *out = sum of squares of x[0..n), over fixed blocks in fixed order: same bits each time. partials [kNormBlocks] double.
inline constexpr int kNormBlocks = 1024;
template <typename T>
[[nodiscard]] cudaError_t SquaredNorm(const T* x, int64_t n, double* partials, double* out, cudaStream_t stream);

// *out = the sum of x[0..n), in a fixed order.
[[nodiscard]] cudaError_t Sum(const double* x, int64_t n, double* out, cudaStream_t stream);

// value = master rounded to T, and the other way round.
template <typename T>
[[nodiscard]] cudaError_t RoundTo(const float* master, T* value, int64_t n, cudaStream_t stream);
template <typename T>
[[nodiscard]] cudaError_t Widen(const T* value, float* out, int64_t n, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
