// Worker: serves one rank at a time: links to the other ranks, trains, says how it ended.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/model/model.h"
#include "libs/collective/communicator.h"
#include "services/worker/fleet_client.h"
#include "services/worker/session.h"
#include "services/worker/worker_metrics.h"

namespace espalier::worker {

struct WorkerOptions {
  std::string coordinator = "127.0.0.1:7001";
  std::string reward = "127.0.0.1:7002";
  std::string listen_links = "127.0.0.1:0";
  std::string advertise;  // how peers reach the links; empty: as bound
  std::string data_root = ".";
  int threads = 0;                     // 0: the run's share of this machine's cores
  std::string device = "cpu";          // "cpu", "cuda" or "cuda:N"
  bool once = false;                   // one run, then no other
  WorkerMetrics* metrics = nullptr;    // not owned; outlives the worker
  observe::SpanSink* spans = nullptr;  // likewise

  // InvalidArgument names the flag.
  absl::Status Validate() const;
};

// InvalidArgument unless `flag` is "cpu", "cuda" (the first GPU) or "cuda:N".
absl::Status ParseDevice(const std::string& flag, model::Device* device, int* index);

// CPU threads of a rank: the flag, else the run's, else this machine's cores over the ranks that
// share it.
int ThreadsFor(int flag, int run_threads, int cores, const std::vector<std::string>& peers,
               int rank);

// One trainer thread; a new assignment takes the place of the one before. Start and Stop belong to
// main's thread.
class Worker {
 public:
  static absl::StatusOr<std::unique_ptr<Worker>> Start(const WorkerOptions& options);
  ~Worker();
  // Leaves the run, if any, and the coordinator.
  void Stop();
  // With WorkerOptions::once, after the one run: whether it completed or was stopped (true), or failed.
  std::optional<bool> finished();

 private:
  Worker(WorkerOptions options, std::unique_ptr<collective::LinkListener> listener);
  std::shared_ptr<Session> Assign(const v1::Assignment& assignment);
  // Takes assignments one after another until Stop.
  void TrainLoop();
  void Train(const v1::Assignment& assignment, Session& session);
  absl::Status TrainOver(const v1::Assignment& assignment, Session& session, bool* stopped);

  const WorkerOptions options_;
  const std::unique_ptr<collective::LinkListener> listener_;
  WorkerClock clock_;

  absl::Mutex mutex_;
  std::shared_ptr<Session> next_session_ ABSL_GUARDED_BY(mutex_);
  v1::Assignment next_assignment_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Session> running_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<bool> finished_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<FleetClient> client_;
  std::thread trainer_;
  std::thread fleet_;
};

}  // namespace espalier::worker
