// Life of a run: submitted, assigned, commanded, interrupted, recovered, ended.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/spec/spec.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/paging.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {
namespace {

// Long enough for the last figures of a run to be scraped.
constexpr absl::Duration kMetricsAfterEnd = absl::Minutes(10);
constexpr size_t kLiveRunsMax = 1024;
constexpr size_t kRequestIdBytesMax = 256;
constexpr size_t kExportWaitersMax = 64;

// Newest first; ids break ties, so that the order is total.
std::string OrderKey(const LiveRun& run) {
  const uint64_t age =
      std::numeric_limits<uint64_t>::max() -
      static_cast<uint64_t>(absl::ToUnixNanos(FromProto(run.record.run().create_time())));
  return absl::StrCat(absl::Hex(age, absl::kZeroPad16), run.id());
}

}  // namespace

void Coordinator::SubmitRun(v1::SubmitRunRequest request, std::string by,
                            Done<v1::SubmitRunResponse> done) {
  OnExecutor<v1::SubmitRunResponse>(done, [this, request = std::move(request), by = std::move(by),
                                           done] { DoSubmit(request, by, done); });
}

void Coordinator::DoSubmit(const v1::SubmitRunRequest& request, const std::string& by,
                           const Done<v1::SubmitRunResponse>& done) {
  const std::string& request_id = request.request_id();
  if (request_id.size() > kRequestIdBytesMax) {
    return done(absl::InvalidArgumentError(absl::StrCat("request_id: ", request_id.size(),
                                                        " bytes; at most ", kRequestIdBytesMax,
                                                        " are allowed")));
  }
  v1::SubmitRunResponse response;
  if (const auto known = requests_.find(request_id);
      !request_id.empty() && known != requests_.end()) {
    // The first submit may still wait for its flush: answer behind it.
    const std::string id = known->second;
    ledger_->Then([this, id, done](const absl::Status& status) {
      const auto run = runs_.find(id);
      if (run == runs_.end()) return done(Writable().ok() ? status : Writable());
      v1::SubmitRunResponse again;
      *again.mutable_run() = Snapshot(*run->second, absl::Now());
      done(std::move(again));
    });
    return;
  }
  v1::RunSpec spec = request.spec();
  spec::FillDefaults(&spec);
  if (const absl::Status valid = spec::ValidateRunSpec(spec); !valid.ok()) return done(valid);
  if (request.dry_run()) {
    *response.mutable_run()->mutable_spec() = spec;
    return done(std::move(response));
  }
  if (const absl::Status writable = Writable(); !writable.ok()) return done(writable);
  const auto live = std::count_if(runs_.begin(), runs_.end(),
                                  [](const auto& run) { return !run.second->ended(); });
  if (static_cast<size_t>(live) >= kLiveRunsMax) {
    return done(absl::ResourceExhaustedError(
        absl::StrCat(live, " runs are waiting or running, which is the limit; stop some first")));
  }

  RunRecord record;
  v1::Run* run = record.mutable_run();
  run->set_run_id(NewRunId());
  run->set_state(v1::RUN_STATE_PENDING);
  *run->mutable_spec() = spec;
  *run->mutable_create_time() = ToProto(absl::Now());
  run->set_detail(absl::StrCat("waits for ", spec.workers().count(), " idle workers"));
  record.set_request_id(request_id);
  const std::string id = run->run_id();
  LiveRun* taken = (runs_[id] = std::make_unique<LiveRun>(std::move(record))).get();
  if (taken->external()) StartExternal(taken);
  if (!request_id.empty()) {
    requests_[request_id] = id;
    ledger_->PutRequest("submit", request_id, id);
  }
  AddEvent(taken, v1::EVENT_SEVERITY_INFO, "run_submitted",
           absl::StrCat("Run \"", spec.name(), "\" was submitted by ", by, "."), {{"by", by}});
  Touch(taken, true);
  ledger_->Then([this, id, request_id, done](const absl::Status& status) {
    if (!status.ok()) {
      runs_.erase(id);
      requests_.erase(request_id);
      const absl::Status writable = Writable();
      return done(writable.ok() ? status : writable);
    }
    v1::SubmitRunResponse response;
    *response.mutable_run() = Snapshot(*runs_.at(id), absl::Now());
    // Workers are given to it only once it is on disk.
    assign_wanted_ = true;
    done(std::move(response));
  });
}

