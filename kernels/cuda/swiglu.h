// The gate of an expert on the device, with the weight of its row, and its gradient. Twin of kernels/swiglu.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// h = row_weight * silu(gate) * up.  A row of gate_up is F gates, then F ups; row_weight null means 1.
//   gate_up [rows, 2F]   row_weight [rows] fp32   h [rows, F]
template <typename T>
[[nodiscard]] cudaError_t Swiglu(const T* gate_up, const float* row_weight, T* h, int64_t rows, int64_t inner,
                                 cudaStream_t stream);

// From dh [rows, F]: dgate_up [rows, 2F] (may be gate_up itself) and, unless null, drow_weight [rows] =
// dot(dh, silu(gate) * up).
template <typename T>
struct SwigluBackwardArgs {
  const T* gate_up = nullptr;
  const float* row_weight = nullptr;
  const T* dh = nullptr;
  T* dgate_up = nullptr;
  float* drow_weight = nullptr;
  int64_t rows = 0, inner = 0;
};
template <typename T>
[[nodiscard]] cudaError_t SwigluBackward(const SwigluBackwardArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
