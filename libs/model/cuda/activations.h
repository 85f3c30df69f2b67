// What a pass of the CUDA model keeps on the device: activations of each layer for the backward pass, and scratch shared by all.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/runtime.h"

namespace espalier::model {

using kernels::cuda::Buffer;

// Dimensions: N tokens of this rank, D width, H heads, G key heads, d head size, E experts alive, K choices, S = N*K slots, R rows that
// this rank's experts received, F expert width, W dense or shared width.
template <typename T>
struct CudaActivations {
  Buffer<T> x;                              // [N, D] the layer's input
  Buffer<T> h1;                             // [N, D] after input_layernorm
  Buffer<T> qkv;                            // [N, (H+2G)*d] after rotation
  Buffer<T> q_raw, k_raw;                   // [N, H*d], [N, G*d] with qk_norm: before norm and rotation
  Buffer<float> q_rstd, k_rstd;             // one for each segment of the norm
  Buffer<T> attended;                       // [N, H*d]
  Buffer<T> x_mid, h2;                      // [N, D] after attention, after post_attention_layernorm
  Buffer<float> rstd1, rstd2;               // [N]
  Buffer<float> lse;                        // [N, H], or [B, H, L] of padded sequences
  Buffer<T> dense_gate_up, dense_h;         // [N, 2W], [N, W]
  Buffer<float> scores, weight;             // [N, E], [N, K]
  Buffer<int32_t> choice, slot, token_of;   // [N, K], [N, K], [S]
  Buffer<int32_t> offsets;                  // [E + 1]
  Buffer<T> expert_in;                      // [R, D]
  Buffer<float> row_weight;                 // [R] gate of each row
  Buffer<T> gate_up, h;                     // [R, 2F], [R, F]
  bool choice_given = false;                // `choice` was filled in by the caller
};

// Shared by all layers of a pass.
template <typename T>
struct CudaScratch {
  Buffer<T> rows, more_rows;      // [R, D], [S, D]
  Buffer<T> inner;                // [R, F] or [N, W]
  Buffer<T> dh, dattended, dqkv;  // [N, D], [N, H*d], [N, (H+2G)*d]
  Buffer<T> dlogits;              // [N, E]
  Buffer<T> padded_qkv, padded_out, padded_dout, padded_dqkv;
  Buffer<float> delta, drow_weight, slot_weight;
  // Shares of the gradients of norms' weights: of a layer's four, added together at its end.
  Buffer<float> norm_partials[kernels::cuda::kNormSharesMax];
  kernels::cuda::NormShares<T> norm_shares[kernels::cuda::kNormSharesMax];
  Buffer<float> aux_partials;
  Buffer<int32_t> plan;
};

// How the sequences of a pass go through attention.
enum class AttentionWay { kPlain, kEqual, kPadded };

// What stays the same from layer to layer of one pass. Spans lie in host memory, pointers on the device.
template <typename T>
struct CudaPass {
  int64_t tokens = 0;
  AttentionWay way = AttentionWay::kPlain;
  kernels::cuda::AttentionShape shape;  // of kEqual and kPadded
  const int32_t* positions = nullptr;   // [N]
  const int32_t* first_of = nullptr;    // [N]
  const int32_t* last_of = nullptr;     // [N]
  const int32_t* pad_source = nullptr;  // [B*L] the row that stands there, or -1
  const int32_t* pad_place = nullptr;   // [N] where the row stands
  // Prefill writes the caches (by layer); a decode step reads and extends them.
  std::span<const kernels::cuda::KvCache<T>> caches;
  const int32_t* cache_rows = nullptr;       // [N] the cached sequence of each token
  const int32_t* cache_positions = nullptr;  // [N] and its place there
  const int32_t* lengths = nullptr;          // decode: [N] cached tokens, the new one included
  bool decode = false;
  // As in Pass of the CPU model.
  std::span<const int32_t> given_routes;
  std::span<int32_t> routes;
};

}  // namespace espalier::model
