// What workers say: hello, heartbeats, reports, acks, events and the end of their part.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {
namespace {

// Steps between two looks at what may expire.
constexpr uint64_t kExpireEvery = 4096;

// Name of what a command does, for events.
const char* ActionWord(const v1::Command& command) {
  switch (command.action_case()) {
    case v1::Command::kSetLayout:
      return "layout";
    case v1::Command::kCheckpoint:
      return "checkpoint";
    case v1::Command::kPause:
      return "pause";
    case v1::Command::kResume:
      return "resume";
    case v1::Command::kStop:
      return "stop";
    case v1::Command::kExport:
      return "export";
    case v1::Command::kEvaluate:
      return "evaluation";
    default:
      return "command";
  }
}

// Value of a field of an event, or "" without it.
std::string Field(const v1::RunEvent& event, const char* name) {
  const auto it = event.fields().find(name);
  return it == event.fields().end() ? std::string() : it->second;
}

bool ParseCounts(const std::string& csv, std::vector<uint32_t>* counts) {
  counts->clear();
  for (const auto& part : absl::StrSplit(csv, ',', absl::SkipWhitespace())) {
    uint32_t count = 0;
    if (!absl::SimpleAtoi(part, &count)) return false;
    counts->push_back(count);
  }
  return !counts->empty();
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

void SendReportAck(const Worker& worker, uint64_t durable_step) {
  if (worker.link == nullptr) return;
  v1::AttachResponse word;
  word.mutable_report_ack()->set_durable_step(durable_step);
  worker.link->Send(std::move(word));
}

void FillClockReply(uint64_t sent, absl::Time received, v1::ClockReply* reply) {
  reply->set_sent_unix_nanos(sent);
  reply->set_received_unix_nanos(static_cast<uint64_t>(absl::ToUnixNanos(received)));
  reply->set_replied_unix_nanos(static_cast<uint64_t>(absl::GetCurrentTimeNanos()));
}

}  // namespace

void Coordinator::Heard(std::shared_ptr<WorkerLink> link,
                        std::shared_ptr<const v1::AttachRequest> word) {
  executor_.Post([this, link = std::move(link), word = std::move(word), received = absl::Now()] {
    HandleWord(link, *word, received);
    link->Processed();
  });
}

void Coordinator::Closed(std::shared_ptr<WorkerLink> link, bool clean) {
  executor_.Post([this, link = std::move(link), clean] { HandleClosed(link, clean); });
}

void Coordinator::HandleWord(const std::shared_ptr<WorkerLink>& link, const v1::AttachRequest& word,
                             absl::Time received) {
  if (word.has_hello()) return HandleHello(link, word.hello(), received);
  Worker* worker = fleet_.FindByLink(link.get());
  if (worker == nullptr) {
    link->Close(
        absl::FailedPreconditionError("the first word of a stream must be hello; attach again"));
    return;
  }
  worker->last_heard = absl::Now();
  switch (word.message_case()) {
    case v1::AttachRequest::kReport: {
      const v1::StepReport& report = word.report();
      if (LiveRun* run = RunOf(worker, report.run_id(), report.epoch(), report.rank())) {
        HandleReport(run, worker, report);
      }
      break;
    }
    case v1::AttachRequest::kAck:
      if (LiveRun* run =
              RunOf(worker, word.ack().run_id(), word.ack().epoch(), word.ack().rank())) {
        HandleAck(run, word.ack());
      }
      break;
    case v1::AttachRequest::kEvent:
      if (LiveRun* run =
              RunOf(worker, word.event().run_id(), word.event().epoch(), word.event().rank())) {
        HandleEvent(run, word.event());
      }
      break;
    case v1::AttachRequest::kEnd:
      // The end of an epoch that is over is what a released worker says when it has left: nothing
      // to answer.
      if (worker->run_id != word.end().run_id() || worker->epoch != word.end().epoch()) break;
      if (LiveRun* run =
              RunOf(worker, word.end().run_id(), word.end().epoch(), word.end().rank())) {
        HandleEnd(run, worker, word.end());
      }
      break;
    case v1::AttachRequest::kTrace:
      if (LiveRun* run =
              RunOf(worker, word.trace().run_id(), word.trace().epoch(), word.trace().rank())) {
        HandleTrace(run, word.trace());
      }
      break;
    case v1::AttachRequest::kHeartbeat:
      if (word.heartbeat().sent_unix_nanos() != 0) {
        v1::AttachResponse reply;
        FillClockReply(word.heartbeat().sent_unix_nanos(), received, reply.mutable_clock_reply());
        link->Send(std::move(reply));
      }
      break;
    default:
      break;
  }
}

void Coordinator::HandleHello(const std::shared_ptr<WorkerLink>& link, const v1::Hello& hello,
                              absl::Time received) {
  if (hello.worker_id().empty() || hello.link_endpoint().empty()) {
    link->Close(absl::InvalidArgumentError(
        hello.worker_id().empty()
            ? "hello.worker_id: empty; a worker needs an id of its own"
            : "hello.link_endpoint: empty; give host:port of the link listener"));
    return;
  }
  Worker* worker = fleet_.Attach(hello, link, absl::Now());
  const auto found = runs_.find(hello.run_id());
  LiveRun* run = found == runs_.end() ? nullptr : found->second.get();
  const bool reattached =
      run != nullptr && run->manned() && run->record.run().epoch() == hello.epoch() &&
      hello.rank() < static_cast<uint32_t>(run->record.members_size()) &&
      run->record.members(static_cast<int>(hello.rank())).worker_id() == hello.worker_id() &&
      !run->record.members(static_cast<int>(hello.rank())).ended();
  if (!worker->run_id.empty() && (!reattached || worker->run_id != hello.run_id())) {
    // It holds a rank here but does not know of it any more: its trainer is gone.
    if (const auto held = runs_.find(worker->run_id); held != runs_.end()) {
      Interrupt(held->second.get(),
                absl::StrCat(worker->Describe(), " attached again without its run"));
    }
    worker->run_id.clear();
  }
  v1::AttachResponse welcome;
  *welcome.mutable_welcome()->mutable_lease() = ToProto(options_.lease);
  *welcome.mutable_welcome()->mutable_heartbeat_interval() = ToProto(options_.lease / 4);
  welcome.mutable_welcome()->set_reattached(reattached);
  if (hello.sent_unix_nanos() != 0) {
    FillClockReply(hello.sent_unix_nanos(), received,
                   welcome.mutable_welcome()->mutable_clock_reply());
  }
  link->Send(std::move(welcome));
  LOG(INFO) << "worker_attached worker=" << hello.worker_id() << " host=" << hello.host()
            << " backend=" << hello.backend() << " reattached=" << reattached;
  assign_wanted_ = true;
  if (!reattached) {
    if (!hello.run_id().empty()) {
      worker->released_run = hello.run_id();
      worker->released_epoch = hello.epoch();
    }
    return;
  }

  worker->run_id = run->id();
  worker->epoch = hello.epoch();
  worker->rank = hello.rank();
  worker->assignment_sent = true;
  worker->sent_sequence = hello.last_applied_sequence();
  SendReportAck(*worker, run->durable_step);
  const auto commands = ledger_->ReadCommands(run->id(), hello.last_applied_sequence() + 1);
  if (!commands.ok()) {
    return End(run, v1::RUN_STATE_FAILED,
               absl::StrCat("its commands cannot be read: ", commands.status().message()));
  }
  for (const v1::Command& command : *commands) {
    v1::AttachResponse word;
    *word.mutable_command() = command;
    link->Send(std::move(word));
    worker->sent_sequence = command.sequence();
  }
  if (run->reattach_deadline == absl::InfiniteFuture()) return;
  for (const MemberRecord& member : run->record.members()) {
    const Worker* other = fleet_.Find(member.worker_id());
    if (!member.ended() && (other == nullptr || other->run_id != run->id())) return;
  }
  run->reattach_deadline = absl::InfiniteFuture();
  run->record.mutable_run()->set_detail("");
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "run_reattached",
           absl::StrCat("All workers of epoch ", hello.epoch(),
                        " attached again after a restart of the coordinator."));
  Touch(run, true);
}

