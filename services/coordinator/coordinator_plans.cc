// Decisions: asked for by a policy or by a request, planned on recorded loads, commanded, applied,
// verified.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/spec/spec.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/paging.h"
#include "services/coordinator/plan_question.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {

namespace {

// Smaller moves tell the latency, not the bandwidth.
constexpr uint64_t kBandwidthBytesMin = 1 << 20;

// Node of each rank: by the policy's count, or by the hosts that the workers named.
std::vector<int> NodesOf(const LiveRun& run) {
  const uint32_t per_node = run.record.run().spec().placement().ranks_per_node();
  std::vector<int> nodes;
  if (per_node > 0) {
    for (uint32_t rank = 0; rank < run.rank_count(); ++rank)
      nodes.push_back(static_cast<int>(rank / per_node));
    return nodes;
  }
  std::map<std::string, int> hosts;
  for (const MemberRecord& member : run.record.members())
    nodes.push_back(hosts.emplace(member.host(), static_cast<int>(hosts.size())).first->second);
  if (nodes.size() != run.rank_count()) nodes.clear();
  return nodes;
}

// Sum over [first, last] by expert.
absl::StatusOr<std::vector<double>> WindowSum(const Ledger& ledger, const std::string& run_id,
                                              uint32_t layer, uint64_t first, uint64_t last,
                                              uint32_t experts) {
  ASSIGN_OR_RETURN(const auto blocks, ledger.ReadLoads(run_id, layer, first, last, 1));
  std::vector<double> sums(experts, 0);
  for (const history::LoadBlock& block : blocks) {
    for (size_t i = 0; i < block.tokens.size() && i < sums.size(); ++i)
      sums[i] += static_cast<double>(block.tokens[i]);
  }
  return sums;
}

}  // namespace

Coordinator::PlanQuestion Coordinator::AskPlan(const LiveRun& run, uint32_t window_steps) const {
  PlanQuestion question;
  question.asked = absl::Now();
  question.run_id = run.id();
  const v1::RunSpec& spec = run.record.run().spec();
  PlanInput& input = question.input;
  input.model = spec.model();
  input.prune = spec.prune();
  input.placement = spec.placement();
  input.rank_count = run.rank_count();
  input.nodes = NodesOf(run);
  input.measured_bytes_per_second = run.record.measured_bytes_per_second();
  question.layout = run.layout;
  question.base_step = run.record.last_layout_step();
  question.layout_step = run.record.last_layout_step();
  question.window_steps = std::max(1u, window_steps);
  input.last_step = run.newest_step();
  input.first_step = std::max<uint64_t>(
      input.last_step >= question.window_steps ? input.last_step - question.window_steps + 1 : 1,
      question.base_step + 1);
  const uint64_t end = run.stage_end(input.last_step);
  // Without a known end, the policy's horizon is all there is.
  if (end < std::numeric_limits<uint64_t>::max()) input.steps_left = end - input.last_step;
  const auto stage = v1::STAGE_KIND_PRETRAIN;
  input.step_seconds = run.figures
                           .Median(input.first_step, input.last_step, stage,
                                   [](const StepFigure& figure) { return figure.step_seconds; })
                           .value_or(0);
  input.experts_seconds =
      run.figures
          .Median(input.first_step, input.last_step, stage,
                  [](const StepFigure& figure) { return figure.experts_seconds; })
          .value_or(0);
  return question;
}

