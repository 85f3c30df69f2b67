// Layout: checked as a worker checks it, so that a plan that could not run does not pass here.
#include "services/fleetsim/layout.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::fleetsim {
namespace {

void IndexByRank(uint32_t ranks, Layout* layout) {
  layout->held.assign(ranks, std::vector<std::vector<uint32_t>>(layout->layers));
  for (uint32_t layer = 0; layer < layout->layers; ++layer) {
    for (uint32_t expert = 0; expert < layout->experts; ++expert) {
      const int rank = layout->rank(layer, expert);
      if (rank >= 0) layout->held[rank][layer].push_back(expert);
    }
  }
}

absl::Status Refuse(const v1::LayerLayout& layer, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("set_layout: layer ", layer.layer(), ": ", what));
}

}  // namespace

std::shared_ptr<const Layout> InitialLayout(uint32_t layers, uint32_t experts, uint32_t ranks) {
  auto layout = std::make_shared<Layout>();
  layout->layers = layers;
  layout->experts = experts;
  for (uint32_t layer = 0; layer < layers; ++layer) {
    for (uint64_t expert = 0; expert < experts; ++expert)
      layout->ranks.push_back(static_cast<int>(expert * ranks / experts));
  }
  layout->choosable.assign(layout->ranks.size(), true);
  IndexByRank(ranks, layout.get());
  return layout;
}

absl::StatusOr<LayoutChange> Apply(const Layout& before, const v1::ExpertLayout& order,
                                   uint32_t top_k) {
  const auto rank_count = static_cast<uint32_t>(before.held.size());
  auto after = std::make_shared<Layout>(before);
  LayoutChange change;
  change.experts_sent.assign(rank_count, 0);
  for (const v1::LayerLayout& layer : order.layers()) {
    if (layer.layer() >= before.layers)
      return Refuse(layer, absl::StrCat("the model has ", before.layers, " layers"));
    if (layer.experts_size() != layer.ranks_size())
      return Refuse(
          layer, absl::StrCat(layer.experts_size(), " experts but ", layer.ranks_size(), " ranks"));
    const size_t begin = size_t{layer.layer()} * before.experts;
    for (uint32_t e = 0; e < before.experts; ++e) {
      after->ranks[begin + e] = -1;
      after->choosable[begin + e] = false;
    }
    for (int i = 0; i < layer.experts_size(); ++i) {
      const uint32_t expert = layer.experts(i), rank = layer.ranks(i);
      if (expert >= before.experts || before.rank(layer.layer(), expert) < 0)
        return Refuse(layer, absl::StrCat("expert ", expert, " is not alive"));
      if (i > 0 && expert <= layer.experts(i - 1))
        return Refuse(layer, absl::StrCat("expert ", expert, " is out of order or listed twice"));
      if (rank >= rank_count)
        return Refuse(layer, absl::StrCat("rank ", rank, "; the run has ", rank_count));
      after->ranks[begin + expert] = static_cast<int>(rank);
      after->choosable[begin + expert] = true;
      const int source = before.rank(layer.layer(), expert);
      if (source != static_cast<int>(rank)) ++change.experts_sent[source];
    }
    uint32_t chosen = static_cast<uint32_t>(layer.experts_size());
    for (const uint32_t expert : layer.masked()) {
      if (expert >= before.experts || !after->choosable[begin + expert])
        return Refuse(layer, absl::StrCat("masked expert ", expert, " is not among its experts"));
      after->choosable[begin + expert] = false;
      --chosen;
    }
    if (chosen < top_k)
      return Refuse(layer,
                    absl::StrCat("keeps ", chosen, " experts to choose from; top_k is ", top_k));
  }
  change.choice_differs = after->choosable != before.choosable;
  IndexByRank(rank_count, after.get());
  change.layout = std::move(after);
  return change;
}

}  // namespace espalier::fleetsim
