// Causal attention of equal-length sequences through cuDNN's backend API (bf16): plans are built once a shape and kept.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::kernels::cuda {

// A row of `qkv` is H query heads, then G key heads, then G value heads, already rotated; rows (b, s) stand in order.
struct AttentionShape {
  int64_t batch = 0, length = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  auto operator<=>(const AttentionShape&) const = default;
};

// Not thread-safe. cuDNN is loaded when the object is made: kUnavailable says that it is absent and where it was looked for.
class CudnnAttention {
 public:
  static absl::StatusOr<std::unique_ptr<CudnnAttention>> Create();
  virtual ~CudnnAttention() = default;

  // Whether a plan for the shape exists or can be built (head_dim 64 or 128, say).
  virtual bool Supports(const AttentionShape& shape) = 0;
  //   qkv [B*S, (H+2G)*d]   out [B*S, H*d]   stats [B, H, S] fp32: log of the sum of exponentials
  virtual absl::Status Forward(const AttentionShape& shape, const __nv_bfloat16* qkv, __nv_bfloat16* out, float* stats,
                               cudaStream_t stream) = 0;
  // Writes dqkv in the layout of qkv.
  virtual absl::Status Backward(const AttentionShape& shape, const __nv_bfloat16* qkv, const __nv_bfloat16* out,
                                const float* stats, const __nv_bfloat16* dout, __nv_bfloat16* dqkv, cudaStream_t stream) = 0;
};

}  // namespace espalier::kernels::cuda
