// The run from its start to its end: what is set up once, the stages in order, and the loop over
// steps.
#include "libs/train/trainer.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/model/checkpoint.h"
#include "libs/model/import.h"
#include "libs/observe/log.h"
#include "libs/spec/spec.h"
#include "libs/train/checkpointer.h"
#include "libs/train/commands.h"
#include "libs/train/exchange.h"
#include "libs/train/reporter.h"
#include "libs/train/run_state.h"
#include "libs/train/stage.h"
#include "libs/train/start.h"

namespace espalier::train {
namespace {

model::Precision PrecisionOf(const RunState& state) {
  switch (state.spec.workers().precision()) {
    case v1::PRECISION_BF16:
      return model::Precision::kBf16;
    case v1::PRECISION_FP32:
      return model::Precision::kFp32;
    default:
      return state.options.device == model::Device::kCuda ? model::Precision::kBf16
                                                          : model::Precision::kFp32;
  }
}

class Run {
 public:
  Run(const v1::Assignment& assignment, const TrainerOptions& options,
      collective::Communicator& communicator, TrainController& controller, TraceScorer& scorer)
      : state_{assignment, assignment.spec(), options, communicator, controller, scorer},
        checkpointer_(state_),
        reporter_(state_),
        commands_(state_, checkpointer_, reporter_) {}

  absl::StatusOr<TrainOutcome> Go();

 private:
  absl::Status SetUp();
  absl::Status MakeModel(const std::optional<model::CheckpointState>& checkpoint,
                         const std::optional<Start>& start);
  // True when the run was stopped.
  absl::StatusOr<bool> RunStage();
  absl::Status RunExportStage(const v1::StageSpec& spec);
  absl::StatusOr<bool> RunSteps(Stage& stage);
  absl::StatusOr<bool> AfterStep(Stage& stage, uint64_t agreed_sequence);
  absl::Status EvaluateAndReport(Stage& stage, EvaluationPhase phase);
  void SendStageEvent(const std::string& name);

