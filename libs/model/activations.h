// What a pass of the model keeps in memory: activations of each layer for the backward pass, and
// scratch shared by all.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/buffer.h"
#include "kernels/rope.h"
#include "libs/base/thread_pool.h"
#include "libs/model/expert_exchange.h"
#include "libs/model/timeline.h"
#include "libs/model/weights.h"

namespace espalier::model {

// Dimensions: N tokens of this rank, D width, H heads, G key heads, d head size, E experts alive, K
// choices, S = N*K slots, R rows that this rank's experts received, F expert width, W dense or
// shared width.
template <typename T>
struct LayerActivations {
  kernels::Buffer<T> x;                             // [N, D] the layer's input
  kernels::Buffer<T> h1, rstd1;                     // [N, D], [N] after input_layernorm
  kernels::Buffer<T> q, k, v;                       // [N, H*d], [N, G*d] after rotation
  kernels::Buffer<T> q_raw, k_raw;                  // with qk_norm: before norm and rotation
  kernels::Buffer<T> q_rstd, k_rstd;                // one for each row of the norm
  kernels::Buffer<T> attended, lse;                 // [N, H*d], [N, H]
  kernels::Buffer<T> x_mid;                         // [N, D] after attention
  kernels::Buffer<T> h2, rstd2;                     // [N, D], [N] after post_attention_layernorm
  kernels::Buffer<T> dense_gate, dense_up;          // [N, W]
  kernels::Buffer<T> scores, weight;                // [N, E], [N, K]
  kernels::Buffer<int32_t> choice, slot, token_of;  // [N, K], [N, K], [S]
  bool choice_given = false;                        // `choice` was filled in by the caller
  std::vector<int64_t> slot_offsets;                // [E + 1]
  kernels::Buffer<T> expert_in;                     // [R, D] rows grouped by expert
  kernels::Buffer<T> gate, up;                      // [R, F]
  kernels::Buffer<T> expert_out;                    // [S, D] back on the token's rank
};

// Shared by all layers of a pass.
template <typename T>
struct Scratch {
  kernels::Buffer<T> wide;       // one FFN's inner rows
  kernels::Buffer<T> slots;      // [S, D]
  kernels::Buffer<T> groups;     // [R, D]
  kernels::Buffer<T> wire;       // [R, D]
  kernels::Buffer<T> attention;  // blocks of scores
  kernels::Buffer<T> norm;       // shares of the norms' gradients
  kernels::Buffer<T> dh, dq, dk, dv, dattended, delta, dweight, dlogits;
  kernels::Buffer<T> dq_raw, dk_raw;
};

// What stays the same from layer to layer of one pass.
template <typename T>
struct Pass {
  int64_t tokens = 0;
  std::span<const int32_t> positions;  // [N]
  std::span<const int64_t> starts;     // packed sequences; empty in a decode step
  // Prefill writes the cache (caches by layer, sequence i of `starts` is cache row i); a decode
  // step reads and extends it.
  std::span<const kernels::KvCache<T>> caches;
  std::span<const int32_t> cache_rows;  // decode: [N] the cached sequence of each token
  std::span<const int32_t> lengths;     // decode: [N] cached tokens, the new one included
  // [N, M, K] of the M MoE layers, in their order: experts that the tokens are sent to instead of
  // the router's choice, and where the choice is written. Empty: neither.
  std::span<const int32_t> given_routes;
  std::span<int32_t> routes;
  bool decode() const { return starts.empty(); }
};

// Where the time of a pass goes, and what is under way.
struct PhaseClock {
  PhaseSeconds seconds;
  Timeline* timeline = nullptr;  // not owned; null records nothing
  int32_t layer = -1;
  bool backward = false;

  // Null for a part of another phase.
  double* TotalOf(Phase phase) {
    switch (phase) {
      case Phase::kAttention:
        return &seconds.attention;
      case Phase::kRouter:
        return &seconds.router;
      case Phase::kDispatch:
        return &seconds.dispatch;
      case Phase::kExperts:
        return &seconds.experts;
      case Phase::kCombine:
        return &seconds.combine;
      case Phase::kHead:
        return &seconds.head;
      case Phase::kExchange:
        break;
    }
    return nullptr;
  }
};

// What the blocks of all layers work with.
template <typename T>
struct Context {
  const ModelConfig& config;
  base::ThreadPool& pool;
  const kernels::RopeTable<T>& rope;
  Scratch<T>& scratch;
  PhaseClock& clock;
};

// Adds its lifetime to the phase's seconds, and to the timeline where one is recorded.
class PhaseTimer {
 public:
  PhaseTimer(PhaseClock& clock, Phase phase)
      : clock_(clock), phase_(phase), start_(Timeline::Now()) {}
  ~PhaseTimer() {
    const int64_t end = Timeline::Now();
    if (double* total = clock_.TotalOf(phase_)) *total += 1e-9 * static_cast<double>(end - start_);
    if (clock_.timeline == nullptr) return;
    clock_.timeline->Add({start_, end, tokens_, clock_.layer, phase_, clock_.backward});
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;
  void set_tokens(int64_t tokens) { tokens_ = tokens; }

 private:
  PhaseClock& clock_;
  const Phase phase_;
  int64_t tokens_ = -1;
  const int64_t start_;
};

}  // namespace espalier::model
