// Whole runs of the trainer in one process: ranks as threads, the coordinator and the reward
// service in memory.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/collective/communicator.h"
#include "libs/train/controller.h"
#include "libs/train/trainer.h"

namespace espalier::train {

// Commands of a run and when each rank gets to hold them.
struct CommandPlan {
  std::vector<v1::Command> commands;  // in sequence order, from 1
  // Once rank `first.first` has reported step `first.second`, it holds the commands up to the
  // number given.
  std::map<std::pair<int, uint64_t>, uint64_t> after_report;
  // Once a rank has acked the command `first`, it holds those up to `second`.
  std::map<uint64_t, uint64_t> after_ack;
  // What a rank holds instead of a command, by (rank, sequence).
  std::map<std::pair<int, uint64_t>, v1::Command> seen_otherwise;
  // The rank is told to leave once it has reported this step; 0 never.
  uint64_t cancel_after_step = 0;
  // Likewise once it has acked this command.
  uint64_t cancel_after_ack = 0;
};

// What one rank said. Thread-safe.
class MemoryController final : public TrainController {
 public:
  MemoryController(int rank, const CommandPlan& plan) : rank_(rank), plan_(plan) {}

  uint64_t HighestContiguousSequence() const override;
  v1::Command GetCommand(uint64_t sequence) const override;
  void Report(v1::StepReport report) override;
  void Ack(v1::CommandAck ack) override;
  void Event(v1::RunEvent event) override;
  bool Cancelled() const override { return cancelled_; }

  // Read after the run.
  std::vector<v1::StepReport> reports;
  std::vector<v1::CommandAck> acks;
  std::vector<v1::RunEvent> events;

 private:
  const int rank_;
  const CommandPlan& plan_;
  mutable std::mutex mutex_;
  uint64_t held_ = 0;
  std::atomic<bool> cancelled_{false};
};

// libs/reward in this process, or a function of a trace's text alone. Thread-safe.
class LocalScorer final : public TraceScorer {
 public:
  LocalScorer() = default;
  explicit LocalScorer(std::function<double(const v1::Trace&)> reward)
      : reward_(std::move(reward)) {}
  absl::StatusOr<std::vector<v1::ScoreBatchResponse>> Score(
      const std::vector<v1::ScoreBatchRequest>& groups) override;

  // Fails from this call on; -1 never.
  std::atomic<int> fail_after_calls{-1};
  // No trace gets a verdict.
  std::atomic<bool> abstains{false};

 private:
  std::function<double(const v1::Trace&)> reward_;
  std::atomic<int> calls_{0};
};

// A folder that goes when the test does.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What came of a run, by rank.
struct RunRecord {
  std::vector<absl::StatusOr<TrainOutcome>> outcomes;
  std::vector<std::unique_ptr<MemoryController>> ranks;

  bool Ok(TrainOutcome outcome = TrainOutcome::kCompleted) const;
  // By step, as rank 0 reported them.
  std::map<uint64_t, double> Losses() const;
  std::map<uint64_t, double> HeldoutLosses() const;
  std::vector<v1::RunEvent> Events(const std::string& name) const;
  // The ack of `sequence` by `rank`; fails the test when there is none.
  v1::CommandAck AckOf(int rank, uint64_t sequence) const;
};

struct RunRequest {
  int ranks = 1;
  v1::RunSpec spec;
  std::string data_root;
  std::string run_id = "r1";
  std::string checkpoint;
  CommandPlan plan;
  // Commands that the assignment itself brings.
  std::vector<v1::Command> assigned;
  TraceScorer* scorer = nullptr;  // null: libs/reward
  // Takes the place of a rank's links, to do harm on them; may be empty.
  std::function<std::unique_ptr<collective::Communicator>(
      int rank, std::unique_ptr<collective::Communicator> links)>
      wrap_links;
};
RunRecord RunOnRanks(const RunRequest& request);

// Value and moments of every tensor of a checkpoint that `ranks` ranks wrote, by name.
std::map<std::string, std::vector<float>> TensorsOf(const std::string& path, int ranks);

// A small complete spec over "corpus.txt", which WriteCorpus puts there; add stages to it.
v1::RunSpec TinySpec();
void WriteCorpus(const std::string& folder);
v1::PretrainStage* AddPretrain(v1::RunSpec* spec, int steps);
v1::FinetuneStage* AddFinetune(v1::RunSpec* spec, int steps);
v1::ReinforceStage* AddReinforce(v1::RunSpec* spec, int steps);

// A layout of the tiny model: experts of each layer with their ranks.
v1::ExpertLayout MakeLayout(
    const std::vector<std::pair<std::vector<int>, std::vector<int>>>& layers);

// Relative difference of two loss curves at the steps of `a` that `b` has as well; fails when there
// are fewer than `steps`.
void ExpectSameCurve(const std::map<uint64_t, double>& a, const std::map<uint64_t, double>& b,
                     size_t steps, double tolerance);

}  // namespace espalier::train
