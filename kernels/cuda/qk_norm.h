// RMS norm of the query or key heads inside fused rows of a projection, in place, and its gradient; on demand together with the rotation
// (kernels/cuda/rope.h) that follows, which then costs no pass of its own.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/norm.h"

namespace espalier::kernels::cuda {

// Each row holds `segments` segments of `width` elements one after the other; each is normalised as in kernels/cuda/norm.h with the same
// weight: the heads of a row, or all heads as one segment. Segment s of row r stands at x + r * row_stride + s * width.
// What stood there is kept in `raw` for the gradient: normalised values would not do, for a weight near 0 cannot be divided out of them.
// With `angles`, the normalised heads are turned as well, and the gradient is turned back first.
//   x [rows, row_stride]   raw [rows, segments * width] and rstd [rows, segments] fp32, written unless null   weight [width]
struct RopeAngles {
  const int32_t* positions = nullptr;                // [rows]; null: no rotation
  const float *cos = nullptr, *sin = nullptr;        // [positions, head_dim/2]
  int head_dim = 0;                                  // divides a segment's width
};
template <typename T>
struct QkNormArgs {
  T* x = nullptr;
  T* raw = nullptr;
  float* rstd = nullptr;
  const T* weight = nullptr;
  int64_t rows = 0, row_stride = 0;
  int64_t segments = 0, width = 0;
  float eps = 1e-5f;
  RopeAngles angles;
};
template <typename T>
[[nodiscard]] cudaError_t QkNorm(const QkNormArgs<T>& args, cudaStream_t stream);

// dx, the gradient of the normalised segments, becomes that of what was projected, in place; dweight is written. Shares of dweight go
// through `partials` and are added in a fixed order: same inputs, same bits. `later` as in RmsNormBackwardArgs.
//   dx [rows, row_stride]   raw, rstd as QkNorm wrote them   weight, dweight [width]   partials [kQkNormPartials, width] fp32
inline constexpr int kQkNormPartials = 528;
template <typename T>
struct QkNormBackwardArgs {
  T* dx = nullptr;
  const T* raw = nullptr;
  const float* rstd = nullptr;
  const T* weight = nullptr;
  T* dweight = nullptr;
  float* partials = nullptr;
  int64_t rows = 0, row_stride = 0;
  int64_t segments = 0, width = 0;
  RopeAngles angles;
  NormShares<T>* later = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t QkNormBackward(const QkNormBackwardArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