void Coordinator::GetRun(v1::GetRunRequest request, Done<v1::GetRunResponse> done) {
  OnExecutor<v1::GetRunResponse>(done, [this, request = std::move(request), done] {
    const auto run = FindRun(request.run_id());
    if (!run.ok()) return done(run.status());
    v1::GetRunResponse response;
    *response.mutable_run() = Snapshot(**run, absl::Now());
    done(std::move(response));
  });
}

void Coordinator::ListRuns(v1::ListRunsRequest request, Done<v1::ListRunsResponse> done) {
  OnExecutor<v1::ListRunsResponse>(done, [this, request = std::move(request), done] {
    const auto after = DecodePageToken(request.page_token());
    if (!after.ok()) return done(after.status());
    std::map<std::string, const LiveRun*> ordered;
    for (const auto& [id, run] : runs_) ordered[OrderKey(*run)] = run.get();
    v1::ListRunsResponse response;
    const int size = static_cast<int>(PageSize(request.page_size()));
    std::string last;
    for (auto it = ordered.upper_bound(*after); it != ordered.end(); ++it) {
      if (response.runs_size() == size) {
        response.set_next_page_token(EncodePageToken(last));
        break;
      }
      *response.add_runs() = Snapshot(*it->second, absl::Now());
      last = it->first;
    }
    done(std::move(response));
  });
}

void Coordinator::ListWorkers(v1::ListWorkersRequest request, Done<v1::ListWorkersResponse> done) {
  OnExecutor<v1::ListWorkersResponse>(done, [this, request = std::move(request), done] {
    const auto after = DecodePageToken(request.page_token());
    if (!after.ok()) return done(after.status());
    v1::ListWorkersResponse response;
    const int size = static_cast<int>(PageSize(request.page_size()));
    for (auto it = fleet_.workers().upper_bound(*after); it != fleet_.workers().end(); ++it) {
      if (response.workers_size() == size) {
        response.set_next_page_token(EncodePageToken(response.workers(size - 1).worker_id()));
        break;
      }
      const Worker& worker = *it->second;
      v1::WorkerInfo* info = response.add_workers();
      info->set_worker_id(worker.hello.worker_id());
      info->set_host(worker.hello.host());
      info->set_link_endpoint(worker.hello.link_endpoint());
      info->set_backend(worker.hello.backend());
      info->set_threads(worker.hello.threads());
      info->set_run_id(worker.run_id);
      info->set_rank(worker.rank);
      *info->mutable_last_heard_time() = ToProto(worker.last_heard);
    }
    done(std::move(response));
  });
}

void Coordinator::WatchRun(v1::WatchRunRequest request, std::shared_ptr<RunWatcher> watcher,
                           std::function<void(absl::Status)> failed) {
  const bool posted = executor_.TryPost([this, request = std::move(request), watcher, failed] {
    const auto found = FindRun(request.run_id());
    if (!found.ok()) return failed(found.status());
    LiveRun* run = *found;
    const bool news = run->record.run().revision() > request.after_revision();
    if (news && !watcher->Notify(Snapshot(*run, absl::Now()), {}, run->ended())) return;
    // Nothing will follow, and the caller has seen the end.
    if (run->ended()) {
      if (!news) failed(absl::OkStatus());
      return;
    }
    run->watchers.push_back(watcher);
  });
  if (!posted)
    failed(
        absl::UnavailableError("the coordinator has too many requests waiting; retry in a moment"));
}

absl::Status Coordinator::CheckTrainedHere(const LiveRun& run, const char* verb) const {
  if (!run.external()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("run ", run.id(),
                                                    " is of kind external and cannot be ", verb,
                                                    " from here; ask its own trainer"));
}

absl::Status Coordinator::CheckCommandable(const LiveRun& run, const char* verb) const {
  const v1::RunState state = run.record.run().state();
  if (state != v1::RUN_STATE_RUNNING && state != v1::RUN_STATE_PAUSED) {
    return absl::FailedPreconditionError(absl::StrCat("run ", run.id(), " is ", StateWord(state),
                                                      "; only a running or paused run can be ",
                                                      verb));
  }
  if (run.record.stop_wanted()) {
    return absl::FailedPreconditionError(
        absl::StrCat("run ", run.id(), " is stopping and cannot be ", verb));
  }
  return Writable();
}