void Coordinator::HandleClosed(const std::shared_ptr<WorkerLink>& link, bool clean) {
  Worker* worker = fleet_.FindByLink(link.get());
  if (worker == nullptr) return;
  if (clean || worker->run_id.empty()) {
    LOG(INFO) << "worker_left worker=" << worker->hello.worker_id() << " run=" << worker->run_id;
    LoseWorker(worker, absl::StrCat(worker->Describe(), " left"));
    return;
  }
  LOG(WARNING) << "worker_stream_broken worker=" << worker->hello.worker_id()
               << " run=" << worker->run_id << " epoch=" << worker->epoch;
  fleet_.Detach(worker);
}

void Coordinator::LoseWorker(Worker* worker, const std::string& cause) {
  const auto run = runs_.find(worker->run_id);
  worker->run_id.clear();
  fleet_.Remove(worker);
  if (run != runs_.end()) Interrupt(run->second.get(), cause);
}

LiveRun* Coordinator::RunOf(Worker* worker, const std::string& run_id, uint64_t epoch,
                            uint32_t rank) {
  const auto run = runs_.find(run_id);
  if (run != runs_.end() && !run->second->ended() && worker->run_id == run_id &&
      worker->epoch == epoch && worker->rank == rank) {
    return run->second.get();
  }
  // One Release for an epoch that is over is enough: words already on their way are simply dropped.
  if (worker->released_run == run_id && worker->released_epoch >= epoch) return nullptr;
  worker->released_run = run_id;
  worker->released_epoch = epoch;
  LOG(WARNING) << "stale_word_refused worker=" << worker->hello.worker_id() << " run=" << run_id
               << " epoch=" << epoch << " rank=" << rank;
  if (worker->link == nullptr) return nullptr;
  v1::AttachResponse word;
  word.mutable_release()->set_run_id(run_id);
  word.mutable_release()->set_epoch(epoch);
  word.mutable_release()->set_reason(
      absl::StrCat("epoch ", epoch, " of run ", run_id, " is over, or not this worker's"));
  worker->link->Send(std::move(word));
  return nullptr;
}

