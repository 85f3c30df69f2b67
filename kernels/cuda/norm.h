// Root-mean-square normalisation on the device, and its gradient. Twin of kernels/norm.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

namespace espalier::kernels::cuda {

// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps), by row; sums in fp32. T is float or __nv_bfloat16.
//   x, y [rows, width]   weight [width]   rstd [rows] fp32, written unless null
// y may be x. Enqueues; rows == 0 is fine.
// With `slot` [rows, top_k], what is normalised is sum = x (zero when null) + the sum over k of slot_rows[slot[row, k]] (SumSlots' order
// and rounding), and sum [rows, width] is written too; sum may be x.
template <typename T>
struct RmsNormArgs {
  const T* x = nullptr;
  const T* weight = nullptr;
  T* y = nullptr;
  float* rstd = nullptr;
  int64_t rows = 0, width = 0;
  float eps = 1e-5f;
  const T* slot_rows = nullptr;
  const int32_t* slot = nullptr;
  int top_k = 0;
  T* sum = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t RmsNorm(const RmsNormArgs<T>& args, cudaStream_t stream);

// A weight's gradient in shares: dweight [width] is (or grows by, with `accumulate`) the sum of partials [shares, width], in order.
template <typename T>
struct NormShares {
  const float* partials = nullptr;
  int shares = 0;
  int64_t width = 0;
  bool accumulate = false;
  T* dweight = nullptr;
};
// Up to kNormSharesMax of them in one launch; those of width 0 are passed over.
inline constexpr int kNormSharesMax = 4;
template <typename T>
[[nodiscard]] cudaError_t AddNormShares(std::span<const NormShares<T>> all, cudaStream_t stream);

// dx = residual + gradient of x (`residual` is the residual stream's gradient and may be dx or null); dweight is written, or added to with
// `accumulate`. Shares of dweight go through `partials` and are added in a fixed order: same inputs, same bits.
//   dy, x, residual, dx [rows, width]   weight, dweight [width]   rstd [rows]   partials [kNormPartials, width] fp32
// With `later`, dweight is left to AddNormShares, which wants what is written there.
// With `slot` [rows, top_k], dy is dy + the sum over k of slot_rows[slot[row, k]] (SumSlots' order and rounding), without a pass of its own.
inline constexpr int kNormPartials = 264;
template <typename T>
struct RmsNormBackwardArgs {
  const T* dy = nullptr;
  const T* x = nullptr;
  const T* weight = nullptr;
  const float* rstd = nullptr;
  const T* residual = nullptr;
  T* dx = nullptr;
  T* dweight = nullptr;
  float* partials = nullptr;
  int64_t rows = 0, width = 0;
  bool accumulate = false;
  const T* slot_rows = nullptr;
  const int32_t* slot = nullptr;
  int top_k = 0;
  NormShares<T>* later = nullptr;
  int64_t dy_stride = 0, dx_stride = 0;  // elements from row to row of dy and dx where that is not width
};
template <typename T>
[[nodiscard]] cudaError_t RmsNormBackward(const RmsNormBackwardArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
