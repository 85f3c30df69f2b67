// Decisions that are watched: a checkpoint before a guarded prune, masks before a soft one, the
// judgement of the quality guard, and decisions taken back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/planner/guard.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/plan_question.h"

namespace espalier::coordinator {
namespace {

// `layout` with the plan's pruned experts masked instead.
v1::ExpertLayout Masked(v1::ExpertLayout layout, const v1::Plan& plan) {
  for (const v1::LayerCertificate& certificate : plan.layers()) {
    for (v1::LayerLayout& layer : *layout.mutable_layers()) {
      if (layer.layer() != certificate.layer()) continue;
      layer.mutable_masked()->MergeFrom(certificate.pruned());
      std::sort(layer.mutable_masked()->begin(), layer.mutable_masked()->end());
    }
  }
  return layout;
}

// `layout` without the masks that the plan put on.
v1::ExpertLayout Unmasked(v1::ExpertLayout layout, const v1::Plan& plan) {
  for (const v1::LayerCertificate& certificate : plan.layers()) {
    for (v1::LayerLayout& layer : *layout.mutable_layers()) {
      if (layer.layer() != certificate.layer()) continue;
      auto* masked = layer.mutable_masked();
      masked->erase(std::remove_if(masked->begin(), masked->end(),
                                   [&](uint32_t expert) {
                                     return std::count(certificate.pruned().begin(),
                                                       certificate.pruned().end(), expert) > 0;
                                   }),
                    masked->end());
    }
  }
  return layout;
}

v1::Command CommandOf(const v1::Decision& decision) {
  v1::Command command;
  command.set_decision_id(decision.decision_id());
  return command;
}

}  // namespace

void Coordinator::CommandFirst(LiveRun* run, v1::Decision* decision) {
  const bool drops = decision->plan().experts_pruned() > 0 && !decision->plan().soft();
  if (!drops || !decision->has_guard()) return CommandLayout(run, decision);
  // What is dropped can only come back from a checkpoint; the layout follows when it is written.
  v1::Command command = CommandOf(*decision);
  command.mutable_checkpoint()->set_pin(true);
  AddCommand(run, std::move(command));
}

void Coordinator::CommandLayout(LiveRun* run, v1::Decision* decision) {
  v1::Command command = CommandOf(*decision);
  *command.mutable_set_layout() =
      decision->plan().soft() ? Masked(run->layout, decision->plan()) : decision->plan().layout();
  decision->set_sequence(AddCommand(run, std::move(command)));
}

void Coordinator::CheckpointPinned(LiveRun* run, const OpenCommand& open) {
  const auto it = run->open_decisions.find(open.command.decision_id());
  if (it == run->open_decisions.end() || it->second.state() != v1::DECISION_STATE_COMMANDED) return;
  v1::Decision& decision = it->second;
  if (open.path.empty()) {
    return DecisionFailed(run, &decision, open, "nobody told where the checkpoint was written");
  }
  decision.mutable_guard()->set_checkpoint(open.path);
  decision.mutable_guard()->set_checkpoint_step(open.command.applied_step());
  CommandLayout(run, &decision);
  SaveDecision(run, decision);
}

void Coordinator::HeldoutMeasured(LiveRun* run, const OpenCommand& open) {
  const auto it = run->open_decisions.find(open.command.decision_id());
  if (it == run->open_decisions.end() || it->second.state() != v1::DECISION_STATE_OBSERVED) return;
  v1::Decision& decision = it->second;
  const uint64_t step = open.command.applied_step();
  // Later stages measure something else; the series has the loss that pretraining ended with.
  if (step > run->stage_end(decision.applied_step())) return;
  if (!open.heldout_loss_after.has_value()) return;  // asked again at the next step
  decision.mutable_guard()->set_heldout_loss_measured(*open.heldout_loss_after);
  decision.mutable_guard()->set_judge_step(step);
  SaveDecision(run, decision);
}

void Coordinator::WatchDecisions(LiveRun* run) {
  if (run->record.run().state() != v1::RUN_STATE_RUNNING || run->record.stop_wanted()) return;
  for (auto& [id, decision] : run->open_decisions) {
    if (decision.state() != v1::DECISION_STATE_OBSERVED || decision.drop_sequence() > 0) continue;
    if (run->durable_step < decision.guard().judge_step()) continue;
    // At most one is observed at a time; judging it may end it.
    return Judge(run, &decision);
  }
}

void Coordinator::Judge(LiveRun* run, v1::Decision* decision) {
  v1::GuardReport* guard = decision->mutable_guard();
  if (guard->tolerance() > 0 && !guard->has_held()) {
    if (!guard->has_heldout_loss_measured()) {
      const auto point = std::find_if(
          run->heldout.begin(), run->heldout.end(), [&](const planner::LossPoint& point) {
            return point.step >= static_cast<double>(guard->judge_step());
          });
      if (point != run->heldout.end()) {
        guard->set_heldout_loss_measured(point->loss);
        guard->set_judge_step(static_cast<uint64_t>(point->step));
      } else if (run->progress.stage() == v1::STAGE_KIND_PRETRAIN) {
        const bool asked = std::any_of(
            run->open_commands.begin(), run->open_commands.end(), [&](const auto& entry) {
              return entry.second.command.has_evaluate() &&
                     entry.second.command.decision_id() == decision->decision_id();
            });
        if (asked) return;
        v1::Command command = CommandOf(*decision);
        command.mutable_evaluate();
        AddCommand(run, std::move(command));
        return;
      } else {
        return RollBackOrFail(run, decision, "its held-out loss could not be measured");
      }
    }
    const auto applied = static_cast<double>(decision->applied_step());
    std::vector<planner::LossPoint> before;
    for (const planner::LossPoint& point : run->heldout) {
      if (point.step < applied || (point.step == applied && !decision->has_heldout_loss_before()))
        before.push_back(point);
    }
    if (decision->has_heldout_loss_before())
      before.push_back({applied, decision->heldout_loss_before()});
    const planner::Forecast forecast =
        planner::ForecastLoss(before, static_cast<double>(guard->judge_step()));
    const double measured = guard->heldout_loss_measured();
    guard->set_points(static_cast<uint32_t>(forecast.points));
    if (forecast.points > 0) guard->set_heldout_loss_forecast(forecast.loss);
    guard->set_held(planner::GuardHolds(forecast, measured, guard->tolerance()));
    AddEvent(run, guard->held() ? v1::EVENT_SEVERITY_INFO : v1::EVENT_SEVERITY_WARNING,
             guard->held() ? "guard_held" : "guard_failed",
             absl::StrFormat("Decision %s: held-out loss %.4f at step %d, %.4f was forecast, "
                             "tolerance %g.",
                             decision->decision_id(), measured, guard->judge_step(), forecast.loss,
                             guard->tolerance()),
             {{"decision_id", decision->decision_id()}});
    SaveDecision(run, *decision);
  }
  if (guard->tolerance() > 0 && !guard->held()) {
    return RollBackOrFail(
        run, decision,
        absl::StrFormat("the held-out loss %.4f is above the forecast %.4f by more than %g",
                        guard->heldout_loss_measured(), guard->heldout_loss_forecast(),
                        guard->tolerance()));
  }
  if (decision->plan().soft()) return Drop(run, decision);
  v1::Command command = CommandOf(*decision);
  command.mutable_checkpoint()->set_unpin(guard->checkpoint());
  AddCommand(run, std::move(command));
  guard->clear_checkpoint();
  decision->set_state(v1::DECISION_STATE_APPLIED);
  SaveDecision(run, *decision);
}

void Coordinator::Drop(LiveRun* run, v1::Decision* decision) {
  const v1::RunSpec& spec = run->record.run().spec();
  PlanQuestion question = AskPlan(*run, spec.placement().window_steps());
  question.input.place = spec.placement().enabled();
  for (const v1::LayerCertificate& certificate : decision->plan().layers()) {
    if (certificate.pruned_size() == 0) continue;
    question.input.dropped[certificate.layer()] = {certificate.pruned().begin(),
                                                   certificate.pruned().end()};
  }
  auto plan = AnswerPlan(std::move(question));
  if (!plan.ok()) {
    return RollBackOrFail(run, decision,
                          absl::StrCat("the drop could not be planned: ", plan.status().message()));
  }
  plan->set_soft(true);
  *decision->mutable_plan() = *std::move(plan);
  v1::Command command = CommandOf(*decision);
  *command.mutable_set_layout() = decision->plan().layout();
  decision->set_drop_sequence(AddCommand(run, std::move(command)));
  SaveDecision(run, *decision);
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "decision_drops",
           absl::StrCat("Decision ", decision->decision_id(), " drops the ",
                        decision->plan().experts_pruned(), " experts that it had masked."),
           {{"decision_id", decision->decision_id()}});
}

