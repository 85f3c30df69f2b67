// What a layout alone can tell is checked by model::ValidateLayout; here what depends on the
// model's present one.
#include "libs/train/layout.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::train {
namespace {

absl::StatusOr<model::LayerLayout> ResolveLayer(const model::LayerLayout& current,
                                                const v1::LayerLayout& order) {
  if (order.experts_size() != order.ranks_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("set_layout: layer ", order.layer(), " lists ", order.experts_size(),
                     " experts but ", order.ranks_size(), " ranks; give one rank for each expert"));
  }
  model::LayerLayout layer;
  for (int i = 0; i < order.experts_size(); ++i) {
    const int id = static_cast<int>(order.experts(i));
    if (!std::binary_search(current.ids.begin(), current.ids.end(), id)) {
      return absl::InvalidArgumentError(absl::StrCat("set_layout: expert ", id, " of layer ",
                                                     order.layer(),
                                                     " is not alive; list only experts that are"));
    }
    layer.ids.push_back(id);
    layer.ranks.push_back(static_cast<int>(order.ranks(i)));
  }
  layer.masked.assign(layer.ids.size(), 0);
  for (const uint32_t masked : order.masked()) {
    const auto found = std::find(layer.ids.begin(), layer.ids.end(), static_cast<int>(masked));
    if (found == layer.ids.end()) {
      return absl::InvalidArgumentError(absl::StrCat("set_layout: masked expert ", masked,
                                                     " of layer ", order.layer(),
                                                     " is not among the layer's experts"));
    }
    layer.masked[found - layer.ids.begin()] = 1;
  }
  return layer;
}

std::vector<int> Choices(const model::LayerLayout& layer) {
  std::vector<int> ids;
  for (size_t i = 0; i < layer.ids.size(); ++i) {
    if (layer.masked.empty() || layer.masked[i] == 0) ids.push_back(layer.ids[i]);
  }
  return ids;
}

}  // namespace

absl::StatusOr<model::ExpertLayout> ResolveLayout(const model::ModelConfig& config,
                                                  const model::ExpertLayout& current,
                                                  const v1::ExpertLayout& order, int rank_count) {
  model::ExpertLayout layout = current;
  std::vector<bool> seen(current.layers.size(), false);
  for (const v1::LayerLayout& layer : order.layers()) {
    if (layer.layer() >= current.layers.size() || !config.IsMoe(static_cast<int>(layer.layer()))) {
      return absl::InvalidArgumentError(
          absl::StrCat("set_layout: layer ", layer.layer(), " has no experts; layers ",
                       config.dense_layers, " to ", config.layers - 1, " have"));
    }
    if (seen[layer.layer()]) {
      return absl::InvalidArgumentError(
          absl::StrCat("set_layout: layer ", layer.layer(), " is listed twice"));
    }
    seen[layer.layer()] = true;
    ASSIGN_OR_RETURN(layout.layers[layer.layer()],
                     ResolveLayer(current.layers[layer.layer()], layer));
  }
  RETURN_IF_ERROR(model::ValidateLayout(config, layout, rank_count));
  return layout;
}

bool ChoiceDiffers(const model::ExpertLayout& a, const model::ExpertLayout& b) {
  for (size_t i = 0; i < a.layers.size(); ++i) {
    if (Choices(a.layers[i]) != Choices(b.layers[i])) return true;
  }
  return false;
}

bool RemovesExperts(const model::ExpertLayout& a, const model::ExpertLayout& b) {
  for (size_t i = 0; i < a.layers.size(); ++i) {
    if (b.layers[i].ids.size() < a.layers[i].ids.size()) return true;
  }
  return false;
}

}  // namespace espalier::train
