// Layout: which simulated rank holds which expert, which of them the router may choose, and what a
// set_layout command makes of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"

namespace espalier::fleetsim {

// Immutable once made; shared by everybody who draws or reports steps under it.
struct Layout {
  uint32_t layers = 0;
  uint32_t experts = 0;
  std::vector<int> ranks;       // [layers, experts]; -1 where the expert is gone
  std::vector<bool> choosable;  // [layers, experts]; false where it is gone or masked
  // held[rank][layer]: experts, ascending.
  std::vector<std::vector<std::vector<uint32_t>>> held;

  int rank(uint32_t layer, uint32_t expert) const {
    return ranks[size_t{layer} * experts + expert];
  }
};

// Experts in index order, evenly over the ranks.
std::shared_ptr<const Layout> InitialLayout(uint32_t layers, uint32_t experts, uint32_t ranks);

struct LayoutChange {
  std::shared_ptr<const Layout> layout;
  std::vector<uint64_t> experts_sent;  // by rank: experts that it sends to others
  bool choice_differs = false;         // the router may choose other experts than before
};

// InvalidArgument, with nothing changed, for an order that no rank could carry out.
absl::StatusOr<LayoutChange> Apply(const Layout& before, const v1::ExpertLayout& order,
                                   uint32_t top_k);

}  // namespace espalier::fleetsim
