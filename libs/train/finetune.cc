// Finetuning on generated reasoning traces: the prompt is given, the trace and its end are learned.
#include <algorithm>

#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/train/evaluate.h"
#include "libs/train/exchange.h"
#include "libs/train/schedule.h"
#include "libs/train/stage.h"
#include "libs/train/update.h"

namespace espalier::train {
namespace {

class FinetuneStage final : public Stage {
 public:
  FinetuneStage(RunState& state, const v1::FinetuneStage& spec)
      : state_(state),
        spec_(spec),
        task_(ToTaskOptions(state.spec.data().task())),
        stage_index_(state.progress.stage_index),
        heldout_(state) {}

  v1::StageKind kind() const override { return v1::STAGE_KIND_FINETUNE; }
  uint64_t steps() const override { return spec_.steps(); }
  uint64_t eval_every() const override { return spec_.eval_every(); }

  absl::StatusOr<StepResult> Step(uint64_t step) override {
    const absl::Time start = absl::Now();
    StepRecorder::Phase data(state_.recorder, "data");
    const model::Batch batch = DrawBatch(step);
    data.End();
    state_.phases.set_data_seconds(absl::ToDoubleSeconds(absl::Now() - start));
    // Traces differ in length, so the ranks must first learn how many tokens there are in all.
    Exchange counts(state_.communicator);
    const int targets = counts.AddSum(CountTargets(batch));
    const int tokens = counts.AddSum(static_cast<int64_t>(batch.tokens.size()));
    RETURN_IF_ERROR(counts.Run());

    UpdateRequest request;
    request.batch = &batch;
    request.cross_entropy_targets = static_cast<double>(counts.Sum(targets));
    request.aux_scale =
        static_cast<double>(batch.tokens.size()) / static_cast<double>(counts.Sum(tokens));
    request.optimizer = &spec_.optimizer();
    request.learning_rate = LearningRate(spec_.optimizer(), step, spec_.steps());
    ASSIGN_OR_RETURN(const UpdateResult update, RunUpdate(state_, request));

    StepResult result;
    result.loss = update.loss;
    result.gradient_norm = update.gradient_norm;
    result.learning_rate = request.learning_rate;
    result.local_tokens = batch.tokens.size();
    result.global_tokens = static_cast<uint64_t>(update.tokens);
    result.agreed_sequence = update.agreed_sequence;
    return result;
  }

  absl::StatusOr<double> HeldoutLoss() override {
    return heldout_.Loss(std::max<int64_t>(1, spec_.batch_traces() / state_.communicator.size()));
  }

  absl::StatusOr<std::optional<double>> Evaluate(EvaluationPhase phase) override {
    if (phase == EvaluationPhase::kBefore) return std::nullopt;
    ASSIGN_OR_RETURN(const double loss, HeldoutLoss());
    ReportHeldout(state_, loss);
    return loss;
  }

 private:
  model::Batch DrawBatch(uint64_t step) const {
    const Share share =
        ShareOf(spec_.batch_traces(), state_.communicator.rank(), state_.communicator.size());
    model::Batch batch = EmptyBatch();
    for (int64_t i = share.begin; i < share.end; ++i) {
      const uint64_t index = ProblemIndex(stage_index_, step, spec_.batch_traces(), i);
      const EncodedProblem problem =
          EncodeProblem(*state_.data.tokenizer,
                        text::MakeProblem(task_, state_.spec.seed(), index, /*heldout=*/false));
      std::vector<int32_t> tokens = problem.prompt;
      tokens.insert(tokens.end(), problem.trace.begin(), problem.trace.end());
      AppendTrained(tokens, problem.prompt.size(), &batch);
    }
    return batch;
  }

  RunState& state_;
  const v1::FinetuneStage& spec_;
  const text::TaskOptions task_;
  const uint32_t stage_index_;
  HeldoutTraces heldout_;
};

}  // namespace

std::unique_ptr<Stage> MakeFinetuneStage(RunState& state, const v1::FinetuneStage& spec) {
  return std::make_unique<FinetuneStage>(state, spec);
}

}  // namespace espalier::train
