// A coordinator behind real gRPC on a free port over a folder of its own, and workers that follow a
// test's script.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "espalier/v1/fleet_service.grpc.pb.h"
#include "espalier/v1/history_service.grpc.pb.h"
#include "espalier/v1/plan_service.grpc.pb.h"
#include "espalier/v1/run_service.grpc.pb.h"
#include "libs/rpc/server.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/services.h"

namespace espalier::coordinator::testing {

// Waits until `condition` holds; false after `timeout`.
bool Eventually(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(20));

// A valid spec: two layers of eight experts, top 2, one pretrain stage.
v1::RunSpec SmallSpec(const std::string& name, uint32_t workers = 2, uint32_t steps = 100);

class Harness {
 public:
  using WrapStore = std::function<std::unique_ptr<history::Store>(std::unique_ptr<history::Store>)>;
  explicit Harness(absl::Duration lease = absl::Seconds(5), WrapStore wrap = nullptr);
  ~Harness();

  void StartServer();
  // The process goes away: streams break, memory is lost, the folder stays.
  void StopServer();
  void Restart() {
    StopServer();
    StartServer();
  }

  const std::string& address() const { return address_; }
  Coordinator* coordinator() { return coordinator_.get(); }

  // Each calls the RPC with a deadline; the response is left as the server filled it.
  grpc::Status Submit(const v1::SubmitRunRequest& request, v1::SubmitRunResponse* response);
  // Submits and returns the run's id; fails the test otherwise.
  std::string MustSubmit(const v1::RunSpec& spec);
  v1::Run Get(const std::string& run_id);
  bool WaitState(const std::string& run_id, v1::RunState state,
                 absl::Duration timeout = absl::Seconds(20));
  std::vector<v1::RunEvent> Events(const std::string& run_id);
  std::vector<v1::Decision> Decisions(const std::string& run_id);
  bool HasEvent(const std::string& run_id, const std::string& name);

  v1::RunService::Stub& runs() { return *runs_; }
  v1::HistoryService::Stub& history() { return *history_; }
  v1::PlanService::Stub& plans() { return *plans_; }

 private:
  const absl::Duration lease_;
  const WrapStore wrap_;
  std::string folder_;
  std::string address_;
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::unique_ptr<v1::RunService::Stub> runs_;
  std::unique_ptr<v1::HistoryService::Stub> history_;
  std::unique_ptr<v1::PlanService::Stub> plans_;
};

// One worker process as the coordinator sees it. Heartbeats run by themselves; everything else is
// scripted. Thread-safe.
class FakeWorker {
 public:
  explicit FakeWorker(const std::string& id) : id_(id) {}
  ~FakeWorker() { Break(); }

  // Opens a stream; with `resume`, says what it was doing.
  void Attach(const std::string& address, bool resume = false);
  // The stream breaks, as when the network or the process dies.
  void Break();
  // Closes the stream in good order.
  void Leave();
  void StopHeartbeats();

  std::optional<v1::Welcome> WaitWelcome();
  // Waits for the next assignment and takes it up.
  std::optional<v1::Assignment> WaitAssignment(absl::Duration timeout = absl::Seconds(20));
  std::optional<v1::Release> WaitRelease(absl::Duration timeout = absl::Seconds(20));
  std::optional<v1::Command> WaitCommand(absl::Duration timeout = absl::Seconds(20));
  // The next command if one has come already.
  std::optional<v1::Command> TakeCommand();
  bool WaitDurable(uint64_t step, absl::Duration timeout = absl::Seconds(20));
  bool WaitClosed(absl::Duration timeout = absl::Seconds(20));
  uint64_t durable_step();
  // Whatever the coordinator had decided to say by now has arrived: it acknowledges a repeated
  // report at once, and a stream keeps its order.
  bool CatchUp(absl::Duration timeout = absl::Seconds(20));

  const v1::Assignment& assignment() const { return assignment_; }
  void Write(const v1::AttachRequest& word);
  void Report(v1::StepReport report);
  void Ack(uint64_t sequence, uint64_t step, const std::string& error = "",
           const std::string& path = "");
  // Fills in the run, epoch and rank.
  void Ack(v1::CommandAck ack);
  void Event(const std::string& name, uint64_t step,
             const std::map<std::string, std::string>& fields);
  void End(v1::AssignmentEnd::Outcome outcome, const std::string& error = "");
  void set_last_applied(uint64_t sequence) { last_applied_ = sequence; }
  const std::string& id() const { return id_; }

 private:
  template <typename T>
  std::optional<T> Take(std::deque<T>* queue, absl::Duration timeout);

  const std::string id_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>> stream_;
  std::thread reader_, heart_;
  std::mutex write_mutex_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = true;  // guarded, like all below, by mutex_
  bool beating_ = false;
  std::deque<v1::Welcome> welcomes_;
  std::deque<v1::Assignment> assignments_;
  std::deque<v1::Release> releases_;
  std::deque<v1::Command> commands_;
  uint64_t durable_step_ = 0;
  uint64_t report_acks_ = 0;
  v1::StepReport last_report_;  // the test's thread only
  v1::Assignment assignment_;   // the test's thread only
  uint64_t last_applied_ = 0;
};

// Ranks of one run stepping together: loads follow `shares` on the layout in effect, commands take
// effect on all ranks after the same step.
class FakeRun {
 public:
  // shares[layer][expert]: part of the layer's tokens.
  FakeRun(std::vector<FakeWorker*> workers, std::vector<std::vector<double>> shares);
  // Takes `count` steps from the one after the last (or after the checkpoint), and waits until they
  // are durable.
  void Steps(uint64_t count);
  // Takes the commands that have come to all ranks, applies layouts and acks them.
  void ApplyCommands(const std::string& error = "");
  uint64_t step() const { return step_; }
  void set_step(uint64_t step) { step_ = step; }
  // As the run began: what a worker does that starts from a checkpoint of then.
  void ResetLayout();
  std::vector<v1::Command> applied;
  v1::StageKind stage = v1::STAGE_KIND_PRETRAIN;
  std::optional<double> heldout;  // sent with the next step, then cleared
  double step_seconds = 0.1;
  // What an `evaluate` command finds, and the losses around a layout.
  double evaluated = 2.5, heldout_before = 2.5, heldout_after = 2.6;
  const std::vector<std::vector<int>>& ranks() const { return ranks_; }

 private:
  std::vector<FakeWorker*> workers_;
  std::vector<std::vector<double>> shares_;
  std::vector<std::vector<int>> ranks_;  // by layer and expert; -1: gone
  std::vector<std::set<int>> masked_;    // by layer
  uint64_t step_ = 0;
};

// Shares that fall off fast: the first experts are busy, the last ones nearly idle.
std::vector<std::vector<double>> SkewedShares();

}  // namespace espalier::coordinator::testing