absl::Status Coordinator::ReadWindow(PlanQuestion* question) const {
  PlanInput& input = question->input;
  const uint64_t first = input.first_step, last = input.last_step;
  if (question->layout.layers_size() == 0) {
    // A run that had ended before this process began: its layout is on disk only.
    ASSIGN_OR_RETURN(const auto commands, ledger_->ReadCommands(question->run_id, 0));
    for (const v1::Command& command : commands) {
      if (command.has_set_layout() && command.has_applied_step())
        question->layout = command.set_layout();
    }
  }
  if (last < first) return absl::OkStatus();
  const uint32_t experts = input.model.experts();
  bool any_norm = false;
  for (const v1::LayerLayout& layout : question->layout.layers()) {
    ASSIGN_OR_RETURN(const auto newest,
                     WindowSum(*ledger_, question->run_id, layout.layer(), first, last, experts));
    planner::LayerState layer;
    layer.layer = static_cast<int>(layout.layer());
    std::vector<double> before;
    if (first >= question->base_step + 1 + question->window_steps) {
      ASSIGN_OR_RETURN(before, WindowSum(*ledger_, question->run_id, layout.layer(),
                                         first - question->window_steps, first - 1, experts));
    }
    for (int i = 0; i < layout.experts_size(); ++i) {
      layer.experts.push_back(static_cast<int>(layout.experts(i)));
      layer.ranks.push_back(static_cast<int>(layout.ranks(i)));
      layer.loads.push_back(newest[layout.experts(i)]);
      if (!before.empty()) layer.previous_loads.push_back(before[layout.experts(i)]);
    }
    if (input.prune.score() == v1::PRUNE_SCORE_OUTPUT_NORM) {
      ASSIGN_OR_RETURN(const auto norms, WindowSum(*ledger_, Ledger::NormsOf(question->run_id),
                                                   layout.layer(), first, last, experts));
      for (size_t i = 0; i < layer.experts.size(); ++i) {
        // Mean over the tokens that the expert saw.
        const double norm = norms[layer.experts[i]];
        any_norm |= norm > 0;
        layer.scores.push_back(layer.loads[i] > 0 ? norm / layer.loads[i] : 0);
      }
    }
    input.layers.push_back(std::move(layer));
    if (question->prune_all) input.prunable.insert(layout.layer());
    if (layout.masked_size() > 0)
      input.masked[layout.layer()] = {layout.masked().begin(), layout.masked().end()};
  }
  const bool judged = input.prune.score() == v1::PRUNE_SCORE_OUTPUT_NORM && !input.prunable.empty();
  if (judged && !any_norm) {
    return absl::FailedPreconditionError(
        "prune.score: output_norm, but no output norms were reported in the plan's window; they "
        "are when the run's own spec says so from the start");
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Plan> Coordinator::AnswerPlan(PlanQuestion question) const {
  RETURN_IF_ERROR(ReadWindow(&question));
  return BuildPlan(question.input);
}

absl::StatusOr<Coordinator::PlanQuestion> Coordinator::QuestionFor(
    LiveRun* run, const v1::PlanOptions& options) const {
  v1::RunSpec spec = run->record.run().spec();
  if (options.has_prune()) *spec.mutable_prune() = options.prune();
  if (options.has_placement()) *spec.mutable_placement() = options.placement();
  spec::FillDefaults(&spec);
  RETURN_IF_ERROR(spec::ValidateRunSpec(spec));
  // A policy given with the request is meant, whatever the run's own says about enabling it.
  const bool prune =
      !options.skip_prune() &&
      (options.has_prune() || (spec.prune().enabled() && !run->record.prune_closed()));
  const bool place =
      !options.skip_placement() && (options.has_placement() || spec.placement().enabled());
  PlanQuestion question =
      AskPlan(*run, prune ? spec.prune().window_steps() : spec.placement().window_steps());
  question.input.prune = spec.prune();
  question.input.placement = spec.placement();
  question.input.place = place;
  question.prune_all = prune;
  return question;
}

void Coordinator::ProposePlan(v1::ProposePlanRequest request, Done<v1::ProposePlanResponse> done) {
  OnReadPool<v1::ProposePlanResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::ProposePlanResponse>()> {
        const auto question = QuestionFor(run, request.options());
        return [this, question]() -> absl::StatusOr<v1::ProposePlanResponse> {
          RETURN_IF_ERROR(question.status());
          v1::ProposePlanResponse response;
          ASSIGN_OR_RETURN(*response.mutable_plan(), AnswerPlan(*question));
          return response;
        };
      });
}

void Coordinator::ApplyPlan(v1::ApplyPlanRequest request, std::string by,
                            Done<v1::ApplyPlanResponse> done) {
  OnExecutor<v1::ApplyPlanResponse>(done, [this, request = std::move(request), by = std::move(by),
                                           done] {
    const auto found = FindRun(request.run_id());
    if (!found.ok()) return done(found.status());
    LiveRun* run = *found;
    if (!request.request_id().empty()) {
      const auto known = ledger_->FindRequest("apply/" + run->id(), request.request_id());
      if (known.ok()) {
        const auto decision = ledger_->ReadDecision(run->id(), *known);
        if (!decision.ok()) return done(decision.status());
        v1::ApplyPlanResponse response;
        *response.mutable_decision() = *decision;
        return done(std::move(response));
      }
    }
    if (!request.decision_id().empty()) return ApproveDecision(run, request, by, done);
    if (const absl::Status may = CheckCommandable(*run, "changed"); !may.ok()) return done(may);
    const auto question = QuestionFor(run, request.options());
    if (!question.ok()) return done(question.status());
    const bool posted = pool_.TryPost([this, question = *question, request, by, done] {
      auto plan = AnswerPlan(question);
      if (!plan.ok()) return done(plan.status());
      OnExecutor<v1::ApplyPlanResponse>(
          done, [this, question, request, by, plan = *std::move(plan), done] {
            FinishApply(question, request.request_id(), by, plan, done);
          });
    });
    if (!posted)
      done(absl::UnavailableError("the coordinator has too many reads waiting; retry in a moment"));
  });
}

void Coordinator::FinishApply(const PlanQuestion& question, const std::string& request_id,
                              const std::string& by, v1::Plan plan,
                              const Done<v1::ApplyPlanResponse>& done) {
  LiveRun* run = runs_.at(question.run_id).get();
  if (const absl::Status may = CheckCommandable(*run, "changed"); !may.ok()) return done(may);
  if (const v1::Decision* pending = run->pending_decision()) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("decision ", pending->decision_id(),
                     pending->state() == v1::DECISION_STATE_OBSERVED
                         ? absl::StrCat(" is watched until step ", pending->guard().judge_step())
                         : " is not applied yet",
                     "; wait for it and plan again, or roll it back")));
  }
  if (run->record.last_layout_step() != question.layout_step) {
    return done(absl::AbortedError("the layout changed while the plan was made; ask again"));
  }
  if (plan.empty())
    return done(absl::FailedPreconditionError(absl::StrCat("nothing to apply: ", plan.reason())));
  const v1::Decision decision = Decide(run, std::move(plan), question.input.prune,
                                       {.origin = "request",
                                        .policy = kBuiltinPolicy,
                                        .why = absl::StrCat(by, " asked for it"),
                                        .by = by,
                                        .asked = question.asked});
  if (!request_id.empty())
    ledger_->PutRequest("apply/" + run->id(), request_id, decision.decision_id());
  ledger_->Then([this, decision, done](const absl::Status& status) {
    if (!status.ok()) return done(Writable());
    v1::ApplyPlanResponse response;
    *response.mutable_decision() = decision;
    done(std::move(response));
  });
}

