// Held-out loss over all ranks: of the corpus, and of reasoning traces.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "libs/model/model.h"
#include "libs/train/run_state.h"

namespace espalier::train {

// Mean negative log-probability of all targets in `count` sequences, split over the ranks;
// append(i, batch) adds sequence i. At most `per_pass` sequences go through the model at once on a
// rank. (collective)
absl::StatusOr<double> MeanLoss(RunState& state, int64_t count, int64_t per_pass,
                                const std::function<void(int64_t, model::Batch*)>& append);

// Of the first data.heldout_tokens held-out tokens of the corpus, in windows of `length`.
// (collective)
absl::StatusOr<double> CorpusHeldoutLoss(RunState& state, int64_t length, int64_t per_pass);

// Held-out reasoning traces, as many as data.heldout_tokens tokens hold; made once, the same on
// every rank.
class HeldoutTraces {
 public:
  explicit HeldoutTraces(RunState& state) : state_(state) {}
  // (collective)
  absl::StatusOr<double> Loss(int64_t per_pass);

 private:
  RunState& state_;
  std::vector<EncodedProblem> problems_;
};

// Sends the event "heldout_evaluated".
void ReportHeldout(RunState& state, double loss);

}  // namespace espalier::train
