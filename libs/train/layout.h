// Layouts on their way from a command to the model.
#pragma once

#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/model/config.h"

namespace espalier::train {

// `order` over `current`: layers that it does not list stay as they are. InvalidArgument names the
// layer and expert when the order is not possible: ranks or experts that do not exist or were
// pruned before, fewer than top_k left to choose from.
absl::StatusOr<model::ExpertLayout> ResolveLayout(const model::ModelConfig& config,
                                                  const model::ExpertLayout& current,
                                                  const v1::ExpertLayout& order, int rank_count);

// True when the two differ in which experts the router may choose.
bool ChoiceDiffers(const model::ExpertLayout& a, const model::ExpertLayout& b);

// True when experts of `a` are gone in `b`.
bool RemovesExperts(const model::ExpertLayout& a, const model::ExpertLayout& b);

}  // namespace espalier::train
