#include "services/worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/train/trainer.h"
#include "services/worker/remote_scorer.h"

namespace espalier::worker {
namespace {

constexpr absl::Duration kStopGrace = absl::Seconds(5);

// host and port of host:port; InvalidArgument names the flag.
absl::Status SplitAddress(const char* flag, const std::string& address, std::string* host,
                          int* port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), port) || *port < 0 || *port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": \"", address, "\" is not host:port"));
  }
  *host = address.substr(0, colon);
  return absl::OkStatus();
}

std::string HostOf(const std::string& endpoint) { return endpoint.substr(0, endpoint.rfind(':')); }

std::string HostName() {
  char name[256] = "unknown";
  gethostname(name, sizeof(name) - 1);
  return name;
}

std::string NewWorkerId() {
  std::random_device random;
  return absl::StrCat("w-", absl::StrFormat("%08x%08x", random(), random()));
}

// A link or the coordinator was lost: worth another try from the checkpoint.
bool IsInterruption(const absl::Status& status) {
  return absl::IsAborted(status) || absl::IsUnavailable(status) || absl::IsCancelled(status) ||
         absl::IsDeadlineExceeded(status);
}

}  // namespace

absl::Status WorkerOptions::Validate() const {
  std::string host;
  int port = 0;
  RETURN_IF_ERROR(SplitAddress("--coordinator", coordinator, &host, &port));
  RETURN_IF_ERROR(SplitAddress("--reward", reward, &host, &port));
  RETURN_IF_ERROR(SplitAddress("--listen-links", listen_links, &host, &port));
  if (advertise.empty() && (host == "0.0.0.0" || host == "[::]")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen-links: peers cannot connect to ", listen_links,
                     "; say how they reach this worker with --advertise host:port"));
  }
  if (!advertise.empty()) {
    RETURN_IF_ERROR(SplitAddress("--advertise", advertise, &host, &port));
  }
  if (threads < 0 || threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads: ", threads, " is not between 0 and 1024"));
  }
  model::Device parsed;
  int index = 0;
  RETURN_IF_ERROR(ParseDevice(device, &parsed, &index));
  if (access(data_root.c_str(), R_OK | W_OK | X_OK) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--data-root: ", data_root, " is not a folder that can be read and written; create it"));
  }
  return absl::OkStatus();
}

absl::Status ParseDevice(const std::string& flag, model::Device* device, int* index) {
  *device = flag == "cpu" ? model::Device::kCpu : model::Device::kCuda;
  *index = 0;
  if (flag == "cpu" || flag == "cuda") return absl::OkStatus();
  if (absl::StartsWith(flag, "cuda:") && absl::SimpleAtoi(flag.substr(5), index) && *index >= 0 &&
      *index < 1024) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device: ", flag, " is none of cpu, cuda and cuda:N with N from 0"));
}

int ThreadsFor(int flag, int run_threads, int cores, const std::vector<std::string>& peers,
               int rank) {
  if (flag > 0) return flag;
  if (run_threads > 0) return run_threads;
  const std::string host = HostOf(peers[rank]);
  const auto sharing = std::count_if(peers.begin(), peers.end(),
                                     [&](const std::string& peer) { return HostOf(peer) == host; });
  return std::max(1, cores / static_cast<int>(sharing));
}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const WorkerOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  std::string host;
  int port = 0;
  RETURN_IF_ERROR(SplitAddress("--listen-links", options.listen_links, &host, &port));
  model::Device device;
  int index = 0;
  RETURN_IF_ERROR(ParseDevice(options.device, &device, &index));
  // A worker that asked for a GPU and has none must not wait for a run to say so.
  ASSIGN_OR_RETURN(const std::string described, model::DescribeDevice(device, index));
  LOG(INFO) << "device flag=" << options.device << " is=\"" << described << '"';
  ASSIGN_OR_RETURN(auto listener, collective::LinkListener::Bind(host, port));
  return std::unique_ptr<Worker>(new Worker(options, std::move(listener)));
}

Worker::Worker(WorkerOptions options, std::unique_ptr<collective::LinkListener> listener)
    : options_(std::move(options)), listener_(std::move(listener)) {
  WorkerIdentity identity{
      .worker_id = NewWorkerId(),
      .link_endpoint = options_.advertise.empty() ? listener_->endpoint() : options_.advertise,
      .host = HostName(),
      .backend = absl::StartsWith(options_.device, "cuda") ? "cuda" : "cpu",
      .version = ESPALIER_VERSION,
      .threads = std::max(1u, std::thread::hardware_concurrency())};
  LOG(INFO) << "worker_started worker=" << identity.worker_id << " links=" << identity.link_endpoint
            << " coordinator=" << options_.coordinator << " data_root=" << options_.data_root
            << " device=" << options_.device;
  client_ = std::make_unique<FleetClient>(
      options_.coordinator, std::move(identity),
      [this](const v1::Assignment& assignment) { return Assign(assignment); }, &clock_);
  trainer_ = std::thread([this] { TrainLoop(); });
  fleet_ = std::thread([this] { client_->Run(); });
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    stopping_ = true;
    if (running_ != nullptr) running_->Cancel("the worker was told to stop");
  }
  trainer_.join();
  client_->Stop(kStopGrace);
  fleet_.join();
}