void Coordinator::PauseRun(v1::PauseRunRequest request, std::string by,
                           Done<v1::PauseRunResponse> done) {
  OnExecutor<v1::PauseRunResponse>(
      done, [this, request = std::move(request), by = std::move(by), done] {
        const auto found = FindRun(request.run_id());
        if (!found.ok()) return done(found.status());
        LiveRun* run = *found;
        if (const absl::Status may = CheckTrainedHere(*run, "paused"); !may.ok()) return done(may);
        if (const absl::Status may = CheckCommandable(*run, "paused"); !may.ok()) return done(may);
        if (!run->record.pause_wanted()) {
          NoteRequest(run, by, "pause");
          v1::Command command;
          command.mutable_pause();
          AddCommand(run, std::move(command));
          run->record.set_pause_wanted(true);
          Touch(run, true);
        }
        ledger_->Then([this, id = run->id(), done](const absl::Status& status) {
          if (!status.ok()) return done(Writable());
          v1::PauseRunResponse response;
          *response.mutable_run() = Snapshot(*runs_.at(id), absl::Now());
          done(std::move(response));
        });
      });
}

void Coordinator::ResumeRun(v1::ResumeRunRequest request, std::string by,
                            Done<v1::ResumeRunResponse> done) {
  OnExecutor<v1::ResumeRunResponse>(
      done, [this, request = std::move(request), by = std::move(by), done] {
        const auto found = FindRun(request.run_id());
        if (!found.ok()) return done(found.status());
        LiveRun* run = *found;
        if (const absl::Status may = CheckTrainedHere(*run, "resumed"); !may.ok()) return done(may);
        if (const absl::Status may = CheckCommandable(*run, "resumed"); !may.ok()) return done(may);
        if (run->record.pause_wanted()) {
          NoteRequest(run, by, "resume");
          v1::Command command;
          command.mutable_resume();
          AddCommand(run, std::move(command));
          run->record.set_pause_wanted(false);
          Touch(run, true);
        }
        ledger_->Then([this, id = run->id(), done](const absl::Status& status) {
          if (!status.ok()) return done(Writable());
          v1::ResumeRunResponse response;
          *response.mutable_run() = Snapshot(*runs_.at(id), absl::Now());
          done(std::move(response));
        });
      });
}

void Coordinator::StopRun(v1::StopRunRequest request, std::string by,
                          Done<v1::StopRunResponse> done) {
  OnExecutor<v1::StopRunResponse>(
      done, [this, request = std::move(request), by = std::move(by), done] {
        const auto found = FindRun(request.run_id());
        if (!found.ok()) return done(found.status());
        LiveRun* run = *found;
        const v1::RunState state = run->record.run().state();
        if (state == v1::RUN_STATE_COMPLETED || state == v1::RUN_STATE_FAILED) {
          return done(absl::FailedPreconditionError(
              absl::StrCat("run ", run->id(), " has already ",
                           state == v1::RUN_STATE_FAILED ? "failed" : "completed")));
        }
        if (state != v1::RUN_STATE_STOPPED && !run->record.stop_wanted()) {
          if (const absl::Status writable = Writable(); !writable.ok()) return done(writable);
          NoteRequest(run, by, "stop");
          if (run->external()) {
            End(run, v1::RUN_STATE_STOPPED, "stopped by request; its trainer hears of it");
          } else if (state == v1::RUN_STATE_PENDING) {
            End(run, v1::RUN_STATE_STOPPED, "stopped before it began");
          } else if (state == v1::RUN_STATE_RECOVERING) {
            End(run, v1::RUN_STATE_STOPPED, "stopped while it waited to go on from its checkpoint");
          } else {
            v1::Command command;
            command.mutable_stop();
            AddCommand(run, std::move(command));
            run->record.set_stop_wanted(true);
            run->record.mutable_run()->set_detail("stopping: writes a checkpoint first");
            Touch(run, true);
          }
        }
        ledger_->Then([this, id = run->id(), done](const absl::Status& status) {
          if (!status.ok()) return done(Writable());
          v1::StopRunResponse response;
          *response.mutable_run() = Snapshot(*runs_.at(id), absl::Now());
          done(std::move(response));
        });
      });
}

