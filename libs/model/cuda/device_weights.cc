// Matrices are added in the order in which a pass reads them.
#include "libs/model/cuda/device_weights.h"

#include <cuda_bf16.h>

namespace espalier::model {

namespace {

// Addresses for all experts that the layer began with: as many may come to one rank.
template <typename T>
absl::StatusOr<Arena<T>> MakeExpertArena(const ModelConfig& config, int held, DeviceLayer* places,
                                         cudaStream_t stream) {
  Arena<T> arena;
  const int64_t matrix = int64_t{config.expert_width} * config.width;
  places->gate_up.offset = arena.AddRoom(config.experts * 2 * matrix);
  places->down.offset = arena.AddRoom(config.experts * matrix);
  RETURN_IF_ERROR(arena.AllocateRoom());
  RETURN_IF_ERROR(ResizeExperts(config, held, &arena, places));
  for (const Slice& slice : {places->gate_up, places->down}) {
    for (float* array : {arena.moment1(slice), arena.moment2(slice)}) {
      RETURN_IF_CUDA_ERROR(cudaMemsetAsync(array, 0, slice.size * sizeof(float), stream));
    }
  }
  return arena;
}

}  // namespace

template <typename T>
absl::Status ResizeExperts(const ModelConfig& config, int held, Arena<T>* arena,
                           DeviceLayer* places) {
  const int64_t matrix = int64_t{config.expert_width} * config.width;
  const Slice gate_up{places->gate_up.offset, held * 2 * matrix};
  const Slice down{places->down.offset, held * matrix};
  absl::Status resized = arena->Resize(gate_up);
  if (resized.ok()) resized = arena->Resize(down);
  if (!resized.ok()) {
    // Giving back needs no memory.
    arena->Resize(places->gate_up).IgnoreError();
    arena->Resize(places->down).IgnoreError();
    return resized;
  }
  places->gate_up = gate_up;
  places->down = down;
  places->held = held;
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<DeviceWeights<T>> PlaceWeights(const ModelConfig& config,
                                              const Weights<float>& shapes, cudaStream_t stream) {
  DeviceWeights<T> weights;
  const int64_t width = config.width;
  const int64_t q_width = int64_t{config.heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  weights.embedding = weights.dense.Add(shapes.embedding.size());
  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerWeights<float>& shape = shapes.layers[layer];
    DeviceLayer& places = weights.layers.emplace_back();
    places.qkv = weights.dense.Add((q_width + 2 * kv_width) * width);
    places.o = weights.dense.Add(width * q_width);
    places.router = weights.dense.Add(shape.router.size());
    if (shape.dense.present()) {
      places.dense_width = shape.dense.gate.shape[0];
      places.dense_gate_up = weights.dense.Add(2 * places.dense_width * width);
      places.dense_down = weights.dense.Add(places.dense_width * width);
    }
  }
  // All norms side by side: the optimizer takes them in one go.
  weights.final_norm = weights.dense.Add(width);
  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerWeights<float>& shape = shapes.layers[layer];
    DeviceLayer& places = weights.layers[layer];
    places.input_norm = weights.dense.Add(width);
    places.post_norm = weights.dense.Add(width);
    if (config.qk_norm == QkNorm::kNone) continue;
    places.q_norm = weights.dense.Add(shape.q_norm.size());
    places.k_norm = weights.dense.Add(shape.k_norm.size());
  }
  weights.norms = {weights.final_norm.offset, weights.dense.size() - weights.final_norm.offset};
  weights.lm_head = shapes.lm_head.shape.empty() ? weights.embedding
                                                 : weights.dense.Add(shapes.lm_head.size());
  RETURN_IF_ERROR(weights.dense.Allocate(stream));
  weights.experts.resize(config.layers);
  for (int layer = config.dense_layers; layer < config.layers; ++layer) {
    ASSIGN_OR_RETURN(weights.experts[layer],
                     MakeExpertArena<T>(config, static_cast<int>(shapes.layers[layer].experts.size()),
                                        &weights.layers[layer], stream));
  }
  return weights;
}

template <typename T>
std::vector<Placed<T>> ListPlaces(const ModelConfig& config, Weights<float>& host,
                                  DeviceWeights<T>& weights) {
  std::vector<Placed<T>> list;
  Arena<T>* dense = &weights.dense;
  list.push_back({&host.embedding, dense, weights.embedding.offset});
  for (int layer = 0; layer < config.layers; ++layer) {
    LayerWeights<float>& from = host.layers[layer];
    const DeviceLayer& places = weights.layers[layer];
    list.push_back({&from.input_norm, dense, places.input_norm.offset});
    int64_t at = places.qkv.offset;
    for (Parameter<float>* projection : {&from.q, &from.k, &from.v}) {
      list.push_back({projection, dense, at});
      at += projection->size();
    }
    list.push_back({&from.o, dense, places.o.offset});
    list.push_back({&from.post_norm, dense, places.post_norm.offset});
    if (config.qk_norm != QkNorm::kNone) {
      list.push_back({&from.q_norm, dense, places.q_norm.offset});
      list.push_back({&from.k_norm, dense, places.k_norm.offset});
    }
    if (!from.router.shape.empty()) list.push_back({&from.router, dense, places.router.offset});
    if (from.dense.present()) {
      list.push_back({&from.dense.gate, dense, places.dense_gate_up.offset});
      list.push_back({&from.dense.up, dense, places.dense_gate_up.offset + from.dense.gate.size()});
      list.push_back({&from.dense.down, dense, places.dense_down.offset});
    }
  }
  list.push_back({&host.final_norm, dense, weights.final_norm.offset});
  if (!host.lm_head.shape.empty()) list.push_back({&host.lm_head, dense, weights.lm_head.offset});
  const int64_t matrix = int64_t{config.expert_width} * config.width;
  for (int layer = config.dense_layers; layer < config.layers; ++layer) {
    const DeviceLayer& places = weights.layers[layer];
    Arena<T>* arena = &weights.experts[layer];
    int64_t i = 0;
    for (const auto& expert : host.layers[layer].experts) {
      list.push_back({&expert->ffn.gate, arena, places.gate_up.offset + 2 * i * matrix});
      list.push_back({&expert->ffn.up, arena, places.gate_up.offset + (2 * i + 1) * matrix});
      list.push_back({&expert->ffn.down, arena, places.down.offset + i * matrix});
      ++i;
    }
  }
  return list;
}

#define ESPALIER_INSTANTIATE(T)                                                                     \
  template absl::Status ResizeExperts<T>(const ModelConfig&, int, Arena<T>*, DeviceLayer*);         \
  template absl::StatusOr<DeviceWeights<T>> PlaceWeights<T>(const ModelConfig&,                     \
                                                            const Weights<float>&, cudaStream_t);   \
  template std::vector<Placed<T>> ListPlaces<T>(const ModelConfig&, Weights<float>&,                \
                                                DeviceWeights<T>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