void Coordinator::HandleReport(LiveRun* run, Worker* worker, const v1::StepReport& report) {
  // Without an ack the worker keeps its reports; training does not wait for them.
  if (!ledger_->health().ok()) return;
  if (report.last_step() <= run->durable_step) return SendReportAck(*worker, run->durable_step);
  const absl::Status taken = TakeReport(run, report);
  if (!taken.ok()) {
    AddEvent(run, v1::EVENT_SEVERITY_WARNING, "report_refused", std::string(taken.message()));
  }
}

absl::Status Coordinator::TakeReport(LiveRun* run, const v1::StepReport& report) {
  const auto complete = run->book.Add(report);
  metrics_.Reports(1);
  RETURN_IF_ERROR(complete.status());
  for (const CompleteStep& step : *complete) HandleStep(run, step);
  if (run->book.lost_steps() > run->lost_steps) {
    AddEvent(run, v1::EVENT_SEVERITY_WARNING, "steps_lost",
             absl::StrCat(run->book.lost_steps() - run->lost_steps,
                          " steps were not reported by every rank."));
    const uint64_t before = std::exchange(run->lost_steps, run->book.lost_steps());
    metrics_.LostSteps(*run, run->book.lost_steps() - before);
    for (const StepSpan& lost : run->book.TakeLost()) {
      auto* gaps = run->record.mutable_gaps();
      if (!gaps->empty() && gaps->rbegin()->last_step() + 1 == lost.first) {
        gaps->rbegin()->set_last_step(lost.last);
      } else {
        v1::StepRange* gap = gaps->Add();
        gap->set_first_step(lost.first);
        gap->set_last_step(lost.last);
      }
    }
    Touch(run, true);
  }
  if (!complete->empty()) new_steps_.insert(run->id());
  return absl::OkStatus();
}

