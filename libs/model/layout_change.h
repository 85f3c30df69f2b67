// What a new layout asks for, whatever the device: experts that move, rows of the router that stay.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "libs/model/config.h"

namespace espalier::model {

// An expert that changes its rank, as both ends see it.
struct ExpertMove {
  int layer, id, from, to;
};

// InvalidArgument when `next` brings back what was removed.
absl::Status ValidateSurvivors(const ExpertLayout& now, const ExpertLayout& next);

// All moves in order of layer and id.
std::vector<ExpertMove> ListMoves(const ExpertLayout& now, const ExpertLayout& next);

// The places in before.ids of the experts that are in after.ids too.
std::vector<int> KeptRows(const LayerLayout& before, const LayerLayout& after);

}  // namespace espalier::model
