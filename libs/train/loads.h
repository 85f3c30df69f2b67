// LoadCounter: how many tokens of all ranks each expert received, summed over the steps of one
// report.
#pragma once

#include <cstdint>
#include <vector>

#include "espalier/v1/fleet_service.pb.h"
#include "libs/model/model.h"
#include "libs/train/exchange.h"

namespace espalier::train {

// Add after each pass of the model, Pack into the step's exchange, Unpack after it ran. Not
// thread-safe.
class LoadCounter {
 public:
  // Takes on the layout that the counts are aligned with; forgets all counts.
  void Reset(const model::ExpertLayout& layout);

  // This rank's tokens of the model's last pass.
  void Add(const std::vector<model::LayerRouteCounts>& counts);
  void Pack(Exchange* exchange);
  void Unpack(const Exchange& exchange);

  // Appends the counts of the experts that `rank` holds, then starts again from zero.
  void TakeLoads(int rank, v1::StepReport* report);

 private:
  model::ExpertLayout layout_;
  std::vector<int64_t> offsets_;  // of each layer in the flat counts
  std::vector<int64_t> local_;    // not yet exchanged
  std::vector<int64_t> global_;   // of all ranks, since the last TakeLoads
  int handle_ = 0;
};

}  // namespace espalier::train