  RunState state_;
  Checkpointer checkpointer_;
  Reporter reporter_;
  CommandRunner commands_;
  bool history_applied_ = false;
};

absl::StatusOr<TrainOutcome> Run::Go() {
  RETURN_IF_ERROR(SetUp());
  const auto stages = static_cast<uint32_t>(state_.spec.stages_size());
  while (state_.progress.stage_index < stages) {
    ASSIGN_OR_RETURN(const bool stopped, RunStage());
    if (stopped) return TrainOutcome::kStopped;
  }
  return TrainOutcome::kCompleted;
}

absl::Status Run::SetUp() {
  std::optional<model::CheckpointState> checkpoint;
  if (const std::string& path = state_.assignment.checkpoint(); !path.empty()) {
    auto read = model::ReadCheckpointState(path);
    absl::Status status = read.status();
    if (status.ok()) status = ProgressFromJson(read->trainer_json, &state_.progress);
    RETURN_IF_ERROR(AgreeStatus(state_.communicator, status));
    state_.progress.step = read->step;
    state_.progress.last_applied_sequence = read->last_applied_sequence;
    checkpoint = *std::move(read);
  }
  std::optional<Start> start;
  if (!checkpoint && !state_.spec.model().start_from().empty()) {
    ASSIGN_OR_RETURN(start, ReadStart(state_));
  }
  const std::string tokenizer_json =
      checkpoint ? checkpoint->tokenizer_json : (start ? start->tokenizer_json : "");
  ASSIGN_OR_RETURN(state_.data,
                   PrepareData(state_.spec, state_.options.data_root, state_.progress.stage_index,
                               tokenizer_json, state_.communicator));
  RETURN_IF_ERROR(MakeModel(checkpoint, start));
  if (checkpoint) checkpointer_.NoteLoaded(state_.assignment.checkpoint());
  state_.optimizer = std::make_unique<Optimizer>(*state_.model);
  state_.model->MeasureOutputNorms(MeasuresOutputNorms(state_));
  state_.loads.Reset(state_.model->layout(), MeasuresOutputNorms(state_));
  state_.recorder.Start(state_.assignment, static_cast<uint32_t>(state_.communicator.rank()),
                        &state_.controller);
  return commands_.LearnHistory();
}

absl::Status Run::MakeModel(const std::optional<model::CheckpointState>& checkpoint,
                            const std::optional<Start>& start) {
  const int ranks = state_.communicator.size();
  const model::ModelConfig config =
      checkpoint ? checkpoint->config
      : start    ? start->config
                 : spec::ToModelConfig(state_.spec.model(), state_.data.tokenizer->vocabulary());
  const model::ExpertLayout layout = checkpoint ? model::FitLayout(checkpoint->layout, ranks)
                                                : model::InitialLayout(config, ranks);
  auto model = model::CreateModel(config, layout, &state_.communicator, state_.spec.seed(),
                                  {.device = state_.options.device,
                                   .precision = PrecisionOf(state_),
                                   .device_index = state_.options.device_index,
                                   .threads = state_.options.threads,
                                   .recompute = state_.spec.workers().recompute()});
  RETURN_IF_ERROR(AgreeStatus(state_.communicator, model.status()));
  state_.model = *std::move(model);
  if (checkpoint) {
    RETURN_IF_ERROR(AgreeStatus(
        state_.communicator, model::LoadCheckpoint(*state_.model, state_.assignment.checkpoint())));
  }
  if (start) {
    RETURN_IF_ERROR(AgreeStatus(state_.communicator,
                                model::ImportWeights(*state_.model, start->directory)));
  }
  const std::string source = checkpoint ? " from " + state_.assignment.checkpoint()
                             : start    ? " from " + start->directory
                                        : "";
  const std::string params = absl::StrCat(state_.model->TotalParameters());
  SendEvent(state_, v1::EVENT_SEVERITY_INFO, "model_created",
            absl::StrCat("Model of ", params, " parameters on ", ranks, " ranks", source),
            {{"params", params},
             {"experts", ExpertsCsv(*state_.model)},
             {"vocabulary", absl::StrCat(config.vocabulary)}});
  return absl::OkStatus();
}

void Run::SendStageEvent(const std::string& name) {
  const uint32_t index = state_.progress.stage_index;
  const std::string stage = spec::StageName(state_.spec.stages(static_cast<int>(index)));
  SendEvent(state_, v1::EVENT_SEVERITY_INFO, name,
            absl::StrCat("Stage ", index + 1, " of ", state_.spec.stages_size(), ", ", stage,
                         name == "stage_started" ? ", begins." : ", is done."),
            {{"stage", stage}, {"index", absl::StrCat(index)}});
}

absl::StatusOr<bool> Run::RunStage() {
  const v1::StageSpec& spec = state_.spec.stages(static_cast<int>(state_.progress.stage_index));
  SendStageEvent("stage_started");
  if (spec.has_export_()) {
    RETURN_IF_ERROR(RunExportStage(spec));
  } else {
    const std::unique_ptr<Stage> stage = MakeStage(state_);
    ASSIGN_OR_RETURN(const bool stopped, RunSteps(*stage));
    if (stopped) return true;
  }
  SendStageEvent("stage_finished");
  ++state_.progress.stage_index;
  state_.progress.step_in_stage = 0;
  state_.progress.updates = 0;
  if (spec.has_export_()) return false;
  // Each stage begins with an optimizer of its own; the checkpoint already holds it that way.
  RETURN_IF_ERROR(state_.optimizer->ResetMoments());
  RETURN_IF_ERROR(checkpointer_.WriteOrReport());
  return false;
}

absl::Status Run::RunExportStage(const v1::StageSpec& spec) {
  RETURN_IF_ERROR(CheckCancelled(state_));
  return ExportModel(state_, spec.export_().directory(), spec::ToFamily(spec.export_().format()))
      .status();
}

absl::StatusOr<bool> Run::RunSteps(Stage& stage) {
  if (!history_applied_) {
    history_applied_ = true;
    ASSIGN_OR_RETURN(const bool stopped, commands_.ApplyHistory(stage));
    if (stopped) return true;
  }
  if (state_.progress.step_in_stage == 0) {
    RETURN_IF_ERROR(EvaluateAndReport(stage, EvaluationPhase::kBefore));
  }
  while (state_.progress.step_in_stage < stage.steps()) {
    RETURN_IF_ERROR(CheckCancelled(state_));
    const absl::Time start = absl::Now();
    state_.phases.Clear();
    state_.model->phase_seconds() = {};
    state_.recorder.BeginStep(state_.progress.step + 1, stage.kind());
    ASSIGN_OR_RETURN(const StepResult result, stage.Step(state_.progress.step_in_stage + 1));
    ++state_.progress.step;
    ++state_.progress.step_in_stage;
    reporter_.AddStep(stage.kind(), result, absl::Now() - start);
    state_.recorder.StepDone();
    ASSIGN_OR_RETURN(const bool stopped, AfterStep(stage, result.agreed_sequence));
    state_.recorder.EndStep();
    if (stopped) return true;
  }
  reporter_.Flush();
  return false;
}

absl::StatusOr<bool> Run::AfterStep(Stage& stage, uint64_t agreed_sequence) {
  const uint64_t step = state_.progress.step_in_stage;
  const bool last = step == stage.steps();
  // Before any command: the figure belongs to the step's own report.
  if (last) {
    RETURN_IF_ERROR(EvaluateAndReport(stage, EvaluationPhase::kAfter));
  } else if (stage.eval_every() > 0 && step % stage.eval_every() == 0) {
    RETURN_IF_ERROR(EvaluateAndReport(stage, EvaluationPhase::kDuring));
  }
  ASSIGN_OR_RETURN(const bool stopped, commands_.ApplyUpTo(agreed_sequence, stage));
  if (stopped) return true;
  {
    const StepRecorder::Phase report(state_.recorder, "report");
    reporter_.FlushIfDue();
  }
  // The checkpoint at the end of a stage is written as the start of the next one.
  const uint64_t every = state_.spec.checkpoints().every_steps();
  if (!last && every > 0 && state_.progress.step % every == 0) {
    const StepRecorder::Phase checkpoint(state_.recorder, "checkpoint");
    RETURN_IF_ERROR(checkpointer_.WriteOrReport());
  }
  return false;
}

absl::Status Run::EvaluateAndReport(Stage& stage, EvaluationPhase phase) {
  const StepRecorder::Phase evaluate(state_.recorder, "evaluate");
  ASSIGN_OR_RETURN(const std::optional<double> loss, stage.Evaluate(phase));
  if (loss.has_value()) reporter_.SetHeldoutLoss(*loss);
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<Stage> MakeStage(RunState& state) {
  const v1::StageSpec& spec = state.spec.stages(static_cast<int>(state.progress.stage_index));
  switch (spec.kind_case()) {
    case v1::StageSpec::kPretrain:
      return MakePretrainStage(state, spec.pretrain());
    case v1::StageSpec::kFinetune:
      return MakeFinetuneStage(state, spec.finetune());
    case v1::StageSpec::kReinforce:
      return MakeReinforceStage(state, spec.reinforce());
    case v1::StageSpec::kExport:
    case v1::StageSpec::KIND_NOT_SET:
      break;
  }
  LOG(FATAL) << "stage without steps: " << spec.ShortDebugString();
}

absl::StatusOr<TrainOutcome> RunTrainer(const v1::Assignment& assignment,
                                        const TrainerOptions& options,
                                        collective::Communicator& communicator,
                                        TrainController& controller, TraceScorer& scorer) {
  Run run(assignment, options, communicator, controller, scorer);
  absl::StatusOr<TrainOutcome> outcome = run.Go();
  if (outcome.ok()) return outcome;
  // Peers that do not know of this error wait in a collective: end it. Those that agreed on it need
  // no more.
  if (!IsAgreed(outcome.status())) communicator.Abort(outcome.status());
  return StripAgreed(outcome.status());
}

}  // namespace espalier::train