v1::Decision Coordinator::Decide(LiveRun* run, v1::Plan plan, const v1::PrunePolicy& policy,
                                 const DecisionCause& cause) {
  const v1::PolicySpec& rule = run->record.run().spec().policy();
  // What a person asks for has been approved by them.
  const bool waits = cause.by.empty() && rule.approval() == v1::APPROVAL_MANUAL;
  v1::Decision decision;
  run->record.set_next_decision(run->record.next_decision() + 1);
  decision.set_decision_id(absl::StrFormat("d-%06d", run->record.next_decision()));
  decision.set_run_id(run->id());
  decision.set_origin(cause.origin);
  decision.set_policy(cause.policy);
  decision.set_why(cause.why);
  decision.set_asked_by(cause.by);
  decision.set_base_layout_step(run->record.last_layout_step());
  *decision.mutable_create_time() = ToProto(absl::Now());
  *decision.mutable_plan() = std::move(plan);
  if (decision.plan().experts_pruned() > 0 &&
      (decision.plan().soft() || policy.guard_tolerance() > 0)) {
    v1::GuardReport* guard = decision.mutable_guard();
    guard->set_tolerance(policy.guard_tolerance());
    // Steps to wait; from the step that it is applied after.
    guard->set_judge_step(decision.plan().soft() ? policy.soft_steps()
                                                 : policy.guard_recovery_steps());
  }
  if (options_.spans != nullptr) {
    DecisionTimes& times = run->decision_times[decision.decision_id()];
    times.asked_nanos = absl::ToUnixNanos(cause.asked);
    times.made_nanos = absl::GetCurrentTimeNanos();
  }
  LapseWaiting(run, absl::StrCat("decision ", decision.decision_id(), " took its place"));
  if (waits) {
    decision.set_state(v1::DECISION_STATE_WAITING);
    if (rule.approval_steps() > 0)
      decision.set_lapse_step(run->progress.step() + rule.approval_steps());
  } else {
    CommandDecision(run, &decision);
  }
  run->open_decisions[decision.decision_id()] = decision;
  SaveDecision(run, decision);
  run->record.set_last_decision_step(run->progress.step());
  AddEvent(
      run, v1::EVENT_SEVERITY_INFO, waits ? "decision_waiting" : "decision_made",
      absl::StrCat("Decision ", decision.decision_id(), waits ? ", which waits for approval," : "",
                   decision.plan().soft() ? " masks, to prune, " : " prunes ",
                   decision.plan().experts_pruned(), " experts and moves ",
                   decision.plan().experts_moved(), ", max/mean rank load ",
                   absl::StrFormat("%.3f to %.3f", decision.plan().imbalance_before(),
                                   decision.plan().imbalance_after()),
                   ": ", cause.why, "."),
      {{"decision_id", decision.decision_id()}, {"policy", cause.policy}, {"by", cause.by}});
  Touch(run, true);
  return decision;
}

