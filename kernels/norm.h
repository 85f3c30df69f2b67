// Root-mean-square normalisation with a learned scale, and its gradient.
#pragma once

#include <cstdint>

#include "kernels/buffer.h"
#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// y = x / sqrt(mean(x^2) + eps) * weight, by row.
//   x, y    [rows, width]     rstd [rows]: 1 / root mean square, kept for the backward pass
//   weight  [width]
template <typename T>
struct RmsNormArgs {
  const T* x = nullptr;
  const T* weight = nullptr;
  T* y = nullptr;
  T* rstd = nullptr;
  int64_t rows = 0, width = 0;
  double eps = 1e-5;
};
template <typename T>
void RmsNorm(const RmsNormArgs<T>& args, base::ThreadPool& pool);

// dx += gradient of x (the residual stream's gradient is there already); dweight += gradient of
// weight.
//   dy, x, dx [rows, width]   weight, dweight [width]   rstd [rows]
// `scratch` holds the threads' shares of dweight, which are added in order of thread.
template <typename T>
struct RmsNormBackwardArgs {
  const T* dy = nullptr;
  const T* x = nullptr;
  const T* weight = nullptr;
  const T* rstd = nullptr;
  T* dx = nullptr;
  T* dweight = nullptr;
  int64_t rows = 0, width = 0;
};
template <typename T>
void RmsNormBackward(const RmsNormBackwardArgs<T>& args, Buffer<T>& scratch,
                     base::ThreadPool& pool);

}  // namespace espalier::kernels
