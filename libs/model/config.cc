// The first layout of a model, and the rules that every layout obeys.
#include "libs/model/config.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace espalier::model {
namespace {

absl::Status ValidateLayer(const ModelConfig& config, int layer, const LayerLayout& layout,
                           int rank_count) {
  const auto error = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("layout of layer ", layer, ": ", what));
  };
  if (!config.IsMoe(layer)) {
    if (layout.ids.empty() && layout.ranks.empty() && layout.masked.empty())
      return absl::OkStatus();
    return error("a dense layer has no experts; leave it empty");
  }
  const size_t count = layout.ids.size();
  if (layout.ranks.size() != count || layout.masked.size() != count) {
    return error(absl::StrCat(count, " ids, ", layout.ranks.size(), " ranks and ",
                              layout.masked.size(), " masks; give one of each an expert"));
  }
  int unmasked = 0, previous = -1;
  for (size_t i = 0; i < count; ++i) {
    const int id = layout.ids[i];
    if (id < 0 || id >= config.experts) {
      return error(absl::StrCat("expert ", id, " is not in [0, ", config.experts, ")"));
    }
    if (id <= previous)
      return error(absl::StrCat("expert ", id, " follows ", previous, "; ids must ascend"));
    if (layout.ranks[i] < 0 || layout.ranks[i] >= rank_count) {
      return error(
          absl::StrCat("expert ", id, " is on rank ", layout.ranks[i], " of ", rank_count));
    }
    previous = id;
    unmasked += layout.masked[i] == 0;
  }
  if (unmasked < config.top_k) {
    return error(absl::StrCat(unmasked, " experts may be chosen but top_k is ", config.top_k,
                              "; keep at least that many"));
  }
  return absl::OkStatus();
}

}  // namespace

ExpertLayout InitialLayout(const ModelConfig& config, int rank_count) {
  ExpertLayout layout;
  layout.layers.resize(config.layers);
  const int share = config.experts / rank_count, rest = config.experts % rank_count;
  for (int layer = config.dense_layers; layer < config.layers; ++layer) {
    LayerLayout& one = layout.layers[layer];
    for (int rank = 0; rank < rank_count; ++rank) {
      for (int i = 0; i < share + (rank < rest ? 1 : 0); ++i) {
        one.ids.push_back(static_cast<int>(one.ids.size()));
        one.ranks.push_back(rank);
        one.masked.push_back(0);
      }
    }
  }
  return layout;
}

absl::Status ValidateLayout(const ModelConfig& config, const ExpertLayout& layout, int rank_count) {
  if (static_cast<int>(layout.layers.size()) != config.layers) {
    return absl::InvalidArgumentError(absl::StrCat("the layout has ", layout.layers.size(),
                                                   " layers, the model ", config.layers));
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    const absl::Status status = ValidateLayer(config, layer, layout.layers[layer], rank_count);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace espalier::model