void Coordinator::ExportRun(v1::ExportRunRequest request, std::string by,
                            Done<v1::ExportRunResponse> done) {
  OnExecutor<v1::ExportRunResponse>(
      done, [this, request = std::move(request), by = std::move(by), done] {
        const auto found = FindRun(request.run_id());
        if (!found.ok()) return done(found.status());
        LiveRun* run = *found;
        if (const absl::Status may = CheckTrainedHere(*run, "exported"); !may.ok())
          return done(may);
        if (const absl::Status may = CheckCommandable(*run, "exported"); !may.ok())
          return done(may);
        if (run->export_waiters.size() >= kExportWaitersMax) {
          return done(absl::ResourceExhaustedError(
              absl::StrCat("run ", run->id(), " has ", kExportWaitersMax,
                           " exports waiting; retry when they are done")));
        }
        NoteRequest(run, by, "export");
        v1::Command command;
        command.mutable_export_()->set_directory(request.directory());
        const uint64_t sequence = AddCommand(run, std::move(command));
        run->export_waiters.push_back({sequence, done});
        Touch(run, false);
      });
}

uint64_t Coordinator::AddCommand(LiveRun* run, v1::Command command) {
  const uint64_t sequence = run->next_sequence++;
  command.set_sequence(sequence);
  ledger_->PutCommand(run->id(), command);
  OpenCommand& open = run->open_commands[sequence];
  open.command = command;
  open.epoch = run->record.run().epoch();
  TraceCommand(run, command);
  ledger_->Then([this, id = run->id(), command](const absl::Status& status) {
    if (status.ok()) return SendCommand(id, command);
    // It was never said: nobody may wait for it.
    LiveRun* run = runs_.at(id).get();
    run->open_commands.erase(command.sequence());
    std::erase_if(run->export_waiters, [&](const ExportWaiter& waiter) {
      if (waiter.sequence != command.sequence()) return false;
      waiter.done(Writable());
      return true;
    });
  });
  return sequence;
}

void Coordinator::SendCommand(const std::string& run_id, const v1::Command& command) {
  for (const auto& [id, worker] : fleet_.workers()) {
    if (worker->run_id != run_id || worker->link == nullptr || !worker->assignment_sent) continue;
    if (worker->sent_sequence >= command.sequence()) continue;
    worker->sent_sequence = command.sequence();
    v1::AttachResponse word;
    *word.mutable_command() = command;
    worker->link->Send(std::move(word));
  }
}

void Coordinator::AssignWaiting() {
  if (!ledger_->health().ok()) return;
  std::map<std::string, LiveRun*, std::greater<>> oldest_first;
  for (const auto& [id, run] : runs_) {
    const v1::RunState state = run->record.run().state();
    if (state == v1::RUN_STATE_PENDING || state == v1::RUN_STATE_RECOVERING)
      oldest_first[OrderKey(*run)] = run.get();
  }
  for (const auto& [key, run] : oldest_first) {
    // A run that needs more workers than are idle lets younger, smaller ones go first.
    const std::vector<Worker*> workers = fleet_.Choose(run->rank_count(), run->former);
    if (!workers.empty()) {
      Assign(run, workers);
      continue;
    }
    v1::Run* state = run->record.mutable_run();
    if (state->state() != v1::RUN_STATE_PENDING) continue;
    const std::string detail = absl::StrCat("waits for ", run->rank_count(), " idle workers; ",
                                            fleet_.IdleCount(), " of them attached now");
    if (state->detail() == detail) continue;
    state->set_detail(detail);
    Touch(run, false);
  }
}