void Coordinator::RollBackOrFail(LiveRun* run, v1::Decision* decision, const std::string& reason) {
  const absl::Status status = RollBack(run, decision, reason);
  if (status.ok()) return;
  decision->set_rollback_reason(reason);
  DecisionFailed(run, decision, {}, absl::StrCat(reason, "; and ", status.message()));
}

absl::Status Coordinator::RollBack(LiveRun* run, v1::Decision* decision,
                                   const std::string& reason) {
  const v1::DecisionState state = decision->state();
  const bool dropped =
      decision->plan().experts_pruned() > 0 &&
      (!decision->plan().soft() ||
       (decision->drop_sequence() > 0 && !run->open_commands.contains(decision->drop_sequence())));
  v1::Command command = CommandOf(*decision);
  if (state == v1::DECISION_STATE_COMMANDED || state == v1::DECISION_STATE_ROLLING_BACK ||
      (decision->drop_sequence() > 0 && run->open_commands.contains(decision->drop_sequence()))) {
    return absl::FailedPreconditionError(
        absl::StrCat("decision ", decision->decision_id(),
                     " is being carried out; wait until every rank has applied it"));
  }
  if (state == v1::DECISION_STATE_WAITING || state == v1::DECISION_STATE_REJECTED ||
      state == v1::DECISION_STATE_LAPSED) {
    return absl::FailedPreconditionError(absl::StrCat(
        "decision ", decision->decision_id(), " was never commanded: there is nothing to take back",
        state == v1::DECISION_STATE_WAITING ? "; reject it instead" : ""));
  }
  if (state == v1::DECISION_STATE_FAILED) {
    return absl::FailedPreconditionError(absl::StrCat(
        "decision ", decision->decision_id(), " failed and changed nothing: ", decision->error()));
  }
  if (dropped && decision->guard().checkpoint().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the experts that decision ", decision->decision_id(),
                     " dropped are gone, and no checkpoint was kept from before; set "
                     "prune.guard_tolerance to have one kept while a prune is judged"));
  }
  if (run->external() && dropped) {
    return absl::FailedPreconditionError(
        "dropped experts of another trainer's run cannot be brought back from here");
  }
  decision->set_rollback_reason(reason);
  if (!dropped) {
    if (decision->plan().soft()) {
      *command.mutable_set_layout() = Unmasked(run->layout, decision->plan());
    } else {
      ASSIGN_OR_RETURN(*command.mutable_set_layout(), LayoutBefore(*run, *decision));
    }
    decision->set_rollback_sequence(AddCommand(run, std::move(command)));
  }
  decision->set_state(v1::DECISION_STATE_ROLLING_BACK);
  AddEvent(run, v1::EVENT_SEVERITY_WARNING, "decision_rolling_back",
           absl::StrCat("Decision ", decision->decision_id(), " is taken back: ", reason, "."),
           {{"decision_id", decision->decision_id()}});
  if (dropped) GoBackToGuard(run, decision);
  SaveDecision(run, *decision);
  Touch(run, true);
  return absl::OkStatus();
}

