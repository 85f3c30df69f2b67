// The feed-forward half of a layer: x_out = x_mid + ffn(post_attention_layernorm(x_mid)), dense or
// over experts.
#pragma once

#include "absl/status/status.h"
#include "libs/model/activations.h"

namespace espalier::model {

// Everything about one layer's feed-forward half.
template <typename T>
struct FeedForward {
  LayerWeights<T>& weights;
  const LayerLayout& layout;
  ExpertExchange<T>& exchange;
  LayerActivations<T>& act;
  // Output norms [E] of the pass are added here; null: not measured.
  LayerOutputNorms* output_norms = nullptr;
};

// From act.x_mid to x_out [N, D], which may be act.x. Adds this rank's choices to `route_counts`
// [E]. (collective)
template <typename T>
absl::Status FeedForwardForward(const Context<T>& context, const FeedForward<T>& layer,
                                int64_t tokens, T* x_out, std::vector<int64_t>& route_counts);

// dx [N, D]: gradient of x_out on entry, of x_mid on return. With aux_scale != 0 the auxiliary loss
// is added to *aux_loss and its gradient, scaled, to the router's. `route_counts` are those of this
// pass. (collective)
template <typename T>
absl::Status FeedForwardBackward(const Context<T>& context, const FeedForward<T>& layer,
                                 int64_t tokens, T* dx, const std::vector<int64_t>& route_counts,
                                 double aux_scale, double* aux_loss);

}  // namespace espalier::model
