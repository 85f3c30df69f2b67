// Reinforcement by GRPO: a rollout, rewards, then clipped policy updates on the traces that carry a
// gradient.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/train/evaluate.h"
#include "libs/train/grpo.h"
#include "libs/train/rollout.h"
#include "libs/train/schedule.h"
#include "libs/train/stage.h"
#include "libs/train/update.h"

namespace espalier::train {
namespace {

constexpr uint64_t kRolloutStream = 1;
constexpr uint64_t kEvaluationStream = 2;

// Traces of one update on this rank, packed; tokens that carry no gradient have no place here.
struct PolicyBatch {
  model::Batch batch = EmptyBatch();
  struct Trace {
    int64_t first_target = 0;  // of its sampled tokens in the batch
    double advantage = 0;
    const model::Sample* sample = nullptr;
  };
  std::vector<Trace> traces;
  int64_t targets = 0;
};

void AppendTrace(const RolloutGroup& group, const model::Sample& sample, double advantage,
                 PolicyBatch* policy) {
  std::vector<int32_t> tokens = group.prompt;
  tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
  const int64_t start = static_cast<int64_t>(policy->batch.tokens.size());
  AppendTrained(tokens, group.prompt.size(), &policy->batch);
  policy->traces.push_back(
      {start + static_cast<int64_t>(group.prompt.size()) - 1, advantage, &sample});
  policy->targets += static_cast<int64_t>(sample.tokens.size());
}

class ReinforceStage final : public Stage {
 public:
  ReinforceStage(RunState& state, const v1::ReinforceStage& spec)
      : state_(state), spec_(spec), stage_index_(state.progress.stage_index), heldout_(state) {}

  v1::StageKind kind() const override { return v1::STAGE_KIND_REINFORCE; }
  uint64_t steps() const override { return spec_.steps(); }
  uint64_t eval_every() const override { return spec_.eval_every(); }

  absl::StatusOr<StepResult> Step(uint64_t step) override {
    RolloutRequest request;
    request.first_problem = ProblemIndex(stage_index_, step, spec_.prompts(), 0);
    request.problems = spec_.prompts();
    request.group_size = static_cast<int>(spec_.group_size());
    request.seed = MixSeed(state_.spec.seed(), uint64_t{stage_index_} << 8 | kRolloutStream, step);
    request.per_pass = PromptsPerRank();
    ASSIGN_OR_RETURN(const Rollout rollout, RunRollout(state_, spec_, request, true));
    // The model's phases of sampling are the rollout's time: they are not to be counted twice.
    state_.model->phase_seconds() = {};
    int64_t abstained = 0;
    const std::vector<PolicyBatch> batches = MakeBatches(rollout, &abstained);

    // How many tokens each update has over all ranks, and the rollout's figures.
    Exchange exchange(state_.communicator);
    RolloutMetrics metrics;
    metrics.Pack(rollout, &exchange);
    std::vector<int> targets, tokens;
    for (const PolicyBatch& policy : batches) {
      targets.push_back(exchange.AddSum(policy.targets));
      tokens.push_back(exchange.AddSum(static_cast<int64_t>(policy.batch.tokens.size())));
    }
    const int rollout_tokens = exchange.AddSum(rollout.local_tokens);
    const int abstentions = exchange.AddSum(abstained);
    const int sequence = exchange.AddMin(static_cast<int64_t>(LocalSequence(state_)));
    state_.loads.Pack(&exchange);
    RETURN_IF_ERROR(exchange.Run());
    state_.loads.Unpack(exchange);

    StepResult result;
    result.reinforce = metrics.Unpack(exchange, /*evaluation=*/false);
    result.learning_rate = LearningRate(spec_.optimizer(), step, spec_.steps());
    result.agreed_sequence = static_cast<uint64_t>(exchange.Min(sequence));
    result.local_tokens = static_cast<uint64_t>(rollout.local_tokens);
    result.global_tokens = static_cast<uint64_t>(exchange.Sum(rollout_tokens));
    ReportAbstentions(exchange.Sum(abstentions));
    int updates = 0;
    for (size_t i = 0; i < batches.size(); ++i) {
      // Nothing to learn from on any rank: all of them skip the pass.
      if (exchange.Sum(targets[i]) == 0) continue;
      ASSIGN_OR_RETURN(const UpdateResult update,
                       Update(batches[i], result.learning_rate, exchange.Sum(targets[i]),
                              exchange.Sum(tokens[i])));
      ++updates;
      result.loss += update.loss;
      result.gradient_norm = std::max(result.gradient_norm, update.gradient_norm);
      result.agreed_sequence = update.agreed_sequence;
      result.local_tokens += batches[i].batch.tokens.size();
      result.global_tokens += static_cast<uint64_t>(update.tokens);
    }
    if (updates > 0) result.loss /= updates;
    return result;
  }

  absl::StatusOr<double> HeldoutLoss() override {
    return heldout_.Loss(PromptsPerRank() * spec_.group_size());
  }

