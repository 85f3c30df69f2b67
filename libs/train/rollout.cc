// Samples are numbered over the whole request, so that they do not depend on the number of ranks.
#include "libs/train/rollout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/text/utf8.h"
#include "libs/train/aside.h"

namespace espalier::train {
namespace {

// The reward of the stage with the limits filled in that only the trainer knows.
v1::RewardSpec CompleteReward(const v1::ReinforceStage& spec) {
  v1::RewardSpec reward = spec.reward();
  if (reward.length_max() == 0) reward.set_length_max(spec.max_new_tokens());
  if (reward.length_buffer() == 0) reward.set_length_buffer(std::max(1u, reward.length_max() / 4));
  return reward;
}

absl::Status SamplePass(RunState& state, const v1::ReinforceStage& spec,
                        const RolloutRequest& request, std::span<RolloutGroup> groups,
                        Rollout* rollout) {
  std::vector<std::vector<int32_t>> prompts;
  std::vector<uint64_t> streams;
  for (const RolloutGroup& group : groups) {
    for (int i = 0; i < request.group_size; ++i) {
      prompts.push_back(group.prompt);
      streams.push_back(static_cast<uint64_t>(group.index) * request.group_size + i);
    }
  }
  model::SampleOptions options;
  options.temperature = spec.temperature();
  options.max_new_tokens = static_cast<int>(spec.max_new_tokens());
  options.end_token = text::Tokenizer::kEnd;
  options.seed = request.seed;
  options.record_routes = spec.replay_routing() && !request.heldout;
  ASSIGN_OR_RETURN(std::vector<model::Sample> samples,
                   state.model->Generate(prompts, streams, options));
  if (samples.size() != prompts.size()) {
    return absl::InternalError(absl::StrCat("model returned ", samples.size(), " samples for ",
                                            prompts.size(), " prompts"));
  }
  size_t next = 0;
  for (RolloutGroup& group : groups) {
    for (int i = 0; i < request.group_size; ++i) {
      rollout->local_tokens +=
          static_cast<int64_t>(group.prompt.size() + samples[next].tokens.size());
      group.traces.push_back({std::move(samples[next++]), {}});
    }
  }
  return absl::OkStatus();
}

absl::Status ScoreGroups(RunState& state, const v1::ReinforceStage& spec,
                         const std::vector<std::string>& references, Rollout* rollout) {
  const v1::RewardSpec reward = CompleteReward(spec);
  std::vector<v1::ScoreBatchRequest> requests;
  for (size_t g = 0; g < rollout->groups.size(); ++g) {
    v1::ScoreBatchRequest& request = requests.emplace_back();
    request.set_reference(references[g]);
    *request.mutable_reward() = reward;
    for (size_t i = 0; i < rollout->groups[g].traces.size(); ++i) {
      const model::Sample& sample = rollout->groups[g].traces[i].sample;
      v1::Trace* trace = request.add_traces();
      trace->set_trace_id(
          absl::StrCat(state.progress.step + 1, "/", rollout->groups[g].index, "/", i));
      trace->set_text(text::ValidUtf8(state.data.tokenizer->Decode(sample.tokens)));
      trace->set_token_count(static_cast<uint32_t>(sample.tokens.size()));
      trace->set_truncated(sample.truncated);
    }
  }
  if (requests.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<v1::ScoreBatchResponse> responses,
                   state.scorer.Score(requests));
  if (responses.size() != requests.size()) {
    return absl::InternalError(absl::StrCat("reward service answered ", responses.size(), " of ",
                                            requests.size(), " groups"));
  }
  for (size_t g = 0; g < responses.size(); ++g) {
    std::vector<RolloutTrace>& traces = rollout->groups[g].traces;
    if (responses[g].scores_size() != static_cast<int>(traces.size())) {
      return absl::InternalError(absl::StrCat("reward service scored ", responses[g].scores_size(),
                                              " of ", traces.size(), " traces of a group"));
    }
    for (size_t i = 0; i < traces.size(); ++i)
      traces[i].score = responses[g].scores(static_cast<int>(i));
  }
  return absl::OkStatus();
}

}  // namespace

bool CarriesGradient(const RolloutTrace& trace, const v1::ReinforceStage& spec) {
  if (trace.score.verdict() == v1::VERDICT_ABSTAIN || trace.sample.tokens.empty()) return false;
  return !trace.sample.truncated || !spec.overlong_filter() ||
         spec.reward().length_shaping() == v1::LENGTH_SHAPING_OVERLONG;
}

absl::StatusOr<Rollout> RunRollout(RunState& state, const v1::ReinforceStage& spec,
                                   const RolloutRequest& request, bool count_loads) {
  const text::TaskOptions task = ToTaskOptions(state.spec.data().task());
  const int ranks = state.communicator.size();
  const Share share = ShareOf(request.problems, state.communicator.rank(), ranks);
  const absl::Time start = absl::Now();
  Rollout rollout;
  StepRecorder::Phase whole(state.recorder, "rollout");
  StepRecorder::Phase sampling(state.recorder, "sample");
  std::vector<std::string> references;
  for (int64_t i = share.begin; i < share.end; ++i) {
    EncodedProblem problem = EncodeProblem(
        *state.data.tokenizer,
        text::MakeProblem(task, state.spec.seed(), request.first_problem + i, request.heldout));
    rollout.groups.push_back({i, std::move(problem.prompt), {}});
    references.push_back(std::move(problem.reference));
  }
  const int64_t largest_share = (request.problems + ranks - 1) / ranks;
  for (int64_t begin = 0; begin < largest_share; begin += request.per_pass) {
    const int64_t first = std::min(begin, share.count());
    const int64_t last = std::min(begin + request.per_pass, share.count());
    RETURN_IF_ERROR(SamplePass(state, spec, request,
                               std::span<RolloutGroup>(rollout.groups).subspan(first, last - first),
                               &rollout));
    if (count_loads) state.loads.Add(state.model->route_counts(), state.model->output_norms());
  }
  sampling.Set("traces", static_cast<int64_t>(rollout.groups.size()) * request.group_size);
  sampling.Set("tokens", rollout.local_tokens);
  sampling.End();
  const absl::Time sampled = absl::Now();
  StepRecorder::Phase reward(state.recorder, "reward");
  // The service may be away for longer than the links bear silence.
  const absl::Status scored = RunAside(state.communicator, [&, current = reward.current()] {
    // On a thread of its own, whose calls belong to the rollout.
    const observe::TraceScope scope(current);
    return ScoreGroups(state, spec, references, &rollout);
  });
  reward.End();
  whole.End();
  state.phases.set_rollout_seconds(state.phases.rollout_seconds() +
                                   absl::ToDoubleSeconds(sampled - start));
  state.phases.set_reward_seconds(state.phases.reward_seconds() +
                                  absl::ToDoubleSeconds(absl::Now() - sampled));
  RETURN_IF_ERROR(scored);
  return rollout;
}

void RolloutMetrics::Pack(const Rollout& rollout, Exchange* exchange) {
  int64_t traces = 0, correct = 0, tokens = 0, reflections = 0, truncated = 0, with_tail = 0;
  double reward = 0, tail = 0;
  for (const RolloutGroup& group : rollout.groups) {
    for (const RolloutTrace& trace : group.traces) {
      ++traces;
      correct += trace.score.verdict() == v1::VERDICT_CORRECT;
      tokens += static_cast<int64_t>(trace.sample.tokens.size());
      reflections += trace.score.reflections();
      truncated += trace.sample.truncated;
      with_tail += trace.score.has_tail_share();
      reward += trace.score.total();
      if (trace.score.has_tail_share()) tail += trace.score.tail_share();
    }
  }
  traces_ = exchange->AddSum(traces);
  correct_ = exchange->AddSum(correct);
  tokens_ = exchange->AddSum(tokens);
  reflections_ = exchange->AddSum(reflections);
  truncated_ = exchange->AddSum(truncated);
  with_tail_ = exchange->AddSum(with_tail);
  reward_ = exchange->AddReal(reward);
  tail_ = exchange->AddReal(tail);
}

v1::ReinforceMetrics RolloutMetrics::Unpack(const Exchange& exchange, bool evaluation) const {
  const double traces = std::max<double>(1.0, static_cast<double>(exchange.Sum(traces_)));
  const double with_tail = std::max<double>(1.0, static_cast<double>(exchange.Sum(with_tail_)));
  v1::ReinforceMetrics metrics;
  metrics.set_evaluation(evaluation);
  metrics.set_traces(static_cast<uint32_t>(exchange.Sum(traces_)));
  metrics.set_accuracy(static_cast<double>(exchange.Sum(correct_)) / traces);
  metrics.set_mean_trace_tokens(static_cast<double>(exchange.Sum(tokens_)) / traces);
  metrics.set_mean_reward(exchange.Total(reward_) / traces);
  metrics.set_mean_reflections(static_cast<double>(exchange.Sum(reflections_)) / traces);
  metrics.set_tail_share(exchange.Total(tail_) / with_tail);
  metrics.set_truncated_share(static_cast<double>(exchange.Sum(truncated_)) / traces);
  return metrics;
}

}  // namespace espalier::train
