// Simulation: the control plane, on plain blocking calls, beside the fleet's event loop.
#include "services/fleetsim/simulation.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "services/fleetsim/random.h"
#include "services/fleetsim/sim_run.h"
#include "services/fleetsim/sim_worker.h"
#include "services/fleetsim/wire.h"

namespace espalier::fleetsim {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr absl::Duration kSayEvery = absl::Seconds(1);
constexpr uint32_t kWidth = 2048, kExpertWidth = 1408;
constexpr uint32_t kSequenceLength = 128;
// Weight, master weight and two moments.
constexpr uint64_t kBytesPerParameter = 16;
enum Salt : uint64_t { kCutDraw = 200, kRestartDraw };

v1::RunSpec MakeSpec(const SimulationOptions& options, uint64_t index, uint32_t ranks) {
  v1::RunSpec spec;
  spec.set_name(absl::StrCat("fleetsim-", options.seed, "-", index));
  spec.mutable_workers()->set_count(ranks);
  v1::ModelSpec* model = spec.mutable_model();
  model->set_layers(options.layers);
  model->set_width(kWidth);
  model->set_heads(16);
  model->set_experts(options.experts);
  model->set_top_k(options.top_k);
  model->set_expert_width(kExpertWidth);
  spec.mutable_data()->set_corpus("simulated");
  v1::PretrainStage* pretrain = spec.add_stages()->mutable_pretrain();
  const double paced = options.seconds / options.step_seconds;
  pretrain->set_steps(options.steps > 0 ? static_cast<uint32_t>(options.steps)
                                        : static_cast<uint32_t>(std::min(2 * paced + 1000, 4e9)));
  pretrain->set_sequence_length(kSequenceLength);
  pretrain->set_batch_sequences(static_cast<uint32_t>(std::clamp<uint64_t>(
      options.TokensPerStep() / options.top_k / kSequenceLength, ranks, UINT32_MAX)));
  pretrain->mutable_optimizer()->set_learning_rate(1e-3);
  spec.mutable_prune()->set_enabled(options.prune);
  spec.mutable_prune()->set_beta(options.beta);
  spec.mutable_prune()->set_window_steps(options.window_steps);
  if (options.soft_steps > 0) spec.mutable_prune()->set_soft_steps(options.soft_steps);
  if (options.guard_tolerance > 0) {
    spec.mutable_prune()->set_guard_tolerance(options.guard_tolerance);
    spec.mutable_prune()->set_guard_recovery_steps(2 * options.window_steps);
  }
  spec.mutable_placement()->set_window_steps(options.window_steps);
  spec.mutable_placement()->set_interval_steps(4 * options.window_steps);
  spec.mutable_placement()->set_bytes_per_second(1e11);
  spec.mutable_checkpoints()->set_every_steps(options.checkpoint_every);
  return spec;
}

}  // namespace

bool SimulationResult::ok() const {
  return reports_lost == 0 && std::all_of(runs.begin(), runs.end(), [](const RunOutcome& run) {
           return run.values_wrong == 0 && run.steps_missing == 0 &&
                  run.recorded_steps == run.steps;
         });
}

Simulation::Simulation(const SimulationOptions& options,
                       std::function<void(const std::string&)> progress)
    : options_(options), progress_(std::move(progress)) {}

Simulation::~Simulation() { loop_.Stop(); }

absl::StatusOr<SimulationResult> Simulation::Run() {
  RETURN_IF_ERROR(options_.Validate());
  for (const bool restart : {false, true}) {
    for (const std::string& text : restart ? options_.restart : options_.cut) {
      ScriptedFault fault;
      RETURN_IF_ERROR(ParseFault(restart ? "--restart" : "--cut", text, &fault));
      script_.emplace_back(fault, restart);
    }
  }
  RETURN_IF_ERROR(Connect());
  RETURN_IF_ERROR(Submit());
  AttachFleet();
  RETURN_IF_ERROR(AwaitAllRunning());
  SimulationResult result;
  const double cpu_before = process_ == nullptr ? 0 : UseOf(process_->pid()).cpu_seconds;
  const double own_before = SimulatorCpu();
  began_ = absl::Now();
  uint64_t said_before = 0;
  loop_.Call([&] {
    result.ack_at_start = stats_.ack;
    stats_.ack = stats_.ack_undisturbed = Latencies();
    said_before = stats_.reports_said;
  });
  RETURN_IF_ERROR(Live());
  loop_.Call([&] { result.reports_meanwhile = stats_.reports_said - said_before; });
  result.seconds = absl::ToDoubleSeconds(absl::Now() - began_);
  if (process_ != nullptr) {
    result.coordinator = UseOf(process_->pid());
    result.coordinator.cpu_seconds -= cpu_before;
  }
  result.simulator_cpu_seconds = SimulatorCpu() - own_before;
  if (options_.steps == 0) RETURN_IF_ERROR(StopRuns());
  RETURN_IF_ERROR(AwaitAllEnded());
  LeaveFleet();
  result.stats = stats_;
  for (SimRun* run : runs_in_order_) {
    RunOutcome outcome;
    RETURN_IF_ERROR(CompareRun(run, &outcome));
    result.late_steps += run->late_steps();
    if (outcome.steps > outcome.recorded_steps)
      result.reports_lost += (outcome.steps - outcome.recorded_steps) * outcome.ranks;
    result.reports_lost += outcome.steps_missing * outcome.ranks;
    result.runs.push_back(std::move(outcome));
    RETURN_IF_ERROR(ReadDecisions(run->group().options().run_id, &result.decisions));
  }
  if (process_ != nullptr) result.disk_bytes = BytesOnDisk(process_->data());
  return result;
}