void Coordinator::Assign(LiveRun* run, const std::vector<Worker*>& workers) {
  v1::Run* state = run->record.mutable_run();
  const bool again = state->state() == v1::RUN_STATE_RECOVERING;
  if (state->epoch() == 0) state->set_epoch(1);
  if (!state->has_start_time()) *state->mutable_start_time() = ToProto(absl::Now());
  state->set_state(v1::RUN_STATE_RUNNING);
  state->set_detail("");
  run->record.clear_members();
  for (uint32_t rank = 0; rank < workers.size(); ++rank) {
    Worker* worker = workers[rank];
    worker->run_id = run->id();
    worker->epoch = state->epoch();
    worker->rank = rank;
    worker->assignment_sent = false;
    worker->sent_sequence = 0;
    MemberRecord* member = run->record.add_members();
    member->set_worker_id(worker->hello.worker_id());
    member->set_link_endpoint(worker->hello.link_endpoint());
    member->set_host(worker->hello.host());
  }
  if (again) {
    // The ranks take these steps again: what was recorded of them goes.
    ledger_->TruncateAfter(run->id(), run->record.checkpoint_step());
    run->GoBack(run->record.checkpoint_step());
    RestartPilot(run);
    for (auto it = run->open_decisions.begin(); it != run->open_decisions.end();) {
      v1::Decision& decision = (it++)->second;
      if (decision.state() == v1::DECISION_STATE_ROLLING_BACK && decision.rollback_sequence() == 0)
        DecisionRolledBack(run, &decision);
    }
    // The checkpoint may contain a pause or stop that is then not replayed: say it again unless it
    // is still open.
    const auto open = [&](v1::Command::ActionCase action) {
      return std::any_of(run->open_commands.begin(), run->open_commands.end(),
                         [&](const auto& entry) {
                           return entry.second.command.action_case() == action &&
                                  !entry.second.command.has_applied_step();
                         });
    };
    v1::Command command;
    if (run->record.pause_wanted() && !open(v1::Command::kPause)) {
      command.mutable_pause();
      AddCommand(run, command);
    }
    if (run->record.stop_wanted() && !open(v1::Command::kStop)) {
      command.mutable_stop();
      AddCommand(run, command);
    }
  }
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "run_assigned",
           absl::StrCat(
               "Epoch ", state->epoch(), " begins on ", workers.size(), " workers ",
               state->checkpoint().empty() ? "from scratch." : "from " + state->checkpoint() + "."),
           {{"epoch", absl::StrCat(state->epoch())}, {"checkpoint", state->checkpoint()}});
  Touch(run, true);
  ledger_->Then([this, id = run->id(), epoch = state->epoch()](const absl::Status& status) {
    if (status.ok()) return SendAssignments(id, epoch);
    // Not on disk: the epoch must not begin.
    Interrupt(runs_.at(id).get(),
              absl::StrCat("the assignment could not be written: ", status.message()));
  });
}

void Coordinator::SendAssignments(const std::string& run_id, uint64_t epoch) {
  LiveRun* run = runs_.at(run_id).get();
  if (!run->manned() || run->record.run().epoch() != epoch) return;
  const auto commands = ledger_->ReadCommands(run_id, 1);
  if (!commands.ok()) {
    return End(run, v1::RUN_STATE_FAILED,
               absl::StrCat("its commands cannot be read: ", commands.status().message()));
  }
  v1::Assignment assignment;
  assignment.set_run_id(run_id);
  assignment.set_epoch(epoch);
  for (const MemberRecord& member : run->record.members())
    assignment.add_peers(member.link_endpoint());
  *assignment.mutable_spec() = run->record.run().spec();
  assignment.set_checkpoint(run->record.run().checkpoint());
  for (const v1::Command& command : *commands) *assignment.add_commands() = command;
  assignment.set_link_key(NewLinkKey());
  assignment.set_trace_every(options_.trace_every);
  for (int rank = 0; rank < run->record.members_size(); ++rank) {
    Worker* worker = fleet_.Find(run->record.members(rank).worker_id());
    if (worker == nullptr || worker->run_id != run_id || worker->epoch != epoch ||
        worker->link == nullptr)
      continue;
    assignment.set_rank(static_cast<uint32_t>(rank));
    worker->assignment_sent = true;
    worker->sent_sequence = commands->empty() ? 0 : commands->back().sequence();
    v1::AttachResponse word;
    *word.mutable_assignment() = assignment;
    worker->link->Send(std::move(word));
  }
}

void Coordinator::ReleaseMembers(LiveRun* run, uint64_t epoch, const std::string& reason) {
  for (const auto& [id, worker] : fleet_.workers()) {
    if (worker->run_id != run->id()) continue;
    worker->run_id.clear();
    worker->released_run = run->id();
    worker->released_epoch = epoch;
    if (worker->link == nullptr) continue;
    v1::AttachResponse word;
    word.mutable_release()->set_run_id(run->id());
    word.mutable_release()->set_epoch(epoch);
    word.mutable_release()->set_reason(reason);
    worker->link->Send(std::move(word));
  }
  assign_wanted_ = true;
}