absl::StatusOr<v1::ExpertLayout> Coordinator::LayoutBefore(const LiveRun& run,
                                                           const v1::Decision& decision) const {
  ASSIGN_OR_RETURN(const auto commands, ledger_->ReadCommands(run.id(), 0));
  v1::ExpertLayout before;
  for (const v1::Command& command : commands) {
    if (!command.has_set_layout() || !command.has_applied_step()) continue;
    if (command.sequence() < decision.sequence()) before = command.set_layout();
    if (command.sequence() > decision.sequence()) {
      return absl::FailedPreconditionError(absl::StrCat("the layout was changed again by decision ",
                                                        command.decision_id(),
                                                        "; take that one back first"));
    }
  }
  if (before.layers_size() == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("no layout from before decision ", decision.decision_id(), " is recorded"));
  }
  return before;
}

void Coordinator::GoBackToGuard(LiveRun* run, v1::Decision* decision) {
  const auto commands = ledger_->ReadCommands(run->id(), 0);
  if (!commands.ok()) {
    return End(run, v1::RUN_STATE_FAILED,
               absl::StrCat("its commands cannot be read: ", commands.status().message()));
  }
  uint64_t pinned_at = 0;
  for (const v1::Command& command : *commands) {
    if (command.checkpoint().pin() && command.decision_id() == decision->decision_id())
      pinned_at = command.sequence();
  }
  uint64_t first_layout = 0, last_layout = 0;
  for (v1::Command command : *commands) {
    if (command.sequence() < pinned_at) {
      if (!command.has_set_layout() || !command.has_applied_step()) continue;
      run->layout = command.set_layout();
      if (command.sequence() == 0) continue;
      if (first_layout == 0) first_layout = command.applied_step();
      last_layout = command.applied_step();
      continue;
    }
    // The ranks take these steps again, without what was decided in them. Pauses and stops stay:
    // people asked for them.
    if (command.sequence() == pinned_at ||
        !(command.has_set_layout() || command.has_evaluate() || command.has_checkpoint()))
      continue;
    command.mutable_revoked();
    ledger_->PutCommand(run->id(), command);
    const auto open = run->open_commands.find(command.sequence());
    if (open == run->open_commands.end()) continue;
    if (command.has_applied_step()) {
      run->open_commands.erase(open);
    } else {
      open->second.command = command;
    }
  }
  run->record.set_first_layout_step(first_layout);
  run->record.set_last_layout_step(last_layout);
  v1::RunSummary* summary = run->record.mutable_run()->mutable_summary();
  summary->clear_prune_step();
  summary->clear_heldout_loss_before_prune();
  summary->clear_heldout_loss_after_prune();
  summary->set_experts_moved(summary->experts_moved() -
                             std::min(summary->experts_moved(), decision->plan().experts_moved()));
  summary->clear_experts_after();
  for (const v1::LayerLayout& layer : run->layout.layers())
    summary->add_experts_after(static_cast<uint32_t>(layer.experts_size()));
  const uint64_t step = decision->guard().checkpoint_step();
  run->record.mutable_run()->set_checkpoint(decision->guard().checkpoint());
  run->record.set_checkpoint_step(step);
  // Going back on purpose is no fruitless recovery.
  run->record.set_step_max(step);
  run->record.set_recovered_at_step_max(0);
  Interrupt(run, absl::StrCat("decision ", decision->decision_id(), " is taken back"));
}