absl::Status Simulation::Connect() {
  std::string address = options_.coordinator;
  if (!options_.spawn_coordinator.empty()) {
    ASSIGN_OR_RETURN(process_,
                     CoordinatorProcess::Start(options_.spawn_coordinator, options_.lease_seconds));
    address = process_->address();
  }
  wire_ = std::make_unique<Wire>(address, options_.channels);
  return wire_->AwaitConnected(absl::Seconds(options_.deadline_seconds));
}

absl::Status Simulation::Submit() {
  const std::vector<uint32_t> sizes = options_.GroupSizes();
  for (uint64_t index = 0; index < sizes.size(); ++index) {
    v1::SubmitRunRequest request;
    *request.mutable_spec() = MakeSpec(options_, index, sizes[index]);
    v1::SubmitRunResponse response;
    RETURN_IF_ERROR(
        wire_->Call(&v1::RunService::Stub::SubmitRun, *wire_->runs, request, &response));
    GroupOptions group;
    group.run_id = response.run().run_id();
    group.ranks = sizes[index];
    group.layers = options_.layers;
    group.experts = options_.experts;
    group.top_k = options_.top_k;
    group.expert_bytes = uint64_t{3} * kWidth * kExpertWidth * kBytesPerParameter;
    group.steps = request.spec().stages(0).pretrain().steps();
    group.checkpoint_every = options_.checkpoint_every;
    auto run = std::make_unique<SimRun>(options_, group, index, &loop_, &stats_);
    runs_in_order_.push_back(run.get());
    runs_[group.run_id] = std::move(run);
  }
  return absl::OkStatus();
}

void Simulation::AttachFleet() {
  const auto find = [this](const std::string& run_id) {
    const auto it = runs_.find(run_id);
    return it == runs_.end() ? nullptr : it->second.get();
  };
  // Two simulations of one seed are different workers.
  const std::string prefix =
      absl::StrCat("sim-", absl::Hex(std::random_device()(), absl::kZeroPad8));
  for (uint32_t i = 0; i < options_.workers; ++i) {
    workers_.push_back(std::make_unique<SimWorker>(i, prefix, wire_->FleetStub(i), &loop_, &stats_,
                                                   find, options_.seed));
    loop_.Post([worker = workers_.back().get()] { worker->Attach(); });
  }
}

absl::Status Simulation::AwaitAllRunning() {
  const absl::Time deadline = absl::Now() + absl::Seconds(options_.deadline_seconds);
  absl::Time say = absl::Now() + kSayEvery;
  while (true) {
    size_t whole = 0, attached = 0;
    loop_.Call([&] {
      for (const SimRun* run : runs_in_order_) whole += run->group().whole();
      for (const auto& worker : workers_) attached += worker->attached();
    });
    if (whole == runs_in_order_.size()) return absl::OkStatus();
    const std::string line = absl::StrCat(attached, " of ", workers_.size(), " workers attached, ",
                                          whole, " of ", runs_in_order_.size(), " runs begun");
    if (absl::Now() > deadline)
      return absl::DeadlineExceededError(
          absl::StrCat("the fleet did not come up in ", options_.deadline_seconds, " s: ", line));
    if (absl::Now() >= say) {
      progress_(line);
      say += kSayEvery;
    }
    absl::SleepFor(kPoll);
  }
}

