// Every rank makes the same number of passes, even with no sequence left: a pass is collective.
#include "libs/train/evaluate.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/train/exchange.h"

namespace espalier::train {

absl::StatusOr<double> MeanLoss(RunState& state, int64_t count, int64_t per_pass,
                                const std::function<void(int64_t, model::Batch*)>& append) {
  const int ranks = state.communicator.size();
  const Share share = ShareOf(count, state.communicator.rank(), ranks);
  const int64_t largest_share = (count + ranks - 1) / ranks;
  const int64_t passes = (largest_share + per_pass - 1) / per_pass;
  double loss = 0;
  int64_t targets = 0;
  std::vector<float> logps;
  for (int64_t pass = 0; pass < passes; ++pass) {
    model::Batch batch = EmptyBatch();
    const int64_t begin = share.begin + pass * per_pass;
    for (int64_t i = begin; i < std::min(begin + per_pass, share.end); ++i) append(i, &batch);
    RETURN_IF_ERROR(state.model->Forward(batch, &logps, nullptr));
    for (size_t i = 0; i < batch.targets.size(); ++i) {
      if (batch.targets[i] >= 0) loss -= logps[i];
    }
    targets += CountTargets(batch);
  }
  Exchange exchange(state.communicator);
  const int loss_handle = exchange.AddReal(loss);
  const int targets_handle = exchange.AddSum(targets);
  RETURN_IF_ERROR(exchange.Run());
  const int64_t all_targets = exchange.Sum(targets_handle);
  return all_targets > 0 ? exchange.Total(loss_handle) / static_cast<double>(all_targets) : 0.0;
}

absl::StatusOr<double> CorpusHeldoutLoss(RunState& state, int64_t length, int64_t per_pass) {
  const std::vector<int32_t>& tokens = state.data.heldout;
  const int64_t inputs =
      std::min<int64_t>(static_cast<int64_t>(tokens.size()), state.spec.data().heldout_tokens()) -
      1;
  const int64_t windows = (inputs + length - 1) / length;
  return MeanLoss(state, windows, per_pass, [&](int64_t i, model::Batch* batch) {
    AppendWindow(tokens, i * length, std::min(length, inputs - i * length), batch);
  });
}

absl::StatusOr<double> HeldoutTraces::Loss(int64_t per_pass) {
  if (problems_.empty()) {
    const text::TaskOptions task = ToTaskOptions(state_.spec.data().task());
    uint64_t tokens = 0;
    for (uint64_t i = 0; tokens < state_.spec.data().heldout_tokens(); ++i) {
      problems_.push_back(
          EncodeProblem(*state_.data.tokenizer,
                        text::MakeProblem(task, state_.spec.seed(), i, /*heldout=*/true)));
      tokens += problems_.back().prompt.size() + problems_.back().trace.size();
    }
  }
  return MeanLoss(state_, static_cast<int64_t>(problems_.size()), per_pass,
                  [&](int64_t i, model::Batch* batch) {
                    std::vector<int32_t> tokens = problems_[i].prompt;
                    tokens.insert(tokens.end(), problems_[i].trace.begin(),
                                  problems_[i].trace.end());
                    AppendTrained(tokens, problems_[i].prompt.size(), batch);
                  });
}

void ReportHeldout(RunState& state, double loss) {
  SendEvent(state, v1::EVENT_SEVERITY_INFO, "heldout_evaluated",
            absl::StrFormat("Held-out loss after step %d: %.4f", state.progress.step, loss),
            {{"loss", FormatDouble(loss)}});
}

}  // namespace espalier::train
