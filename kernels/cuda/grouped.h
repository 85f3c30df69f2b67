// Products grouped by expert with group offsets in device memory: bf16 on Hopper by wgmma and TMA, else plain tiles.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul.h"

namespace espalier::kernels::cuda {

// Group g is rows [offsets[g], offsets[g+1]) of a and c (device offsets; offsets[groups] <= rows_max, which sizes the grid).
//   kNT: c[rows, n] = a[rows, k] b_g[n, k]^T      kNN: c[rows, n] = a[rows, k] b_g[k, n]
//   b [groups, n * k] back to back. Rows past offsets[groups] are not touched.
template <typename T>
struct GroupedMatmulArgs {
  Product product = Product::kNT;
  const int32_t* offsets = nullptr;
  int groups = 0;
  int64_t rows_max = 0;
  const T* a = nullptr;
  const T* b = nullptr;
  T* c = nullptr;
  int64_t n = 0, k = 0;
};
// Hopper's kernel where T is bf16, n and k are multiples of 8, groups at most 256 and the device is one; else GroupedMatmulPlain.
template <typename T>
[[nodiscard]] cudaError_t GroupedMatmul(const GroupedMatmulArgs<T>& args, cudaStream_t stream);
template <typename T>
[[nodiscard]] cudaError_t GroupedMatmulPlain(const GroupedMatmulArgs<T>& args, cudaStream_t stream);

// c_g[m, n] = a[rows, m]^T b[rows, n], written; an empty group's is zeros.   c [groups, m * n]
//   squares  null, or [kGradientSquares] doubles, zero before the first use: their sum becomes that of c's squares, which costs nothing
//            beside the product. The same bits for the same inputs.
inline constexpr int kGradientSquares = 2048;
template <typename T>
struct GroupedGradientArgs {
  const int32_t* offsets = nullptr;
  int groups = 0;
  int64_t rows_max = 0;
  const T* a = nullptr;
  const T* b = nullptr;
  T* c = nullptr;
  int64_t m = 0, n = 0;
  double* squares = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t GroupedGradient(const GroupedGradientArgs<T>& args, cudaStream_t stream);
// `squares` is not read.
template <typename T>
[[nodiscard]] cudaError_t GroupedGradientPlain(const GroupedGradientArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
