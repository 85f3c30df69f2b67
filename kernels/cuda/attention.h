// Causal grouped-query attention over ragged packed sequences, plain kernels: any head size, fp32 and bf16. The reference for
// attention_cudnn.h and the way for what that does not take; and one decode step over a KV cache. Twin of kernels/attention.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// N tokens in sequences starts[i]..starts[i+1]; rows of q, k and v are `*_stride` elements apart, so that they may lie in one fused row.
//   q [N, H*d]   k, v [N, G*d]   out [N, H*d] without gaps   lse [N, H] fp32, natural log
//   sequence_of [N]: first token of each token's sequence (device)
template <typename T>
struct AttentionArgs {
  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  int64_t q_stride = 0, kv_stride = 0;
  T* out = nullptr;
  float* lse = nullptr;
  const int32_t* first_of = nullptr;  // [N] row where the token's sequence begins
  const int32_t* last_of = nullptr;   // [N] one past the last row of the token's sequence
  int64_t tokens = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;  // head_dim at most kHeadDimMax
};
inline constexpr int kHeadDimMax = 256;
template <typename T>
[[nodiscard]] cudaError_t Attention(const AttentionArgs<T>& args, cudaStream_t stream);

// Writes dq, dk and dv in the same strides as q, k and v. delta [N, H] fp32 scratch. Deterministic.
template <typename T>
struct AttentionBackwardArgs {
  AttentionArgs<T> forward;
  const T* dout = nullptr;  // [N, H*d]
  T* dq = nullptr;
  T* dk = nullptr;
  T* dv = nullptr;
  float* delta = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t AttentionBackward(const AttentionBackwardArgs<T>& args, cudaStream_t stream);

// The keys and values of many sequences of one layer: [sequences, capacity, G, d] each.
template <typename T>
struct KvCache {
  T* keys = nullptr;
  T* values = nullptr;
  int64_t capacity = 0;
  int kv_heads = 0, head_dim = 0;
};
// Row i of k and v goes to sequences[i] at positions[i] (device arrays [rows]).
template <typename T>
[[nodiscard]] cudaError_t AppendToCache(const KvCache<T>& cache, const int32_t* sequences, const int32_t* positions, const T* k,
                                        const T* v, int64_t kv_stride, int64_t rows, cudaStream_t stream);
// Row i attends over lengths[i] cached tokens of sequences[i], its own included.  q [rows, q_stride], out [rows, H*d]
template <typename T>
[[nodiscard]] cudaError_t AttentionDecode(const KvCache<T>& cache, const T* q, int64_t q_stride, const int32_t* sequences,
                                          const int32_t* lengths, int64_t rows, int heads, T* out, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