void Coordinator::CommandDecision(LiveRun* run, v1::Decision* decision) {
  decision->set_state(v1::DECISION_STATE_COMMANDED);
  CommandFirst(run, decision);
  if (decision->plan().experts_pruned() > 0) run->record.set_prune_closed(true);
}

void Coordinator::LayoutApplied(LiveRun* run, const OpenCommand& open) {
  const uint64_t step = open.command.applied_step();
  run->layout = open.command.set_layout();
  run->record.set_last_layout_step(std::max(run->record.last_layout_step(), step));
  if (run->record.first_layout_step() == 0) run->record.set_first_layout_step(step);
  RestartPilot(run);
  LapseWaiting(run, absl::StrCat("the layout that it was planned on changed after step ", step));

  v1::RunSummary* summary = run->record.mutable_run()->mutable_summary();
  summary->clear_experts_after();
  for (const v1::LayerLayout& layer : run->layout.layers()) {
    summary->add_experts_after(static_cast<uint32_t>(layer.experts_size()));
  }
  // Without a held-out evaluation in it, the pause is the time of the moves.
  if (open.rank_bytes_max >= kBandwidthBytesMin && open.pause_seconds > 0 &&
      !open.heldout_loss_before.has_value()) {
    const double measured = static_cast<double>(open.rank_bytes_max) / open.pause_seconds;
    const double known = run->record.measured_bytes_per_second();
    run->record.set_measured_bytes_per_second(known > 0 ? (known + measured) / 2 : measured);
  }
  const auto it = run->open_decisions.find(open.command.decision_id());
  if (it == run->open_decisions.end()) return;
  v1::Decision& decision = it->second;
  const uint64_t sequence = open.command.sequence();
  if (open.pause_seconds > 0) decision.set_pause_seconds(open.pause_seconds);
  decision.set_bytes_sent(decision.bytes_sent() + open.bytes_moved);
  if (sequence == decision.rollback_sequence() && sequence > 0)
    return DecisionRolledBack(run, &decision);
  const bool first = sequence == decision.sequence();
  const bool observed = first && decision.has_guard();
  decision.set_state(observed ? v1::DECISION_STATE_OBSERVED : v1::DECISION_STATE_APPLIED);
  decision.set_applied_step(step);
  if (observed) {
    // No later than pretraining: what is measured then is another loss.
    const uint64_t last = std::max(run->stage_end(step), step + 2) - 1;
    decision.mutable_guard()->set_judge_step(std::min(last, step + decision.guard().judge_step()));
  }
  if (first && open.heldout_loss_before.has_value())
    decision.set_heldout_loss_before(*open.heldout_loss_before);
  if (first && open.heldout_loss_after.has_value())
    decision.set_heldout_loss_after(*open.heldout_loss_after);
  SaveDecision(run, decision);
  const bool masked_only = first && decision.plan().soft();
  if (!masked_only) {
    summary->set_experts_moved(summary->experts_moved() + decision.plan().experts_moved());
  }
  if (!masked_only && decision.plan().experts_pruned() > 0 && !summary->has_prune_step()) {
    summary->set_prune_step(step);
    if (decision.has_heldout_loss_before())
      summary->set_heldout_loss_before_prune(decision.heldout_loss_before());
    if (decision.has_heldout_loss_after())
      summary->set_heldout_loss_after_prune(decision.heldout_loss_after());
  }
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "decision_applied",
           absl::StrCat("Every rank applied decision ", decision.decision_id(), " after step ",
                        step, "."),
           {{"decision_id", decision.decision_id()},
            {"step", absl::StrCat(step)},
            {"bytes_moved", absl::StrCat(open.bytes_moved)}});
}