  absl::StatusOr<std::optional<double>> Evaluate(EvaluationPhase phase) override {
    RolloutRequest request;
    request.problems = spec_.eval_prompts();
    request.heldout = true;
    // The same samples' numbers each time: what differs between two evaluations is the model.
    request.seed = MixSeed(state_.spec.seed(), uint64_t{stage_index_} << 8 | kEvaluationStream);
    request.per_pass = PromptsPerRank() * spec_.group_size();
    ASSIGN_OR_RETURN(const Rollout rollout, RunRollout(state_, spec_, request, false));
    Exchange exchange(state_.communicator);
    RolloutMetrics metrics;
    metrics.Pack(rollout, &exchange);
    RETURN_IF_ERROR(exchange.Run());
    ReportEvaluation(metrics.Unpack(exchange, /*evaluation=*/true), phase);
    return std::nullopt;
  }

 private:
  int64_t PromptsPerRank() const {
    const int64_t ranks = state_.communicator.size();
    return (spec_.prompts() + ranks - 1) / ranks;
  }

  // Groups are dealt to the updates in turn, by their number over all ranks.
  std::vector<PolicyBatch> MakeBatches(const Rollout& rollout, int64_t* abstained) const {
    std::vector<PolicyBatch> batches(spec_.minibatches());
    for (const RolloutGroup& group : rollout.groups) {
      std::vector<double> rewards;
      std::vector<bool> scored;
      for (const RolloutTrace& trace : group.traces) {
        rewards.push_back(trace.score.total());
        scored.push_back(trace.score.verdict() != v1::VERDICT_ABSTAIN);
        *abstained += trace.score.verdict() == v1::VERDICT_ABSTAIN;
      }
      const std::vector<double> advantages = GroupAdvantages(rewards, scored);
      PolicyBatch& policy = batches[group.index % spec_.minibatches()];
      for (size_t i = 0; i < group.traces.size(); ++i) {
        if (advantages[i] == 0 ||
            !CarriesGradient(group.traces[i], spec_.reward().length_shaping()))
          continue;
        AppendTrace(group, group.traces[i].sample, advantages[i], &policy);
      }
    }
    return batches;
  }

  absl::StatusOr<UpdateResult> Update(const PolicyBatch& policy, double learning_rate,
                                      int64_t global_targets, int64_t global_tokens) {
    UpdateRequest request;
    request.batch = &policy.batch;
    const ClipRange clip{spec_.clip_low(), spec_.clip_high()};
    request.loss = [&](std::span<const float> logps, std::span<float> dlogps) {
      double loss = 0;
      for (const PolicyBatch::Trace& trace : policy.traces) {
        const size_t count = trace.sample->tokens.size();
        loss += PolicyLoss(logps.subspan(trace.first_target, count), trace.sample->logps,
                           trace.advantage, clip, static_cast<double>(global_targets),
                           dlogps.subspan(trace.first_target, count));
      }
      return loss;
    };
    request.aux_scale =
        static_cast<double>(policy.batch.tokens.size()) / static_cast<double>(global_tokens);
    request.optimizer = &spec_.optimizer();
    request.learning_rate = learning_rate;
    return RunUpdate(state_, request);
  }

  void ReportAbstentions(int64_t count) {
    if (count == 0) return;
    SendEvent(state_, v1::EVENT_SEVERITY_WARNING, "reward_abstained",
              absl::StrCat("The reward service gave no verdict on ", count, " traces of step ",
                           state_.progress.step + 1, "; they carry no gradient."),
              {{"traces", absl::StrCat(count)}});
  }

  void ReportEvaluation(const v1::ReinforceMetrics& metrics, EvaluationPhase phase) {
    const char* name = phase == EvaluationPhase::kBefore  ? "before"
                       : phase == EvaluationPhase::kAfter ? "after"
                                                          : "during";
    SendEvent(
        state_, v1::EVENT_SEVERITY_INFO, "reinforce_evaluation",
        absl::StrFormat("Held-out problems %s reinforcement: %.1f%% correct, %.1f tokens a trace.",
                        name, 100 * metrics.accuracy(), metrics.mean_trace_tokens()),
        {{"phase", name},
         {"traces", absl::StrCat(metrics.traces())},
         {"accuracy", FormatDouble(metrics.accuracy())},
         {"mean_trace_tokens", FormatDouble(metrics.mean_trace_tokens())},
         {"mean_reward", FormatDouble(metrics.mean_reward())},
         {"mean_reflections", FormatDouble(metrics.mean_reflections())},
         {"tail_share", FormatDouble(metrics.tail_share())},
         {"truncated_share", FormatDouble(metrics.truncated_share())}});
  }

  RunState& state_;
  const v1::ReinforceStage& spec_;
  const uint32_t stage_index_;
  HeldoutTraces heldout_;
};

}  // namespace

std::unique_ptr<Stage> MakeReinforceStage(RunState& state, const v1::ReinforceStage& spec) {
  return std::make_unique<ReinforceStage>(state, spec);
}

}  // namespace espalier::train