std::shared_ptr<Session> Worker::Assign(const v1::Assignment& assignment) {
  LOG(INFO) << "assigned run=" << assignment.run_id() << " epoch=" << assignment.epoch()
            << " rank=" << assignment.rank() << " ranks=" << assignment.peers_size()
            << " checkpoint=" << assignment.checkpoint();
  auto session = std::make_shared<Session>(
      assignment, [this] { client_->Wake(); }, options_.metrics, options_.spans, &clock_);
  absl::MutexLock lock(&mutex_);
  if (running_ != nullptr) running_->Cancel("a new assignment has come");
  next_session_ = session;
  next_assignment_ = assignment;
  return session;
}

void Worker::TrainLoop() {
  while (true) {
    v1::Assignment assignment;
    std::shared_ptr<Session> session;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || next_session_ != nullptr;
      };
      mutex_.Await(absl::Condition(&ready));
      if (stopping_) return;
      session = running_ = std::move(next_session_);
      next_session_ = nullptr;
      assignment = std::move(next_assignment_);
    }
    Train(assignment, *session);
    absl::MutexLock lock(&mutex_);
    running_ = nullptr;
  }
}

void Worker::Train(const v1::Assignment& assignment, Session& session) {
  if (options_.metrics != nullptr) {
    options_.metrics->Begin(assignment.run_id(), assignment.rank());
  }
  bool stopped = false;
  const absl::Status status = TrainOver(assignment, session, &stopped);
  v1::AssignmentEnd::Outcome outcome =
      stopped ? v1::AssignmentEnd::OUTCOME_STOPPED : v1::AssignmentEnd::OUTCOME_COMPLETED;
  if (!status.ok()) {
    outcome = IsInterruption(status) ? v1::AssignmentEnd::OUTCOME_INTERRUPTED
                                     : v1::AssignmentEnd::OUTCOME_FAILED;
  }
  LOG(INFO) << "assignment_ended run=" << assignment.run_id() << " rank=" << assignment.rank()
            << " outcome=" << v1::AssignmentEnd::Outcome_Name(outcome) << " status=" << status;
  session.End(outcome, std::string(status.message()));
  // An interrupted run goes on from its checkpoint, perhaps here.
  if (!options_.once || outcome == v1::AssignmentEnd::OUTCOME_INTERRUPTED) return;
  absl::MutexLock lock(&mutex_);
  finished_ = status.ok();
}

std::optional<bool> Worker::finished() {
  absl::MutexLock lock(&mutex_);
  return finished_;
}

absl::Status Worker::TrainOver(const v1::Assignment& assignment, Session& session, bool* stopped) {
  const std::vector<std::string> peers(assignment.peers().begin(), assignment.peers().end());
  if (peers.empty() || assignment.rank() >= peers.size()) {
    return absl::InternalError(
        absl::StrCat("assignment names rank ", assignment.rank(), " of ", peers.size(), " peers"));
  }
  collective::LinkOptions links{
      .rank = static_cast<int>(assignment.rank()), .peers = peers, .key = assignment.link_key()};
  links.cancelled = [&session] { return session.Cancelled(); };
  ASSIGN_OR_RETURN(auto communicator, collective::ConnectLinks(*listener_, links));
  session.SetLinks(communicator.get());
  train::TrainerOptions trainer{
      .data_root = options_.data_root,
      .threads =
          ThreadsFor(options_.threads, static_cast<int>(assignment.spec().workers().threads()),
                     static_cast<int>(std::thread::hardware_concurrency()), peers,
                     static_cast<int>(assignment.rank()))};
  RETURN_IF_ERROR(ParseDevice(options_.device, &trainer.device, &trainer.device_index));
  RemoteScorer scorer(options_.reward, [&session] { return session.Cancelled(); });
  auto outcome = train::RunTrainer(assignment, trainer, *communicator, session, scorer);
  session.SetLinks(nullptr);
  RETURN_IF_ERROR(outcome.status());
  *stopped = *outcome == train::TrainOutcome::kStopped;
  return absl::OkStatus();
}

}  // namespace espalier::worker