void Coordinator::HandleStep(LiveRun* run, const CompleteStep& step) {
  v1::RunSummary* summary = run->record.mutable_run()->mutable_summary();
  if (run->layout.layers_size() == 0 && !step.layers.empty()) {
    // The layout that the run began with is command 0: it precedes every order.
    v1::Command initial;
    initial.set_applied_step(0);
    summary->clear_experts_before();
    for (const LayerStep& layer : step.layers) {
      v1::LayerLayout* layout = initial.mutable_set_layout()->add_layers();
      layout->set_layer(layer.layer);
      for (size_t expert = 0; expert < layer.ranks.size(); ++expert) {
        if (layer.ranks[expert] < 0) continue;
        layout->add_experts(static_cast<uint32_t>(expert));
        layout->add_ranks(static_cast<uint32_t>(layer.ranks[expert]));
      }
      summary->add_experts_before(static_cast<uint32_t>(layout->experts_size()));
    }
    *summary->mutable_experts_after() = summary->experts_before();
    run->layout = initial.set_layout();
    ledger_->PutCommand(run->id(), initial);
    Touch(run, true);
  }

  v1::SeriesPoint point;
  point.set_step(step.last_step);
  point.set_stage(step.stage);
  point.set_tokens_per_second(step.TokensPerSecond());
  point.set_imbalance(step.Imbalance());
  point.set_experts_alive(step.ExpertsAlive());
  point.set_step_seconds(step.StepSeconds());
  if (step.joules.has_value() && step.tokens > 0)
    point.set_joules_per_token(*step.joules / step.tokens);
  if (step.metrics.has_value()) {
    point.set_loss(step.metrics->loss());
    if (step.metrics->has_heldout_loss()) point.set_heldout_loss(step.metrics->heldout_loss());
    if (step.metrics->has_reinforce()) *point.mutable_reinforce() = step.metrics->reinforce();
  }
  ledger_->PutPoint(run->id(), point);
  std::vector<history::LoadRow> rows;
  for (const LayerStep& layer : step.layers)
    rows.push_back({layer.layer, step.last_step, layer.tokens});
  if (!rows.empty()) ledger_->PutLoads(run->id(), std::move(rows));
  std::vector<history::LoadRow> norms;
  for (const LayerStep& layer : step.layers) {
    if (!layer.output_norms.empty())
      norms.push_back({layer.layer, step.last_step, layer.output_norms});
  }
  if (!norms.empty()) ledger_->PutLoads(Ledger::NormsOf(run->id()), std::move(norms));

  const auto steps = static_cast<double>(step.last_step - step.first_step + 1);
  run->Record(point, step.experts_seconds / steps);
  run->record.set_step_max(std::max(run->record.step_max(), step.last_step));
  run->pilot.Observe(step.last_step, step.layers);
  metrics_.Step(*run, step);
  const bool pretrain_over =
      step.stage != v1::STAGE_KIND_PRETRAIN || step.last_step >= run->stage_end(step.last_step);
  if (pretrain_over && run->pretrain_heldout.has_value() &&
      summary->heldout_loss_end_pretrain() != *run->pretrain_heldout) {
    summary->set_heldout_loss_end_pretrain(*run->pretrain_heldout);
    Touch(run, true);
  }
  // Acks that were lost with an earlier epoch: all ranks are past the step that the command was
  // applied after.
  std::vector<uint64_t> passed;
  for (const auto& [sequence, open] : run->open_commands) {
    if (open.command.has_applied_step() && open.command.applied_step() < step.first_step &&
        open.epoch != run->record.run().epoch()) {
      passed.push_back(sequence);
    }
  }
  for (const uint64_t sequence : passed) CommandApplied(run, sequence);
  VerifyDecisions(run, pretrain_over);
  Touch(run, false);
}

void Coordinator::StepsDurable(LiveRun* run) {
  run->durable_step = std::max(run->durable_step, run->book.complete_step());
  for (const MemberRecord& member : run->record.members()) {
    const Worker* worker = fleet_.Find(member.worker_id());
    // A worker whose part is over still waits for the acks of its last steps; one with another run
    // must not get them.
    if (worker == nullptr || (!worker->run_id.empty() && worker->run_id != run->id())) continue;
    SendReportAck(*worker, run->durable_step);
  }
  ConsiderPolicy(run);
  ExpireLoads(run);
}

void Coordinator::ExpireLoads(LiveRun* run) {
  if (options_.retain_steps == 0 || run->durable_step < run->expired_at + kExpireEvery) return;
  run->expired_at = run->durable_step;
  // A read pool that is full is busy: the next time will do.
  // The run may go back to a checkpoint, and needs what led there.
  uint64_t limit = run->external() ? run->durable_step : run->record.checkpoint_step();
  for (const auto& [name, decision] : run->open_decisions) {
    if (!decision.guard().checkpoint().empty())
      limit = std::min(limit, decision.guard().checkpoint_step());
  }
  const bool posted = pool_.TryPost([this, id = run->id(), step = run->durable_step, limit] {
    const absl::Status status = ledger_->Expire(id, step, options_.retain_steps, limit);
    LOG_IF(WARNING, !status.ok()) << "expire_failed run=" << id << " cause=" << status;
  });
  LOG_IF(INFO, !posted) << "expire_put_off run=" << run->id();
}

