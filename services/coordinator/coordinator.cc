// Coordinator: starting from the ledger, the batch that makes everything durable, leases, and news
// for watchers.
#include "services/coordinator/coordinator.h"

#include <algorithm>
#include <future>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {
namespace {

// Whether the decision stands where it needs every rank's word on this command.
bool Awaits(const v1::Decision& decision, const v1::Command& command) {
  switch (decision.state()) {
    case v1::DECISION_STATE_COMMANDED:
      return command.sequence() == decision.sequence() ||
             (command.checkpoint().pin() && decision.guard().checkpoint().empty());
    case v1::DECISION_STATE_OBSERVED:
      return command.sequence() == decision.drop_sequence() ||
             (command.has_evaluate() && !decision.guard().has_heldout_loss_measured());
    case v1::DECISION_STATE_ROLLING_BACK:
      return command.sequence() == decision.rollback_sequence();
    default:
      return false;
  }
}

constexpr absl::Duration kCountEvery = absl::Seconds(2);
constexpr uint64_t kRevisionReserve = 1024;
constexpr int kReadThreads = 2;

absl::Duration TickInterval(absl::Duration lease) {
  return std::clamp(lease / 10, absl::Milliseconds(10), absl::Milliseconds(500));
}

}  // namespace

absl::Status CoordinatorOptions::Validate() const {
  if (!backups.empty() && backups == data)
    return absl::InvalidArgumentError("--backup-dir: the same as --data; give another directory");
  if (data.empty())
    return absl::InvalidArgumentError("--data: empty; give the directory that keeps the runs");
  if (lease < absl::Milliseconds(100) || lease > absl::Hours(1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--lease-seconds: ", absl::ToDoubleSeconds(lease), "; allowed are 0.1 to 3600"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(const CoordinatorOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  ASSIGN_OR_RETURN(auto ledger, Ledger::Open(options.data));
  return Start(options, std::move(ledger));
}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(const CoordinatorOptions& options,
                                                                std::unique_ptr<Ledger> ledger) {
  auto coordinator = std::unique_ptr<Coordinator>(new Coordinator(options, std::move(ledger)));
  std::promise<absl::Status> loaded;
  coordinator->executor_.Post([&] { loaded.set_value(coordinator->Load()); });
  RETURN_IF_ERROR(loaded.get_future().get());
  return coordinator;
}

Coordinator::Coordinator(const CoordinatorOptions& options, std::unique_ptr<Ledger> ledger)
    : options_(options),
      ledger_(std::move(ledger)),
      metrics_(options.metrics),
      random_(std::random_device()()),
      pool_(kReadThreads),
      executor_([this] { AfterBatch(); }, [this] { Tick(); }, TickInterval(options.lease)) {}

Coordinator::~Coordinator() {
  // In this order: executor tasks post to the pool, and pool tasks post to the executor, which then
  // drops them.
  executor_.Stop();
  pool_.Stop();
  policies_.Shutdown();
}

absl::Status Coordinator::Load() {
  ASSIGN_OR_RETURN(const std::vector<RunRecord> records, ledger_->ReadRuns());
  for (const RunRecord& record : records) {
    auto run = std::make_unique<LiveRun>(record);
    // Watchers may have seen revisions that were never written.
    run->record.mutable_run()->set_revision(record.revision_reserved());
    if (!record.request_id().empty()) requests_[record.request_id()] = run->id();
    ASSIGN_OR_RETURN(run->next_event, ledger_->NextEvent(run->id()));
    if (!run->ended()) RETURN_IF_ERROR(LoadLive(run.get()));
    runs_[run->id()] = std::move(run);
  }
  assign_wanted_ = true;
  LOG(INFO) << "coordinator_started runs=" << runs_.size();
  return absl::OkStatus();
}

absl::Status Coordinator::LoadLive(LiveRun* run) {
  ASSIGN_OR_RETURN(const std::vector<v1::Decision> decisions,
                   ledger_->ReadDecisions(run->id(), "", std::numeric_limits<size_t>::max()));
  for (const v1::Decision& decision : decisions) {
    if (IsOpen(decision.state())) {
      run->open_decisions[decision.decision_id()] = decision;
    }
  }
  if (run->waiting_decision() != nullptr) metrics_.Waiting(*run, true);
  ASSIGN_OR_RETURN(const std::vector<v1::Command> commands, ledger_->ReadCommands(run->id(), 0));
  for (const v1::Command& command : commands) {
    run->next_sequence = command.sequence() + 1;
    if (command.sequence() == 0) {
      run->layout = command.set_layout();
      continue;
    }
    const auto decision = run->open_decisions.find(command.decision_id());
    const bool unapplied =
        decision != run->open_decisions.end() && Awaits(decision->second, command);
    if (!command.has_applied_step() || unapplied) {
      OpenCommand& open = run->open_commands[command.sequence()];
      open.command = command;
      open.epoch = run->record.run().epoch();
    } else if (command.has_set_layout()) {
      run->layout = command.set_layout();
    }
    if (command.has_applied_step()) run->figures.Disturb(command.applied_step());
  }
  RETURN_IF_ERROR(
      ledger_->ScanPoints(run->id(), 0, std::numeric_limits<uint64_t>::max(),
                          [run](const v1::SeriesPoint& point) { run->Record(point, 0); }));
  run->durable_step = run->progress.step();
  uint64_t next = 1;
  while (next < run->next_event) {
    ASSIGN_OR_RETURN(const auto events, ledger_->ReadEvents(run->id(), next, kPageMax, &next));
    if (events.empty()) break;
    for (const v1::RunEvent& event : events) {
      if (event.name() == "checkpoint_written") run->figures.Disturb(event.step());
    }
  }
  ASSIGN_OR_RETURN(const auto traced, ledger_->TracedSteps(run->id()));
  for (const auto& [step, bytes] : traced) run->traces.Keep(step, bytes);
  run->book.Restart(run->durable_step);
  RestartPilot(run);
  if (run->manned()) {
    run->reattach_deadline = absl::Now() + options_.lease;
    run->record.mutable_run()->set_detail(
        "waits for its workers to attach again after a restart of the coordinator");
    LOG(INFO) << "run_waits_for_reattach run=" << run->id()
              << " epoch=" << run->record.run().epoch();
  }
  Touch(run, true);
  return absl::OkStatus();
}

void Coordinator::RestartPilot(LiveRun* run) {
  const uint64_t base = run->record.last_layout_step();
  const uint64_t memory = run->pilot.MemorySteps();
  const uint64_t last = run->durable_step;
  const uint64_t start = last > base + memory ? last - memory : base;
  run->pilot.Restart(start);
  if (last <= start) return;
  std::map<uint64_t, std::vector<LayerStep>> steps;
  for (const v1::LayerLayout& layout : run->layout.layers()) {
    const auto blocks = ledger_->ReadLoads(run->id(), layout.layer(), start + 1, last, 1);
    if (!blocks.ok()) {
      LOG(WARNING) << "pilot_rebuild_failed run=" << run->id() << " cause=" << blocks.status();
      run->pilot.Restart(last);
      return;
    }
    for (const history::LoadBlock& block : *blocks) {
      LayerStep layer;
      layer.layer = layout.layer();
      layer.tokens = block.tokens;
      layer.tokens.resize(run->record.run().spec().model().experts(), 0);
      layer.ranks.assign(layer.tokens.size(), -1);
      layer.rank_tokens.assign(run->rank_count(), 0);
      for (int i = 0; i < layout.experts_size(); ++i) {
        layer.ranks[layout.experts(i)] = static_cast<int>(layout.ranks(i));
        layer.rank_tokens[layout.ranks(i)] += layer.tokens[layout.experts(i)];
      }
      steps[block.first_step].push_back(std::move(layer));
    }
  }
  for (const auto& [step, layers] : steps) run->pilot.Observe(step, layers);
}

void Coordinator::AfterBatch() {
  while (true) {
    if (assign_wanted_) {
      assign_wanted_ = false;
      AssignWaiting();
    }
    if (touched_.empty() && !ledger_->HasWork()) return;
    const std::vector<std::string> touched = std::exchange(touched_, {});
    const std::set<std::string> new_steps = std::exchange(new_steps_, {});
    for (const std::string& id : touched) {
      LiveRun* run = runs_.at(id).get();
      run->touched = false;
      v1::Run* state = run->record.mutable_run();
      state->set_revision(state->revision() + 1);
      if (state->revision() > run->record.revision_reserved()) {
        run->record.set_revision_reserved(state->revision() + kRevisionReserve);
        run->dirty = true;
      }
      if (run->dirty) ledger_->PutRun(run->record);
      run->dirty = false;
    }
    const absl::Time began = absl::Now();
    const absl::Status flushed = ledger_->Flush();
    metrics_.Commit(absl::Now() - began, flushed.ok());
    if (flushed.ok()) {
      for (const std::string& id : new_steps) StepsDurable(runs_.at(id).get());
    }
    for (const std::string& id : touched) {
      // A submit that could not be written took its run away again.
      if (const auto it = runs_.find(id); it != runs_.end()) Notify(it->second.get());
    }
  }
}

void Coordinator::Tick() {
  const absl::Time now = absl::Now();
  for (const std::string& id : fleet_.Silent(now - options_.lease)) {
    Worker* worker = fleet_.Find(id);
    LOG(WARNING) << "lease_ended worker=" << id << " run=" << worker->run_id
                 << " epoch=" << worker->epoch;
    if (worker->link != nullptr) {
      worker->link->Close(absl::DeadlineExceededError(
          absl::StrCat("no word for ", absl::FormatDuration(options_.lease), "; attach again")));
    }
    LoseWorker(worker, absl::StrCat(worker->Describe(), " was silent for ",
                                    absl::FormatDuration(options_.lease)));
  }
  for (auto& [id, run] : runs_) {
    if (run->reattach_deadline > now) continue;
    run->reattach_deadline = absl::InfiniteFuture();
    Interrupt(run.get(),
              "not all of its workers attached again after a restart of the coordinator");
  }
  assign_wanted_ = true;
  CountAll(now);
}

void Coordinator::CountAll(absl::Time now) {
  if (options_.metrics == nullptr || now < counted_at_ + kCountEvery) return;
  counted_at_ = now;
  for (const v1::RunState state : {v1::RUN_STATE_PENDING, v1::RUN_STATE_RUNNING,
                                   v1::RUN_STATE_PAUSED, v1::RUN_STATE_RECOVERING}) {
    metrics_.Runs(
        state, static_cast<double>(std::count_if(runs_.begin(), runs_.end(), [&](const auto& run) {
          return run.second->record.run().state() == state;
        })));
  }
  const auto idle = static_cast<double>(fleet_.IdleCount());
  metrics_.Workers(idle, static_cast<double>(fleet_.workers().size()) - idle);
  for (const auto& [what, bytes] : ledger_->StoreBytes()) metrics_.Store(what, bytes);
  for (auto& [id, run] : runs_) {
    if (!run->forget_at.has_value() || *run->forget_at > now) continue;
    run->forget_at.reset();
    metrics_.Forget(id);
  }
}

void Coordinator::Touch(LiveRun* run, bool record_changed) {
  run->dirty |= record_changed;
  if (run->touched) return;
  run->touched = true;
  touched_.push_back(run->id());
}

void Coordinator::Notify(LiveRun* run) {
  const std::vector<v1::RunEvent> events = std::exchange(run->fresh_events, {});
  if (run->watchers.empty()) return;
  const v1::Run snapshot = Snapshot(*run, absl::Now());
  const bool ended = run->ended();
  std::erase_if(run->watchers, [&](const std::shared_ptr<RunWatcher>& watcher) {
    return !watcher->Notify(snapshot, events, ended) || ended;
  });
}

void Coordinator::AddEvent(LiveRun* run, v1::RunEvent event) {
  event.set_run_id(run->id());
  ledger_->PutEvent(run->next_event++, event);
  if (run->fresh_events.size() >= kFreshEventsMax)
    run->fresh_events.erase(run->fresh_events.begin());
  run->fresh_events.push_back(std::move(event));
  Touch(run, false);
}

void Coordinator::AddEvent(LiveRun* run, v1::EventSeverity severity, const std::string& name,
                           const std::string& text,
                           const std::map<std::string, std::string>& fields) {
  v1::RunEvent event;
  event.set_epoch(run->record.run().epoch());
  event.set_step(run->progress.step());
  event.set_severity(severity);
  event.set_name(name);
  event.set_text(text);
  for (const auto& [key, value] : fields) (*event.mutable_fields())[key] = value;
  LOG(INFO) << name << " run=" << run->id() << " epoch=" << event.epoch()
            << " step=" << event.step() << " text=\"" << text << "\"";
  AddEvent(run, std::move(event));
}

void Coordinator::NoteRequest(LiveRun* run, const std::string& by, const std::string& action) {
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "request", absl::StrCat(by, " asked: ", action, "."),
           {{"by", by}, {"action", action}});
}

absl::Status Coordinator::Writable() const {
  const absl::Status health = ledger_->health();
  if (health.ok()) return health;
  const std::string text =
      absl::StrCat("the coordinator's store takes no writes: ", health.message(),
                   "; what was acknowledged is safe; make room in --data and start it again");
  return absl::IsResourceExhausted(health) ? absl::ResourceExhaustedError(text)
                                           : absl::UnavailableError(text);
}

absl::StatusOr<LiveRun*> Coordinator::FindRun(const std::string& reference) {
  if (reference.empty()) {
    return absl::InvalidArgumentError(
        "run_id: empty; give a run id, a unique prefix of one, or a run's name");
  }
  if (const auto it = runs_.find(reference); it != runs_.end()) return it->second.get();
  LiveRun* named = nullptr;
  std::vector<LiveRun*> prefixed;
  for (const auto& [id, run] : runs_) {
    const v1::Run& candidate = run->record.run();
    if (candidate.spec().name() == reference &&
        (named == nullptr ||
         FromProto(candidate.create_time()) >= FromProto(named->record.run().create_time()))) {
      named = run.get();
    }
    if (id.compare(0, reference.size(), reference) == 0) prefixed.push_back(run.get());
  }
  if (named != nullptr) return named;
  if (prefixed.size() == 1) return prefixed.front();
  if (prefixed.empty()) {
    return absl::NotFoundError(absl::StrCat("run_id: no run has the id or name \"", reference,
                                            "\"; list the runs to see what there is"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "run_id: \"", reference, "\" is the beginning of ", prefixed.size(), " run ids, such as ",
      prefixed[0]->id(), " and ", prefixed[1]->id(), "; give more of it"));
}

}  // namespace espalier::coordinator
