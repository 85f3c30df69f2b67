// SimRun: paces the group and turns what it did into words.
#include "services/fleetsim/sim_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/observe/log.h"
#include "services/fleetsim/random.h"
#include "services/fleetsim/sim_worker.h"

namespace espalier::fleetsim {
namespace {

constexpr absl::Duration kPausePoll = absl::Milliseconds(100);
// A broken link shows after about this long.
constexpr absl::Duration kNoticeLoss = absl::Milliseconds(50);
// Of a balanced step, the part that the experts take: the part that imbalance stretches.
constexpr double kExpertsShare = 0.5;
constexpr uint64_t kEvalEvery = 10;
enum Salt : uint64_t { kRun = 100, kStraggles, kStraggler };

google::protobuf::Duration ToProto(double seconds) {
  google::protobuf::Duration duration;
  duration.set_seconds(static_cast<int64_t>(seconds));
  duration.set_nanos(static_cast<int32_t>((seconds - std::floor(seconds)) * 1e9));
  return duration;
}

LoadProcessOptions ProcessOf(const SimulationOptions& options, uint64_t index) {
  LoadProcessOptions process;
  process.layers = options.layers;
  process.experts = options.experts;
  process.tokens_per_step = options.TokensPerStep();
  process.phase_change_step = options.phase_change_step;
  process.window_steps = options.window_steps;
  process.seed = Mix(options.seed, kRun, index);
  return process;
}

}  // namespace

SimRun::SimRun(const SimulationOptions& options, const GroupOptions& group, uint64_t index,
               EventLoop* loop, FleetStats* stats)
    : options_(options),
      index_(index),
      loop_(loop),
      stats_(stats),
      group_(group),
      process_(ProcessOf(options, index)),
      workers_(group.ranks, nullptr) {}

absl::Status SimRun::Enter(SimWorker* worker, const v1::Assignment& assignment) {
  if (assignment.epoch() > group_.epoch()) {
    std::fill(workers_.begin(), workers_.end(), nullptr);
    detached_.clear();
    drawn_.clear();
    ++generation_;
  }
  if (const absl::Status entered = group_.Enter(assignment); !entered.ok()) return entered;
  workers_[assignment.rank()] = worker;
  if (!group_.whole()) return absl::OkStatus();
  calm_since_ = absl::Now();
  SayModelEvent("model_created");
  // Runs are not in step with each other.
  Schedule(absl::Now() + absl::Seconds(options_.step_seconds) *
                             Uniform(Mix(options_.seed, index_, group_.epoch())));
  return absl::OkStatus();
}

void SimRun::Leave(uint64_t epoch, uint32_t rank, const std::string& reason) {
  if (epoch != group_.epoch() || workers_[rank] == nullptr) return;
  workers_[rank] = nullptr;
  const bool first = group_.whole();
  group_.Leave(epoch, rank);
  if (!first || group_.over()) return;
  loop_->At(absl::Now() + kNoticeLoss, [this, epoch, reason] { Interrupt(epoch, reason); });
}

void SimRun::Interrupt(uint64_t epoch, const std::string& reason) {
  if (epoch != group_.epoch()) return;
  for (uint32_t rank = 0; rank < workers_.size(); ++rank) {
    SimWorker* worker = std::exchange(workers_[rank], nullptr);
    if (worker == nullptr) continue;
    group_.Leave(epoch, rank);
    worker->SayEnd(v1::AssignmentEnd::OUTCOME_INTERRUPTED, reason);
  }
}

void SimRun::Receive(uint64_t epoch, uint32_t rank, const v1::Command& command) {
  group_.Receive(epoch, rank, command);
}

void SimRun::Detached(uint32_t rank) {
  detached_.insert(rank);
  calm_since_ = absl::InfiniteFuture();
}

void SimRun::Reattached(uint32_t rank) {
  detached_.erase(rank);
  if (detached_.empty()) calm_since_ = absl::Now();
}

void SimRun::Schedule(absl::Time time) {
  next_step_ = time;
  loop_->At(time, [this, generation = ++generation_] {
    if (generation == generation_) Tick();
  });
}

void SimRun::Tick() {
  if (!group_.whole() || group_.over()) return;
  const bool was_paused = group_.paused();
  const Progress progress = group_.Advance();
  Say(progress);
  if (group_.over()) return;
  if (was_paused || group_.paused())
    return Schedule(absl::Now() + std::min(kPausePoll, absl::Seconds(options_.step_seconds)));
  const absl::Duration step = absl::Seconds(options_.step_seconds);
  absl::Time next = next_step_ + step * Straggle(group_.step() + 1);
  // A simulator that cannot keep up says so, and does not pile up steps.
  if (next < absl::Now() - 2 * step) {
    ++late_steps_;
    next = absl::Now();
  }
  Schedule(next);
}

void SimRun::Say(const Progress& progress) {
  const uint64_t step = group_.step();
  size_t said = 0;
  while (said < progress.applied.size() && progress.stepped && progress.applied[said].step < step)
    SayApplied(progress.applied[said++]);
  if (progress.stepped) {
    for (SimWorker* worker : workers_) worker->SayReport(step);
  }
  while (said < progress.applied.size()) SayApplied(progress.applied[said++]);
  if (!progress.checkpoint.empty()) SayCheckpoint(progress.checkpoint);
  if (!progress.stopped && !progress.completed) return;
  for (SimWorker* worker : workers_) {
    worker->SayEnd(progress.stopped ? v1::AssignmentEnd::OUTCOME_STOPPED
                                    : v1::AssignmentEnd::OUTCOME_COMPLETED,
                   "");
  }
}

void SimRun::SayApplied(const Applied& applied) {
  ++(applied.error.empty() ? stats_->commands_applied : stats_->commands_refused);
  for (uint32_t rank = 0; rank < workers_.size(); ++rank) {
    v1::CommandAck ack;
    ack.set_sequence(applied.command.sequence());
    ack.set_step(applied.step);
    ack.set_error(applied.error);
    ack.set_path(applied.path);
    ack.set_bytes_moved(applied.bytes_sent[rank]);
    *ack.mutable_pause() = ToProto(static_cast<double>(applied.bytes_sent[rank]) / 1e10);
    if (rank == 0 && applied.measured) {
      // A cut costs a little at first, as in a training.
      ack.set_heldout_loss_before(Loss(applied.step));
      ack.set_heldout_loss_after(Loss(applied.step) + 0.05 * applied.command.has_set_layout());
    }
    workers_[rank]->SayAck(std::move(ack));
  }
  if (applied.command.has_set_layout() && applied.error.empty()) SayModelEvent("layout_applied");
  if (!applied.path.empty() && !applied.command.has_export_()) SayCheckpoint(applied.path);
}

void SimRun::SayModelEvent(const std::string& name) {
  const Layout& layout = *group_.LayoutAt(group_.step() + 1);
  std::string experts;
  uint64_t alive = 0;
  for (uint32_t layer = 0; layer < layout.layers; ++layer) {
    uint64_t count = 0;
    for (uint32_t e = 0; e < layout.experts; ++e) count += layout.rank(layer, e) >= 0;
    absl::StrAppend(&experts, experts.empty() ? "" : ",", count);
    alive += count;
  }
  v1::RunEvent event;
  event.set_step(group_.step());
  event.set_severity(v1::EVENT_SEVERITY_INFO);
  event.set_name(name);
  event.set_text(absl::StrCat("Simulated model of ", alive, " experts"));
  // Sixteen bytes a parameter: weight, master weight and two moments.
  (*event.mutable_fields())["params"] = absl::StrCat(alive * group_.options().expert_bytes / 16);
  (*event.mutable_fields())["experts"] = experts;
  workers_[0]->SayEvent(std::move(event));
}

void SimRun::SayCheckpoint(const std::string& path) {
  v1::RunEvent event;
  event.set_step(group_.step());
  event.set_severity(v1::EVENT_SEVERITY_INFO);
  event.set_name("checkpoint_written");
  event.set_text(absl::StrCat("Checkpoint written to ", path));
  (*event.mutable_fields())["path"] = path;
  workers_[0]->SayEvent(std::move(event));
}

double SimRun::Straggle(uint64_t step) const {
  const uint64_t bits = Mix(process_.options().seed, kStraggles, step);
  if (Uniform(bits) >= options_.straggler_rate) return 1;
  return 1.5 + 1.5 * Uniform(Mix(bits));
}

double SimRun::Loss(uint64_t step) const {
  return 2.3 + 4.0 * std::exp(-static_cast<double>(step) / 200.0);
}

const SimRun::Drawn& SimRun::DrawnOf(uint64_t step) {
  for (const Drawn& known : drawn_) {
    if (known.step == step) return known;
  }
  if (drawn_.size() >= kDrawnMax) drawn_.pop_front();
  Drawn& drawn = drawn_.emplace_back();
  drawn.step = step;
  drawn.layout = group_.LayoutAt(step);
  process_.Draw(step, drawn.layout->choosable, &drawn.tokens);
  const uint32_t ranks = group_.options().ranks;
  drawn.rank_share.assign(ranks, 0);
  double imbalance = 0;
  std::vector<double> loads(ranks);
  for (uint32_t layer = 0; layer < options_.layers; ++layer) {
    std::fill(loads.begin(), loads.end(), 0);
    for (uint32_t e = 0; e < options_.experts; ++e) {
      const int rank = drawn.layout->rank(layer, e);
      if (rank >= 0)
        loads[rank] += static_cast<double>(drawn.tokens[size_t{layer} * options_.experts + e]);
    }
    const double mean = static_cast<double>(process_.options().tokens_per_step) / ranks;
    for (uint32_t rank = 0; rank < ranks; ++rank)
      drawn.rank_share[rank] += loads[rank] / mean / options_.layers;
    imbalance += *std::max_element(loads.begin(), loads.end()) / mean / options_.layers;
  }
  drawn.step_seconds =
      options_.step_seconds * (1 - kExpertsShare + kExpertsShare * imbalance) * Straggle(step);
  return drawn;
}

v1::StepReport SimRun::MakeReport(uint64_t epoch, uint32_t rank, uint64_t step) {
  const Drawn& drawn = DrawnOf(step);
  v1::StepReport report;
  report.set_run_id(group_.options().run_id);
  report.set_epoch(epoch);
  report.set_rank(rank);
  report.set_first_step(step);
  report.set_last_step(step);
  report.set_stage(v1::STAGE_KIND_PRETRAIN);
  const uint64_t batch = process_.options().tokens_per_step / options_.top_k;
  report.set_tokens(batch / group_.options().ranks);
  *report.mutable_duration() = ToProto(drawn.step_seconds);
  double experts_seconds = options_.step_seconds * kExpertsShare * drawn.rank_share[rank];
  const double straggle = Straggle(step);
  const uint64_t straggler =
      Mix(process_.options().seed, kStraggler, step) % group_.options().ranks;
  if (straggle > 1 && rank == straggler) experts_seconds *= straggle;
  report.mutable_phases()->set_experts_seconds(experts_seconds);
  report.mutable_phases()->set_attention_seconds(options_.step_seconds * (1 - kExpertsShare));
  for (uint32_t layer = 0; layer < options_.layers; ++layer) {
    v1::LayerLoads* loads = report.add_loads();
    loads->set_layer(layer);
    for (const uint32_t expert : drawn.layout->held[rank][layer]) {
      loads->add_experts(expert);
      loads->add_tokens(drawn.tokens[size_t{layer} * options_.experts + expert]);
    }
  }
  if (rank == 0) {
    v1::StepMetrics* metrics = report.mutable_metrics();
    metrics->set_loss(Loss(step));
    metrics->set_global_tokens(batch);
    if (step % kEvalEvery == 0) metrics->set_heldout_loss(Loss(step));
  }
  return report;
}

}  // namespace espalier::fleetsim
