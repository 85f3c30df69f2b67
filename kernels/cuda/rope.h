// Rotary position embedding in place on the device. Twin of kernels/rope.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// Turns the first `heads` heads of each row (query and key heads stand before the value heads in a fused row).
//   x [rows, row_stride]   head h at x + row * row_stride + h * head_dim; elements i and i + head_dim/2 turn together
//   positions [rows]   cos, sin [positions, head_dim/2] fp32
//   backward: turns back, which is the gradient
template <typename T>
struct RopeArgs {
  T* x = nullptr;
  int64_t rows = 0, row_stride = 0;
  int heads = 0, head_dim = 0;
  const int32_t* positions = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  bool backward = false;
};
template <typename T>
[[nodiscard]] cudaError_t Rope(const RopeArgs<T>& args, cudaStream_t stream);

// Fills cos and sin [positions, head_dim/2] with those of position * theta^(-2i/head_dim), computed in double.
[[nodiscard]] cudaError_t FillRopeTable(float* cos, float* sin, int64_t positions, int head_dim, double theta,
                                        cudaStream_t stream);

}  // namespace espalier::kernels::cuda
