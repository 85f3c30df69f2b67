// Two layouts compared, both with ids ascending.
#include "libs/model/layout_change.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace espalier::model {

absl::Status ValidateSurvivors(const ExpertLayout& now, const ExpertLayout& next) {
  for (size_t layer = 0; layer < now.layers.size(); ++layer) {
    for (const int id : next.layers[layer].ids) {
      if (std::binary_search(now.layers[layer].ids.begin(), now.layers[layer].ids.end(), id))
        continue;
      return absl::InvalidArgumentError(absl::StrCat("layout of layer ", layer, ": expert ", id,
                                                     " was removed before and cannot come back"));
    }
  }
  return absl::OkStatus();
}

std::vector<ExpertMove> ListMoves(const ExpertLayout& now, const ExpertLayout& next) {
  std::vector<ExpertMove> moves;
  for (size_t layer = 0; layer < now.layers.size(); ++layer) {
    const LayerLayout &before = now.layers[layer], &after = next.layers[layer];
    size_t at = 0;
    for (size_t i = 0; i < after.ids.size(); ++i) {
      while (before.ids[at] != after.ids[i]) ++at;
      if (before.ranks[at] != after.ranks[i]) {
        moves.push_back({static_cast<int>(layer), after.ids[i], before.ranks[at], after.ranks[i]});
      }
    }
  }
  return moves;
}

std::vector<int> KeptRows(const LayerLayout& before, const LayerLayout& after) {
  std::vector<int> kept;
  for (size_t i = 0; i < before.ids.size(); ++i) {
    if (std::binary_search(after.ids.begin(), after.ids.end(), before.ids[i]))
      kept.push_back(static_cast<int>(i));
  }
  return kept;
}

}  // namespace espalier::model
