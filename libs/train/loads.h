// LoadCounter: how many tokens of all ranks each expert received, and how much it put out for them,
// summed over the steps of one report.
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
  // `with_norms` is the same on every rank: it decides what the exchange carries.
  void Reset(const model::ExpertLayout& layout, bool with_norms);

  // This rank's tokens of the model's last pass. `norms` is empty where they are not measured:
  // always, or never.
  void Add(const std::vector<model::LayerRouteCounts>& counts,
           const std::vector<model::LayerOutputNorms>& norms);
  void Pack(Exchange* exchange);
  void Unpack(const Exchange& exchange);

  // Appends the counts of the experts that `rank` holds, then starts again from zero.
  void TakeLoads(int rank, v1::StepReport* report);

 private:
  // One figure an expert alive, of all layers: what is not yet exchanged, and what all ranks have
  // together since the last TakeLoads.
  struct Sums {
    std::vector<int64_t> local, global;
    int handle = 0;

    void Reset(int64_t size);
    void Add(int64_t offset, const std::vector<int64_t>& layer);
    void Pack(Exchange* exchange);
    void Unpack(const Exchange& exchange);
  };

  model::ExpertLayout layout_;
  std::vector<int64_t> offsets_;  // of each layer in the flat sums
  Sums tokens_;
  bool with_norms_ = false;
  Sums norms_;  // millionths; empty without
};

}  // namespace espalier::train
