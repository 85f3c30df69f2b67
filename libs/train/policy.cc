// Using a trace n times multiplies its part of the loss by n, which the advantage takes: the
// clipped objective is homogeneous in it.
#include "libs/train/policy.h"

#include <algorithm>

#include "libs/train/grpo.h"

namespace espalier::train {

GroupStanding PolicyBatch::Add(const RolloutGroup& group, const v1::ReinforceStage& spec) {
  GroupStanding standing{.index = group.index, .traces = static_cast<int64_t>(group.traces.size())};
  std::vector<double> rewards;
  std::vector<bool> scored;
  for (const RolloutTrace& trace : group.traces) {
    rewards.push_back(trace.score.total());
    scored.push_back(trace.score.verdict() != v1::VERDICT_ABSTAIN);
    standing.correct += trace.score.verdict() == v1::VERDICT_CORRECT;
    standing.reward += trace.score.total();
  }
  const std::vector<double> advantages = GroupAdvantages(rewards, scored);
  for (size_t i = 0; i < group.traces.size(); ++i) {
    if (advantages[i] == 0 || !CarriesGradient(group.traces[i], spec)) continue;
    const model::Sample& sample = group.traces[i].sample;
    std::vector<int32_t> tokens = group.prompt;
    tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
    const auto start = static_cast<int64_t>(batch_.tokens.size());
    AppendTrained(tokens, group.prompt.size(), &batch_);
    if (spec.replay_routing()) {
      batch_.routes.insert(batch_.routes.end(), sample.routes.begin(), sample.routes.end());
    }
    traces_.push_back({.group = group.index,
                       .first = start + static_cast<int64_t>(group.prompt.size()) - 1,
                       .advantage = advantages[i],
                       .sample = &sample});
    standing.gradient_tokens += static_cast<int64_t>(sample.tokens.size());
  }
  sampled_tokens_ += standing.gradient_tokens;
  return standing;
}

void PolicyBatch::SetUses(std::span<const GroupStanding> standings, std::span<const int64_t> uses) {
  for (Trace& trace : traces_) {
    const auto standing =
        std::find_if(standings.begin(), standings.end(),
                     [&](const GroupStanding& group) { return group.index == trace.group; });
    trace.uses = uses[standing - standings.begin()];
  }
}

std::vector<float> PolicyBatch::OfSampledTokens(std::span<const float> values) const {
  std::vector<float> sampled;
  sampled.reserve(sampled_tokens_);
  for (const Trace& trace : traces_) {
    const auto of_trace = values.subspan(trace.first, trace.sample->tokens.size());
    sampled.insert(sampled.end(), of_trace.begin(), of_trace.end());
  }
  return sampled;
}

double PolicyBatch::Loss(std::span<const float> logps, const v1::ReinforceStage& spec,
                         double token_count, std::span<const uint8_t> selected,
                         std::span<float> dlogps) const {
  const ClipRange clip{spec.clip_low(), spec.clip_high(), spec.clip_both_sides()};
  double loss = 0;
  size_t next = 0;
  for (const Trace& trace : traces_) {
    const size_t count = trace.sample->tokens.size();
    loss += PolicyLoss(logps.subspan(trace.first, count), trace.sample->logps,
                       trace.advantage * static_cast<double>(trace.uses), clip, token_count,
                       selected.empty() ? selected : selected.subspan(next, count),
                       dlogps.subspan(trace.first, count));
    next += count;
  }
  return loss;
}

}  // namespace espalier::train
