// Weights<T>: the parameters of one rank, named and shaped as in Hugging Face's Glm4Moe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "libs/model/model.h"

namespace espalier::model {

// A SwiGLU: gate and up [F, D], down [D, F]. Absent where the configuration has none (value is
// empty).
template <typename T>
struct FfnWeights {
  Parameter<T> gate, up, down;
  bool present() const { return !gate.shape.empty(); }
};

template <typename T>
struct ExpertWeights {
  int id = 0;  // original number
  FfnWeights<T> ffn;
};

template <typename T>
struct LayerWeights {
  Parameter<T> input_norm, q, k, v, o, post_norm;
  Parameter<T> q_norm, k_norm;  // absent without qk_norm; [d] each, or [H*d] and [G*d]
  FfnWeights<T> dense;  // the dense SwiGLU of a dense layer, or the shared expert of a MoE layer
  Parameter<T> router;  // [experts alive, D], rows aligned with the layout
  std::vector<T> selection_bias;
  std::vector<std::unique_ptr<ExpertWeights<T>>> experts;  // those of this rank, ids ascending
};

template <typename T>
struct Weights {
  Parameter<T> embedding, final_norm;
  Parameter<T> lm_head;  // absent with tied embeddings
  std::vector<LayerWeights<T>> layers;

  Parameter<T>& head() { return lm_head.shape.empty() ? embedding : lm_head; }
};

// Whether arrays for values and gradients are made along with names and shapes.
enum class Storage { kNone, kArrays };

// Names and shapes; values are zero, or absent with Storage::kNone.
template <typename T>
Weights<T> MakeShapes(const ModelConfig& config, const ExpertLayout& layout, int rank,
                      Storage storage);

// Fills value (made where it is absent) with the parameter's first values, drawn from `seed` by name: the same for any rank
// count and placement. `layout` tells the router's rows.
template <typename T>
void DrawParameter(const ModelConfig& config, const ExpertLayout& layout, uint64_t seed,
                   Parameter<T>& parameter);

// MakeShapes with every parameter drawn, `pool` sharing the work.
template <typename T>
Weights<T> MakeWeights(const ModelConfig& config, const ExpertLayout& layout, int rank,
                       uint64_t seed, base::ThreadPool& pool);

// An expert with storage but no values: for one that arrives from another rank.
template <typename T>
std::unique_ptr<ExpertWeights<T>> MakeEmptyExpert(const ModelConfig& config, int layer, int id,
                                                  Storage storage = Storage::kArrays);

// Dense ones first, then experts by layer and id.
template <typename T>
std::vector<Parameter<T>*> ListParameters(Weights<T>& weights);

}  // namespace espalier::model
