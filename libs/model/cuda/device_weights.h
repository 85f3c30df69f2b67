// DeviceWeights<T>: where every parameter of one rank lies on the device.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "libs/model/cuda/arena.h"
#include "libs/model/weights.h"

namespace espalier::model {

// q, k and v, and gate and up, are one matrix each, so that one product makes them all.
struct DeviceLayer {
  Slice input_norm, qkv, o, post_norm;  // in the dense arena; qkv [(H+2G)*d, D], o [D, H*d]
  Slice q_norm, k_norm;                 // size 0 without qk_norm
  Slice router;                         // [experts at first, D]; the rows of those alive come first
  Slice dense_gate_up, dense_down;      // [2W, D], [D, W]; size 0 where there is none
  int64_t dense_width = 0;
  Slice gate_up, down;                  // in the layer's own arena: [held, 2F, D], [held, D, F]; offsets never change
  int held = 0;                         // experts of this rank
};

template <typename T>
struct DeviceWeights {
  Arena<T> dense;
  Slice embedding, lm_head, final_norm;  // lm_head is embedding when tied
  Slice norms;                           // every norm's weight, the final one's too; nothing else
  std::vector<DeviceLayer> layers;
  std::vector<Arena<T>> experts;  // by layer; empty for dense layers
};

// Places of all parameters of `shapes` (no values yet); everything is zero. `router_rows` rows of room for each router.
template <typename T>
absl::StatusOr<DeviceWeights<T>> PlaceWeights(const ModelConfig& config, const Weights<float>& shapes, cudaStream_t stream);

// Brings a layer's arena to `held` experts: those that stay are where they were, new memory is undefined. Nothing may be at work on what goes.
// Without room to grow (kResourceExhausted) the layer is as it was.
template <typename T>
absl::Status ResizeExperts(const ModelConfig& config, int held, Arena<T>* arena, DeviceLayer* places);

// One host parameter and its place: elements [offset, offset + host->size()) of `arena`.
template <typename T>
struct Placed {
  Parameter<float>* host = nullptr;
  Arena<T>* arena = nullptr;
  int64_t offset = 0;
};

// All parameters of `host`, in the order of ListParameters.
template <typename T>
std::vector<Placed<T>> ListPlaces(const ModelConfig& config, Weights<float>& host, DeviceWeights<T>& weights);

}  // namespace espalier::model
