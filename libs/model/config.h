// ModelConfig: the shape of a mixture-of-experts transformer, and ExpertLayout: which experts are alive and where.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace espalier::model {

enum class RouterKind { kSoftmax, kSigmoid };
// RMS norm of queries and keys before their rotation: none, one weight [head_dim] for every head (Qwen3), or one over
// the whole width of all query heads and of all key heads (OLMoE).
enum class QkNorm { kNone, kHead, kFull };

// All sizes in elements. Fields mirror espalier.v1.ModelSpec with every default resolved.
struct ModelConfig {
  int vocabulary = 0;
  int layers = 0;
  int width = 0;               // D
  int heads = 0;               // H
  int kv_heads = 0;            // G, divides H
  int head_dim = 0;            // even
  int experts = 0;             // E before pruning
  int top_k = 0;               // K
  int expert_width = 0;        // F
  int shared_expert_width = 0; // 0: none
  int dense_layers = 0;        // first layers with a dense SwiGLU of dense_width instead of experts
  int dense_width = 0;
  RouterKind router = RouterKind::kSigmoid;
  bool normalize_top_k = true;
  double routed_scaling = 1.0;
  double aux_loss = 0.0;
  double rope_theta = 10000.0;
  double rms_eps = 1e-5;
  bool tie_embeddings = false;
  double init_std = 0.02;
  QkNorm qk_norm = QkNorm::kNone;

  bool IsMoe(int layer) const { return layer >= dense_layers; }
  // Parameters of one expert (gate, up and down projection).
  int64_t ExpertParams() const { return int64_t{3} * width * expert_width; }
};

// One layer's experts: ids ascending by original number, ranks[i] holds ids[i]. masked[i] != 0: the router must
// not choose ids[i]. Empty for a dense layer. The number of experts differs between layers.
struct LayerLayout {
  std::vector<int> ids;
  std::vector<int> ranks;
  std::vector<uint8_t> masked;
  bool operator==(const LayerLayout&) const = default;
};

// By layer, dense layers included (empty).
struct ExpertLayout {
  std::vector<LayerLayout> layers;
  bool operator==(const ExpertLayout&) const = default;
};

// All experts alive, in index order, in equal contiguous shares (the first ranks take the rest).
ExpertLayout InitialLayout(const ModelConfig& config, int rank_count);

// InvalidArgument unless every id is in range and ascending, ranks exist, and at least top_k are unmasked.
absl::Status ValidateLayout(const ModelConfig& config, const ExpertLayout& layout, int rank_count);

}  // namespace espalier::model
