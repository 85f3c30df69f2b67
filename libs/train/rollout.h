// Rollouts: problems sampled through the model and scored by the reward service.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/model/model.h"
#include "libs/train/exchange.h"
#include "libs/train/run_state.h"

namespace espalier::train {

// Problems [first, first + count) of one split; the ranks take contiguous shares.
struct RolloutRequest {
  uint64_t first_problem = 0;
  int64_t problems = 0;
  bool heldout = false;
  int group_size = 1;
  uint64_t seed = 0;     // of the samples
  int64_t per_pass = 0;  // most problems sampled at once on a rank
};

struct RolloutTrace {
  model::Sample sample;
  v1::Score score;
};

// False for a trace without verdict, and for one that the length limit cut off when the stage
// filters those (overlong_filter) and its reward does not shape them (LENGTH_SHAPING_OVERLONG).
bool CarriesGradient(const RolloutTrace& trace, const v1::ReinforceStage& spec);

struct RolloutGroup {
  int64_t index = 0;  // of the problem within the request, over all ranks
  std::vector<int32_t> prompt;
  std::vector<RolloutTrace> traces;
};

struct Rollout {
  std::vector<RolloutGroup> groups;  // of this rank
  int64_t local_tokens = 0;          // fed through the model by this rank
};

// Samples and scores. A scorer's failure on one rank is every rank's error. With `count_loads`, the
// tokens count as load of the experts. (collective)
absl::StatusOr<Rollout> RunRollout(RunState& state, const v1::ReinforceStage& spec,
                                   const RolloutRequest& request, bool count_loads);

// Figures of all ranks' traces: Pack, run the exchange, Unpack.
class RolloutMetrics {
 public:
  void Pack(const Rollout& rollout, Exchange* exchange);
  v1::ReinforceMetrics Unpack(const Exchange& exchange, bool evaluation) const;

 private:
  int traces_ = 0, correct_ = 0, tokens_ = 0, reflections_ = 0, truncated_ = 0, with_tail_ = 0;
  int reward_ = 0, tail_ = 0;
};

}  // namespace espalier::train