void Coordinator::VerifyDecisions(LiveRun* run, bool stage_over) {
  const v1::RunSpec& spec = run->record.run().spec();
  for (auto it = run->open_decisions.begin(); it != run->open_decisions.end();) {
    v1::Decision& decision = it->second;
    const uint64_t applied = decision.applied_step();
    const bool prunes = decision.plan().experts_pruned() > 0;
    const uint64_t window = prunes ? spec.prune().window_steps() : spec.placement().window_steps();
    const bool ripe = stage_over || run->progress.step() >= applied + window;
    if (decision.state() != v1::DECISION_STATE_APPLIED || !ripe ||
        run->progress.step() <= applied) {
      ++it;
      continue;
    }
    const auto stage = v1::STAGE_KIND_PRETRAIN;
    const auto seconds = [](const StepFigure& figure) { return figure.step_seconds; };
    auto realised = run->figures.Median(applied + 1, applied + window, stage, seconds);
    if (!realised.has_value())
      realised = run->figures.Mean(applied + 1, applied + window, stage, seconds);
    const auto imbalance =
        run->figures.Mean(applied + 1, applied + window, stage,
                          [](const StepFigure& figure) { return figure.imbalance; });
    if (!realised.has_value() || !imbalance.has_value()) {
      ++it;
      continue;
    }
    decision.set_state(v1::DECISION_STATE_VERIFIED);
    decision.set_step_seconds_realised(*realised);
    decision.set_imbalance_realised(*imbalance);
    SaveDecision(run, decision);
    AddEvent(
        run, v1::EVENT_SEVERITY_INFO, "decision_verified",
        absl::StrFormat("Decision %s: step %.4f s (predicted %.4f s), max/mean rank load %.3f "
                        "(predicted %.3f).",
                        decision.decision_id(), *realised, decision.plan().step_seconds_predicted(),
                        *imbalance, decision.plan().imbalance_after()),
        {{"decision_id", decision.decision_id()}});
    it = run->open_decisions.erase(it);
  }
}

void Coordinator::ListDecisions(v1::ListDecisionsRequest request,
                                Done<v1::ListDecisionsResponse> done) {
  OnReadPool<v1::ListDecisionsResponse>(
      request.run_id(), done,
      [this, request](LiveRun* run) -> std::function<absl::StatusOr<v1::ListDecisionsResponse>()> {
        return [this, request, id = run->id()]() -> absl::StatusOr<v1::ListDecisionsResponse> {
          ASSIGN_OR_RETURN(const std::string before, DecodePageToken(request.page_token()));
          const size_t size = PageSize(request.page_size());
          ASSIGN_OR_RETURN(auto decisions, ledger_->ReadDecisions(id, before, size + 1));
          v1::ListDecisionsResponse response;
          for (size_t i = 0; i < decisions.size() && i < size; ++i)
            *response.add_decisions() = std::move(decisions[i]);
          if (decisions.size() > size) {
            response.set_next_page_token(
                EncodePageToken(response.decisions(static_cast<int>(size) - 1).decision_id()));
          }
          return response;
        };
      });
}

void Coordinator::ExplainDecision(v1::ExplainDecisionRequest request,
                                  Done<v1::ExplainDecisionResponse> done) {
  OnReadPool<v1::ExplainDecisionResponse>(
      request.run_id(), done,
      [this,
       request](LiveRun* run) -> std::function<absl::StatusOr<v1::ExplainDecisionResponse>()> {
        return [this, request, id = run->id()]() -> absl::StatusOr<v1::ExplainDecisionResponse> {
          auto decision = ledger_->ReadDecision(id, request.decision_id());
          if (absl::IsNotFound(decision.status())) {
            return absl::NotFoundError(absl::StrCat("decision_id: run ", id, " has no decision \"",
                                                    request.decision_id(),
                                                    "\"; list its decisions"));
          }
          RETURN_IF_ERROR(decision.status());
          v1::ExplainDecisionResponse response;
          *response.mutable_decision() = *std::move(decision);
          return response;
        };
      });
}

}  // namespace espalier::coordinator
