// Routing recorded and replayed: the choices of all MoE layers, token by token, on their way from
// and to the routers.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/model/model_impl.h"

namespace espalier::model {

template <typename T>
void ModelImpl<T>::GiveRoutes(const Pass<T>& pass, int layer, LayerActivations<T>& act) {
  act.choice_given = !pass.given_routes.empty();
  if (!act.choice_given || !config_.IsMoe(layer)) return;
  const int64_t top_k = config_.top_k, stride = moe_layers() * top_k;
  const int32_t* from = pass.given_routes.data() + (layer - config_.dense_layers) * top_k;
  int32_t* to = act.choice.Get(pass.tokens * top_k);
  for (int64_t token = 0; token < pass.tokens; ++token) {
    std::copy_n(from + token * stride, top_k, to + token * top_k);
  }
}

template <typename T>
void ModelImpl<T>::TakeRoutes(const Pass<T>& pass, int layer, const LayerActivations<T>& act) {
  if (pass.routes.empty() || !config_.IsMoe(layer)) return;
  const int64_t top_k = config_.top_k, stride = moe_layers() * top_k;
  const int32_t* from = act.choice.data();
  int32_t* to = pass.routes.data() + (layer - config_.dense_layers) * top_k;
  for (int64_t token = 0; token < pass.tokens; ++token) {
    std::copy_n(from + token * top_k, top_k, to + token * stride);
  }
}

template <typename T>
absl::Status ModelImpl<T>::ValidateRoutes(const Batch& batch) const {
  if (batch.routes.empty()) return absl::OkStatus();
  const int64_t top_k = config_.top_k, layers = moe_layers();
  const int64_t expected = static_cast<int64_t>(batch.tokens.size()) * layers * top_k;
  if (static_cast<int64_t>(batch.routes.size()) != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        "batch.routes has ", batch.routes.size(), " entries for ", batch.tokens.size(),
        " tokens; give ", layers * top_k, " a token (MoE layers times top_k), or none"));
  }
  for (int64_t at = 0; at < expected; at += top_k) {
    const int layer = config_.dense_layers + static_cast<int>(at / top_k % layers);
    const auto experts = static_cast<int32_t>(layout_.layers[layer].ids.size());
    const int32_t* choice = batch.routes.data() + at;
    for (int64_t k = 0; k < top_k; ++k) {
      if (choice[k] < 0 || choice[k] >= experts) {
        return absl::InvalidArgumentError(absl::StrCat("batch.routes[", at + k, "] is ", choice[k],
                                                       "; layer ", layer, " has ", experts,
                                                       " experts"));
      }
      if (std::find(choice, choice + k, choice[k]) != choice + k) {
        return absl::InvalidArgumentError(
            absl::StrCat("batch.routes[", at + k, "] is ", choice[k],
                         ", which the token is sent to already; its experts must differ"));
      }
    }
  }
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                            \
  template void ModelImpl<T>::GiveRoutes(const Pass<T>&, int, LayerActivations<T>&);       \
  template void ModelImpl<T>::TakeRoutes(const Pass<T>&, int, const LayerActivations<T>&); \
  template absl::Status ModelImpl<T>::ValidateRoutes(const Batch&) const;
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
