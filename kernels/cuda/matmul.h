// Dense products on the device through cuBLASLt. Twin of kernels/matmul.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/matmul.h"

namespace espalier::kernels::cuda {

// d = op(a) op(b) + (addend: c), row-major without gaps; shapes as kernels::Product says. c may be d, or another array (the residual
// stream), or null. T in, T out, or T in and fp32 out (Out = float); sums in fp32. T = float computes in true fp32, not tf32.
template <typename T, typename Out = T>
struct MatmulArgs {
  Product product = Product::kNT;
  const T* a = nullptr;
  const T* b = nullptr;
  const Out* c = nullptr;
  Out* d = nullptr;
  int64_t m = 0, n = 0, k = 0;
};

// Holds handle, workspace and the algorithm chosen for each shape: the first product of a shape measures a few candidates that cuBLASLt
// suggests (on scratch output) unless `tune` is false. m, n or k == 0 is fine. Not thread-safe; one a stream.
class Matmul {
 public:
  // Loads cuBLASLt: kUnavailable says that it is absent and where it was looked for.
  static absl::StatusOr<std::unique_ptr<Matmul>> Create(bool tune);
  virtual ~Matmul() = default;
  virtual absl::Status Run(const MatmulArgs<__nv_bfloat16>& args, cudaStream_t stream) = 0;
  virtual absl::Status Run(const MatmulArgs<__nv_bfloat16, float>& args, cudaStream_t stream) = 0;
  virtual absl::Status Run(const MatmulArgs<float>& args, cudaStream_t stream) = 0;
};

}  // namespace espalier::kernels::cuda