void Coordinator::HandleEvent(LiveRun* run, const v1::RunEvent& event) {
  v1::Run* state = run->record.mutable_run();
  v1::RunSummary* summary = state->mutable_summary();
  const std::string& name = event.name();
  if (name == "checkpoint_written" && event.rank() == 0 && !Field(event, "path").empty()) {
    state->set_checkpoint(Field(event, "path"));
    run->record.set_checkpoint_step(event.step());
    run->figures.Disturb(event.step());
  } else if (name == "model_created" || name == "layout_applied") {
    uint64_t params = 0;
    if (absl::SimpleAtoi(Field(event, "params"), &params)) {
      if (!summary->has_params_before()) summary->set_params_before(params);
      summary->set_params_after(params);
    }
    std::vector<uint32_t> experts;
    if (ParseCounts(Field(event, "experts"), &experts)) {
      if (summary->experts_before_size() == 0)
        summary->mutable_experts_before()->Assign(experts.begin(), experts.end());
      summary->mutable_experts_after()->Assign(experts.begin(), experts.end());
    }
  } else if (name == "reinforce_evaluation") {
    double accuracy = 0, tokens = 0;
    if (absl::SimpleAtod(Field(event, "accuracy"), &accuracy) &&
        absl::SimpleAtod(Field(event, "mean_trace_tokens"), &tokens)) {
      if (Field(event, "phase") == "before") {
        summary->set_reasoning_accuracy_before_rl(accuracy);
        summary->set_mean_trace_tokens_before_rl(tokens);
      } else if (Field(event, "phase") == "after") {
        summary->set_reasoning_accuracy_after_rl(accuracy);
        summary->set_mean_trace_tokens_after_rl(tokens);
      }
    }
  } else if (name == "export_written" && !Field(event, "path").empty()) {
    state->set_export_path(Field(event, "path"));
  }
  AddEvent(run, event);
  Touch(run, true);
}

void Coordinator::HandleEnd(LiveRun* run, Worker* worker, const v1::AssignmentEnd& end) {
  const std::string who = absl::StrCat("rank ", end.rank(), " (", worker->Describe(), ")");
  switch (end.outcome()) {
    case v1::AssignmentEnd::OUTCOME_COMPLETED:
    case v1::AssignmentEnd::OUTCOME_STOPPED: {
      worker->run_id.clear();
      assign_wanted_ = true;
      run->record.mutable_members(static_cast<int>(end.rank()))->set_ended(true);
      Touch(run, true);
      const auto& members = run->record.members();
      if (!std::all_of(members.begin(), members.end(),
                       [](const MemberRecord& member) { return member.ended(); }))
        return;
      return End(run,
                 end.outcome() == v1::AssignmentEnd::OUTCOME_STOPPED ? v1::RUN_STATE_STOPPED
                                                                     : v1::RUN_STATE_COMPLETED,
                 "");
    }
    case v1::AssignmentEnd::OUTCOME_FAILED:
      worker->run_id.clear();
      return End(run, v1::RUN_STATE_FAILED, absl::StrCat(who, ": ", end.error()));
    default:
      worker->run_id.clear();
      worker->released_run = run->id();
      worker->released_epoch = end.epoch();
      return Interrupt(run, absl::StrCat(who, " was interrupted: ",
                                         end.error().empty() ? "no reason given" : end.error()));
  }
}

