// Pretraining: next-token cross-entropy on windows of the corpus.
#include <algorithm>

#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/text/corpus.h"
#include "libs/train/evaluate.h"
#include "libs/train/schedule.h"
#include "libs/train/stage.h"
#include "libs/train/update.h"

namespace espalier::train {
namespace {

class PretrainStage final : public Stage {
 public:
  PretrainStage(RunState& state, const v1::PretrainStage& spec)
      : state_(state),
        spec_(spec),
        batch_seed_(MixSeed(state.spec.seed(), state.progress.stage_index)) {}

  v1::StageKind kind() const override { return v1::STAGE_KIND_PRETRAIN; }
  uint64_t steps() const override { return spec_.steps(); }
  uint64_t eval_every() const override { return spec_.eval_every(); }

  absl::StatusOr<StepResult> Step(uint64_t step) override {
    const absl::Time start = absl::Now();
    StepRecorder::Phase data(state_.recorder, "data");
    const model::Batch batch = DrawBatch(step);
    data.End();
    state_.phases.set_data_seconds(absl::ToDoubleSeconds(absl::Now() - start));

    const double global_tokens =
        static_cast<double>(spec_.batch_sequences()) * spec_.sequence_length();
    UpdateRequest request;
    request.batch = &batch;
    request.cross_entropy_targets = global_tokens;
    request.aux_scale = static_cast<double>(batch.tokens.size()) / global_tokens;
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
    return CorpusHeldoutLoss(state_, spec_.sequence_length(), SequencesPerPass());
  }

  absl::StatusOr<std::optional<double>> Evaluate(EvaluationPhase phase) override {
    if (phase == EvaluationPhase::kBefore) return std::nullopt;
    ASSIGN_OR_RETURN(const double loss, HeldoutLoss());
    ReportHeldout(state_, loss);
    return loss;
  }

 private:
  model::Batch DrawBatch(uint64_t step) const {
    const std::vector<int64_t> offsets = text::SequenceOffsets(
        static_cast<int64_t>(state_.data.train.size()), static_cast<int>(spec_.sequence_length()),
        static_cast<int>(spec_.batch_sequences()), batch_seed_, step - 1);
    const Share share =
        ShareOf(spec_.batch_sequences(), state_.communicator.rank(), state_.communicator.size());
    model::Batch batch = EmptyBatch();
    batch.tokens.reserve(share.count() * spec_.sequence_length());
    batch.targets.reserve(share.count() * spec_.sequence_length());
    for (int64_t i = share.begin; i < share.end; ++i) {
      AppendWindow(state_.data.train, offsets[i], spec_.sequence_length(), &batch);
    }
    return batch;
  }

  // An evaluation needs no more memory than a training step does.
  int64_t SequencesPerPass() const {
    return std::max<int64_t>(1, spec_.batch_sequences() / state_.communicator.size());
  }

  RunState& state_;
  const v1::PretrainStage& spec_;
  const uint64_t batch_seed_;
};

}  // namespace

std::unique_ptr<Stage> MakePretrainStage(RunState& state, const v1::PretrainStage& spec) {
  return std::make_unique<PretrainStage>(state, spec);
}

}  // namespace espalier::train