absl::Status Simulation::Live() {
  absl::Time before = absl::Now(), say = before + kSayEvery;
  while (true) {
    absl::SleepFor(kPoll);
    const absl::Time now = absl::Now();
    bool over = options_.steps > 0;
    loop_.Call([&] {
      Fault(now - began_, now - before);
      for (const SimRun* run : runs_in_order_) over = over && run->group().over();
    });
    before = now;
    if (now >= say) {
      progress_(ProgressLine());
      say += kSayEvery;
    }
    if (over || (options_.steps == 0 && now - began_ >= absl::Seconds(options_.seconds)))
      return absl::OkStatus();
    const double nominal = static_cast<double>(options_.steps) * options_.step_seconds;
    if (options_.steps > 0 &&
        now - began_ > absl::Seconds(10 * nominal + options_.deadline_seconds)) {
      return absl::DeadlineExceededError(
          absl::StrCat("the runs did not finish ", options_.steps, " steps; ", ProgressLine()));
    }
  }
}

void Simulation::Fault(absl::Duration elapsed, absl::Duration since) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  std::erase_if(script_, [&](const auto& entry) {
    const auto& [fault, restart] = entry;
    if (fault.seconds > seconds || fault.worker >= workers_.size()) return false;
    restart ? workers_[fault.worker]->Restart() : workers_[fault.worker]->Cut();
    return true;
  });
  const double share = absl::ToDoubleSeconds(since);
  ++fault_draws_;
  for (uint32_t i = 0; i < workers_.size(); ++i) {
    // A run whose steps are all taken is left to end in peace: a restart would begin it anew.
    if (!workers_[i]->serving()) continue;
    const uint64_t at = fault_draws_ * workers_.size() + i;
    if (Uniform(Mix(options_.seed, kCutDraw, at)) < options_.disconnect_rate * share)
      workers_[i]->Cut();
    if (Uniform(Mix(options_.seed, kRestartDraw, at)) < options_.restart_rate * share)
      workers_[i]->Restart();
  }
}

absl::Status Simulation::StopRuns() {
  for (const SimRun* run : runs_in_order_) {
    v1::StopRunRequest request;
    request.set_run_id(run->group().options().run_id);
    v1::StopRunResponse response;
    RETURN_IF_ERROR(wire_->Call(&v1::RunService::Stub::StopRun, *wire_->runs, request, &response));
  }
  return absl::OkStatus();
}

absl::Status Simulation::AwaitAllEnded() {
  const absl::Time deadline = absl::Now() + absl::Seconds(options_.deadline_seconds);
  while (true) {
    size_t over = 0;
    uint64_t unacknowledged = 0;
    loop_.Call([&] {
      for (const SimRun* run : runs_in_order_) over += run->group().over();
      for (const auto& worker : workers_) unacknowledged += worker->unacknowledged();
    });
    if (over == runs_in_order_.size() && unacknowledged == 0) return absl::OkStatus();
    if (absl::Now() > deadline) {
      progress_(absl::StrCat("after ", options_.deadline_seconds, " s only ", over, " of ",
                             runs_in_order_.size(), " runs are over, with ", unacknowledged,
                             " reports unacknowledged"));
      return absl::OkStatus();
    }
    absl::SleepFor(kPoll);
  }
}

void Simulation::LeaveFleet() {
  loop_.Call([&] {
    for (const auto& worker : workers_) worker->Close();
  });
  for (int i = 0; i < 100; ++i) {
    size_t streaming = 0;
    loop_.Call([&] {
      for (const auto& worker : workers_) streaming += worker->streaming();
    });
    if (streaming == 0) return;
    absl::SleepFor(kPoll);
  }
}

std::string Simulation::ProgressLine() {
  std::string line;
  loop_.Call([&] {
    uint64_t steps = 0;
    size_t attached = 0;
    for (const SimRun* run : runs_in_order_) steps += run->group().step();
    for (const auto& worker : workers_) attached += worker->attached();
    line = absl::StrFormat(
        "%4.0f s  step %.1f  %d/%d attached  %d reports, %d acknowledged  ack p50 %.1f p99 %.1f ms",
        absl::ToDoubleSeconds(absl::Now() - began_),
        static_cast<double>(steps) / static_cast<double>(runs_in_order_.size()), attached,
        workers_.size(), stats_.reports_said, stats_.reports_acked, 1e3 * stats_.ack.Quantile(0.5),
        1e3 * stats_.ack.Quantile(0.99));
  });
  return line;
}

double Simulation::SimulatorCpu() const {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

}  // namespace espalier::fleetsim