void Coordinator::DecisionRolledBack(LiveRun* run, v1::Decision* decision) {
  decision->set_state(v1::DECISION_STATE_ROLLED_BACK);
  if (!decision->guard().checkpoint().empty()) {
    v1::Command command = CommandOf(*decision);
    command.mutable_checkpoint()->set_unpin(decision->guard().checkpoint());
    AddCommand(run, std::move(command));
    decision->mutable_guard()->clear_checkpoint();
  }
  SaveDecision(run, *decision);
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "decision_rolled_back",
           absl::StrCat("Decision ", decision->decision_id(), " was taken back."),
           {{"decision_id", decision->decision_id()}});
  Touch(run, true);
  run->open_decisions.erase(std::string(decision->decision_id()));
}

void Coordinator::DecisionFailed(LiveRun* run, v1::Decision* decision, const OpenCommand& open,
                                 const std::string& error) {
  // A mask that cannot become a drop, or cannot be judged, is taken off again.
  const bool observed = decision->state() == v1::DECISION_STATE_OBSERVED;
  if (observed && open.command.has_set_layout()) decision->clear_drop_sequence();
  if (observed && open.command.sequence() > 0 && RollBack(run, decision, error).ok()) return;
  decision->set_state(v1::DECISION_STATE_FAILED);
  decision->set_error(error);
  SaveDecision(run, *decision);
  AddEvent(run, v1::EVENT_SEVERITY_WARNING, "decision_failed",
           absl::StrCat("Decision ", decision->decision_id(), " failed: ", error, "."),
           {{"decision_id", decision->decision_id()}});
  Touch(run, true);
  run->open_decisions.erase(std::string(decision->decision_id()));
}

