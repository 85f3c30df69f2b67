// Routing recorded and replayed: the choices of all MoE layers, token by token, on their way from
// and to the routers.
#include <algorithm>

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

#define ESPALIER_INSTANTIATE(T)                                                            \
  template void ModelImpl<T>::GiveRoutes(const Pass<T>&, int, LayerActivations<T>&);       \
  template void ModelImpl<T>::TakeRoutes(const Pass<T>&, int, const LayerActivations<T>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