void Coordinator::Interrupt(LiveRun* run, const std::string& cause) {
  if (!run->manned()) return;
  v1::Run* state = run->record.mutable_run();
  ReleaseMembers(run, state->epoch(), cause);
  run->former.clear();
  for (const MemberRecord& member : run->record.members())
    run->former.push_back(member.worker_id());
  run->record.clear_members();
  run->reattach_deadline = absl::InfiniteFuture();
  run->book.Restart(run->durable_step);

  const bool progressed = run->record.step_max() > run->record.recovered_at_step_max();
  run->record.set_recovered_at_step_max(run->record.step_max());
  run->record.set_fruitless_recoveries(progressed ? 1 : run->record.fruitless_recoveries() + 1);
  if (run->record.fruitless_recoveries() > kFruitlessRecoveriesMax) {
    return End(run, v1::RUN_STATE_FAILED,
               absl::StrCat("gave up after ", kFruitlessRecoveriesMax,
                            " recoveries in a row that came no further than step ",
                            run->record.step_max(), "; the last cause: ", cause));
  }
  metrics_.Recovery(*run);
  state->set_epoch(state->epoch() + 1);
  state->set_state(v1::RUN_STATE_RECOVERING);
  state->set_detail(cause);
  AddEvent(run, v1::EVENT_SEVERITY_WARNING, "run_recovering",
           absl::StrCat("The run goes back to ",
                        state->checkpoint().empty()
                            ? "its beginning"
                            : "step " + absl::StrCat(run->record.checkpoint_step()),
                        ": ", cause, "."),
           {{"cause", cause}});
  Touch(run, true);
}

void Coordinator::End(LiveRun* run, v1::RunState state, const std::string& detail) {
  if (run->ended()) return;
  v1::Run* public_run = run->record.mutable_run();
  ReleaseMembers(run, public_run->epoch(), detail.empty() ? "the run is over" : detail);
  VerifyDecisions(run, /*stage_over=*/true);
  if (run->pretrain_heldout.has_value() && state == v1::RUN_STATE_COMPLETED) {
    public_run->mutable_summary()->set_heldout_loss_end_pretrain(*run->pretrain_heldout);
  }
  LapseWaiting(run, "the run ended before anybody approved it");
  for (auto& [id, decision] : run->open_decisions) {
    if (decision.state() == v1::DECISION_STATE_APPLIED) continue;
    // What was applied stays as it is, with nothing said about what it did.
    const bool applied = decision.state() == v1::DECISION_STATE_OBSERVED;
    decision.set_state(applied ? v1::DECISION_STATE_APPLIED : v1::DECISION_STATE_FAILED);
    decision.set_error(applied ? "the run ended before it could be judged"
                               : "the run ended before every rank applied it");
    SaveDecision(run, decision);
  }
  ExportRoots(*run, run->traces.TakeOpen());
  for (const auto& [id, decision] : run->open_decisions) {
    if (run->decision_times.count(id) != 0) TraceDecision(run, decision);
  }
  for (const ExportWaiter& waiter : std::exchange(run->export_waiters, {})) {
    waiter.done(absl::AbortedError(
        absl::StrCat("run ", run->id(), " ended before the export was written")));
  }
  const v1::Run last = Snapshot(*run, absl::Now());
  *public_run = last;
  public_run->set_state(state);
  public_run->set_detail(detail);
  *public_run->mutable_end_time() = ToProto(absl::Now());
  if (state == v1::RUN_STATE_COMPLETED) public_run->mutable_progress()->set_seconds_left(0);
  AddEvent(run, state == v1::RUN_STATE_FAILED ? v1::EVENT_SEVERITY_ERROR : v1::EVENT_SEVERITY_INFO,
           absl::StrCat("run_", StateWord(state)),
           absl::StrCat("The run ", state == v1::RUN_STATE_STOPPED ? "was " : "", StateWord(state),
                        detail.empty() ? "" : ": " + detail, "."));
  run->open_commands.clear();
  run->open_decisions.clear();
  run->counted.clear();
  run->forget_at = absl::Now() + kMetricsAfterEnd;
  run->figures = FigureBook();
  run->reattach_deadline = absl::InfiniteFuture();
  Touch(run, true);
}

std::string Coordinator::NewRunId() {
  // No vowels that spell words, no letters that read as digits.
  static constexpr char kLetters[] = "23456789abcdefghjkmnpqrstvwxyz";
  std::string id;
  do {
    id = "r-";
    for (int i = 0; i < 6; ++i) id += kLetters[random_() % (sizeof(kLetters) - 1)];
  } while (runs_.contains(id));
  return id;
}

std::string Coordinator::NewLinkKey() {
  std::random_device device;
  std::string key;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&key, absl::Hex(device(), absl::kZeroPad8));
  return key;
}

}  // namespace espalier::coordinator