void Coordinator::SaveDecision(LiveRun* run, const v1::Decision& decision) {
  ledger_->PutDecision(decision);
  v1::DecisionState& counted = run->counted[decision.decision_id()];
  if (counted == decision.state()) return;
  counted = decision.state();
  metrics_.Decision(*run, decision);
  metrics_.Waiting(*run, run->waiting_decision() != nullptr);
  if (IsOpen(decision.state())) return;
  run->counted.erase(decision.decision_id());
  TraceDecision(run, decision);
}

void Coordinator::RollbackDecision(v1::RollbackDecisionRequest request, std::string by,
                                   Done<v1::RollbackDecisionResponse> done) {
  OnExecutor<v1::RollbackDecisionResponse>(done, [this, request = std::move(request),
                                                  by = std::move(by), done] {
    const auto found = FindRun(request.run_id());
    if (!found.ok()) return done(found.status());
    LiveRun* run = *found;
    v1::RollbackDecisionResponse response;
    auto open = run->open_decisions.find(request.decision_id());
    if (open == run->open_decisions.end()) {
      auto decision = ledger_->ReadDecision(run->id(), request.decision_id());
      if (absl::IsNotFound(decision.status())) {
        return done(
            absl::NotFoundError(absl::StrCat("decision_id: run ", run->id(), " has no decision \"",
                                             request.decision_id(), "\"; list its decisions")));
      }
      if (!decision.ok()) return done(decision.status());
      if (decision->state() == v1::DECISION_STATE_ROLLED_BACK) {
        *response.mutable_decision() = *std::move(decision);
        return done(std::move(response));
      }
      if (const absl::Status may = CheckCommandable(*run, "changed"); !may.ok()) return done(may);
      open = run->open_decisions.emplace(request.decision_id(), *std::move(decision)).first;
    }
    if (open->second.state() != v1::DECISION_STATE_ROLLING_BACK) {
      absl::Status status = CheckCommandable(*run, "changed");
      const v1::Decision* pending = run->pending_decision();
      if (status.ok() && pending != nullptr && IsOpen(pending->state()) &&
          pending->decision_id() != request.decision_id()) {
        status = absl::FailedPreconditionError(absl::StrCat("decision ", pending->decision_id(),
                                                            " is not at its end yet; wait for it"));
      }
      if (status.ok()) {
        open->second.set_rolled_back_by(by);
        status = RollBack(run, &open->second,
                          request.reason().empty() ? absl::StrCat(by, " asked for it")
                                                   : request.reason());
      }
      if (!status.ok()) {
        open->second.clear_rolled_back_by();
        if (!IsOpen(open->second.state())) run->open_decisions.erase(open);
        return done(status);
      }
    }
    ledger_->Then([this, decision = open->second, done](const absl::Status& status) {
      if (!status.ok()) return done(Writable());
      v1::RollbackDecisionResponse response;
      *response.mutable_decision() = decision;
      done(std::move(response));
    });
  });
}

}  // namespace espalier::coordinator
