// Reinforcement by GRPO: a rollout, rewards, then clipped policy updates on the traces that carry a
// gradient.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/train/entropy.h"
#include "libs/train/evaluate.h"
#include "libs/train/policy.h"
#include "libs/train/refill.h"
#include "libs/train/rollout.h"
#include "libs/train/schedule.h"
#include "libs/train/stage.h"
#include "libs/train/update.h"

namespace espalier::train {
namespace {

constexpr uint64_t kRolloutStream = 1;
constexpr uint64_t kEvaluationStream = 2;

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
    std::vector<GroupStanding> mine;
    std::vector<PolicyBatch> batches = MakeBatches(rollout, &mine, &abstained);

    // How every group stands, how many tokens each update has over all ranks, and the rollout's
    // figures.
    Exchange exchange(state_.communicator);
    RolloutMetrics metrics;
    metrics.Pack(rollout, &exchange);
    GroupStandings standings(spec_.prompts());
    standings.Pack(mine, &exchange);
    std::vector<int> tokens;
    for (const PolicyBatch& policy : batches) {
      tokens.push_back(exchange.AddSum(static_cast<int64_t>(policy.batch().tokens.size())));
    }
    const int rollout_tokens = exchange.AddSum(rollout.local_tokens);
    const int abstentions = exchange.AddSum(abstained);
    const int sequence = exchange.AddMin(static_cast<int64_t>(LocalSequence(state_)));
    state_.loads.Pack(&exchange);
    RETURN_IF_ERROR(exchange.Run());
    state_.loads.Unpack(exchange);
    const std::vector<int64_t> targets = CountTargets(standings.Unpack(exchange), &batches);

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
      if (targets[i] == 0) continue;
      ASSIGN_OR_RETURN(const UpdateResult update, Update(batches[i], result.learning_rate,
                                                         targets[i], exchange.Sum(tokens[i])));
      ++updates;
      result.loss += update.loss;
      result.gradient_norm = std::max(result.gradient_norm, update.gradient_norm);
      result.agreed_sequence = update.agreed_sequence;
      result.local_tokens += batches[i].batch().tokens.size();
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

  size_t UpdateOf(int64_t group) const { return group % spec_.minibatches(); }

  // Groups are dealt to the updates in turn, by their number over all ranks.
  std::vector<PolicyBatch> MakeBatches(const Rollout& rollout,
                                       std::vector<GroupStanding>* standings,
                                       int64_t* abstained) const {
    std::vector<PolicyBatch> batches(spec_.minibatches());
    for (const RolloutGroup& group : rollout.groups) {
      standings->push_back(batches[UpdateOf(group.index)].Add(group, spec_));
      for (const RolloutTrace& trace : group.traces) {
        *abstained += trace.score.verdict() == v1::VERDICT_ABSTAIN;
      }
    }
    return batches;
  }

  // The tokens that each update's mean is over. With refill_groups, groups are used as often as
  // fills up their update.
  std::vector<int64_t> CountTargets(const std::vector<GroupStanding>& standings,
                                    std::vector<PolicyBatch>* batches) const {
    std::vector<int64_t> targets;
    for (size_t update = 0; update < batches->size(); ++update) {
      std::vector<GroupStanding> groups;
      for (const GroupStanding& group : standings) {
        if (UpdateOf(group.index) == update) groups.push_back(group);
      }
      std::vector<int64_t> uses(groups.size(), 1);
      if (spec_.refill_groups()) uses = RefillUses(groups);
      (*batches)[update].SetUses(groups, uses);
      int64_t sum = 0;
      for (size_t i = 0; i < groups.size(); ++i) sum += groups[i].gradient_tokens * uses[i];
      targets.push_back(sum);
    }
    return targets;
  }

  absl::StatusOr<UpdateResult> Update(const PolicyBatch& policy, double learning_rate,
                                      int64_t global_targets, int64_t global_tokens) {
    const StepRecorder::Phase update(state_.recorder, "update");
    std::vector<uint8_t> selected;
    if (spec_.entropy_share() < 1) {
      ASSIGN_OR_RETURN(selected, SelectTokens(policy));
    }
    UpdateRequest request;
    request.batch = &policy.batch();
    request.loss = [&](std::span<const float> logps, std::span<float> dlogps) {
      return policy.Loss(logps, spec_, static_cast<double>(global_targets), selected, dlogps);
    };
    request.aux_scale =
        static_cast<double>(policy.batch().tokens.size()) / static_cast<double>(global_tokens);
    request.optimizer = &spec_.optimizer();
    request.learning_rate = learning_rate;
    return RunUpdate(state_, request);
  }

  // The sampled tokens at which the policy, as it is before the update, has the highest entropy.
  // The pass that finds them is no load of the experts'. (collective)
  absl::StatusOr<std::vector<uint8_t>> SelectTokens(const PolicyBatch& policy) {
    std::vector<float> logps, entropies;
    RETURN_IF_ERROR(state_.model->Forward(policy.batch(), &logps, &entropies));
    return MarkHighestEntropies(policy.OfSampledTokens(entropies), spec_.entropy_share(),
                                state_.communicator);
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