void Coordinator::HandleAck(LiveRun* run, const v1::CommandAck& ack) {
  const auto it = run->open_commands.find(ack.sequence());
  if (it == run->open_commands.end()) return;  // acknowledged before: a replay
  OpenCommand& open = it->second;
  if (open.epoch != run->record.run().epoch()) {
    open.epoch = run->record.run().epoch();
    open.acked.clear();
    open.bytes_moved = 0;
  }
  if (!ack.error().empty()) return CommandFailed(run, &open, ack);
  if (!open.acked.insert(ack.rank()).second) return;
  TraceAck(run, open.command, ack);
  if (open.command.has_applied_step() && open.command.applied_step() != ack.step()) {
    AddEvent(run, v1::EVENT_SEVERITY_ERROR, "ranks_disagree",
             absl::StrCat("Rank ", ack.rank(), " applied command ", ack.sequence(), " after step ",
                          ack.step(), ", others after step ", open.command.applied_step(), "."));
  }
  if (!open.command.has_applied_step()) {
    open.command.set_applied_step(ack.step());
    ledger_->PutCommand(run->id(), open.command);
    run->figures.Disturb(ack.step());
  }
  open.bytes_moved += ack.bytes_moved();
  open.rank_bytes_max = std::max(open.rank_bytes_max, ack.bytes_moved());
  open.pause_seconds = std::max(open.pause_seconds, Seconds(ack.pause()));
  if (ack.has_heldout_loss_before()) open.heldout_loss_before = ack.heldout_loss_before();
  if (ack.has_heldout_loss_after()) open.heldout_loss_after = ack.heldout_loss_after();
  if (!ack.path().empty() && (open.path.empty() || ack.rank() == 0)) open.path = ack.path();
  // Another trainer speaks for all its ranks at once.
  if (open.acked.size() == run->rank_count() || run->external())
    CommandApplied(run, ack.sequence());
}

void Coordinator::CommandFailed(LiveRun* run, OpenCommand* open, const v1::CommandAck& ack) {
  if (open->failed) return;
  open->failed = true;
  AddEvent(run, v1::EVENT_SEVERITY_ERROR, "command_failed",
           absl::StrCat("Command ", ack.sequence(), " (", ActionWord(open->command),
                        ") could not be carried out: ", ack.error()),
           {{"sequence", absl::StrCat(ack.sequence())}});
  if (const auto it = run->open_decisions.find(open->command.decision_id());
      it != run->open_decisions.end()) {
    DecisionFailed(run, &it->second, *open, ack.error());
  }
  std::erase_if(run->export_waiters, [&](const ExportWaiter& waiter) {
    if (waiter.sequence != ack.sequence()) return false;
    waiter.done(absl::FailedPreconditionError(
        absl::StrCat("run ", run->id(), " could not export: ", ack.error())));
    return true;
  });
  v1::Run* state = run->record.mutable_run();
  if (open->command.has_pause()) run->record.set_pause_wanted(false);
  if (open->command.has_stop()) {
    run->record.set_stop_wanted(false);
    state->set_detail(absl::StrCat("could not stop: ", ack.error()));
  }
  Touch(run, true);
}

void Coordinator::CommandApplied(LiveRun* run, uint64_t sequence) {
  const OpenCommand open = std::move(run->open_commands.at(sequence));
  run->open_commands.erase(sequence);
  TraceApplied(run, open.command);
  v1::Run* state = run->record.mutable_run();
  const uint64_t step = open.command.applied_step();
  switch (open.command.action_case()) {
    case v1::Command::kSetLayout:
      LayoutApplied(run, open);
      break;
    case v1::Command::kPause:
      if (run->record.pause_wanted()) state->set_state(v1::RUN_STATE_PAUSED);
      AddEvent(run, v1::EVENT_SEVERITY_INFO, "run_paused",
               absl::StrCat("Paused after step ", step, "."));
      break;
    case v1::Command::kResume:
      if (!run->record.pause_wanted()) state->set_state(v1::RUN_STATE_RUNNING);
      AddEvent(run, v1::EVENT_SEVERITY_INFO, "run_resumed",
               absl::StrCat("Resumed after step ", step, "."));
      break;
    case v1::Command::kEvaluate:
      HeldoutMeasured(run, open);
      break;
    case v1::Command::kCheckpoint:
      if (open.command.checkpoint().pin()) CheckpointPinned(run, open);
      if (!open.path.empty() && open.command.checkpoint().unpin().empty()) {
        state->set_checkpoint(open.path);
        run->record.set_checkpoint_step(step);
      }
      break;
    case v1::Command::kExport:
      if (!open.path.empty()) state->set_export_path(open.path);
      for (auto it = run->export_waiters.begin(); it != run->export_waiters.end();) {
        if (it->sequence != sequence) {
          ++it;
          continue;
        }
        ledger_->Then([done = it->done, path = open.path, step](const absl::Status&) {
          v1::ExportRunResponse response;
          response.set_path(path);
          response.set_step(step);
          done(std::move(response));
        });
        it = run->export_waiters.erase(it);
      }
      break;
    default:
      break;
  }
  Touch(run, true);
}

}  // namespace espalier::coordinator
