// FleetClient: a worker's stream to the coordinator, opened again for as long as the worker lives.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "espalier/v1/fleet_service.grpc.pb.h"
#include "services/worker/session.h"
#include "services/worker/worker_clock.h"

namespace espalier::worker {

// Who the worker is, as it says in its Hello.
struct WorkerIdentity {
  std::string worker_id;
  std::string link_endpoint;
  std::string host;
  std::string backend = "cpu";
  std::string version;
  uint32_t threads = 1;
};

// Two threads: the caller's (Run) opens streams and writes, one of its own reads. All other methods
// are thread-safe.
class FleetClient {
 public:
  // `assigned` is called on the reading thread for each new assignment and must return soon; it
  // gives the new session.
  using Assigned = std::function<std::shared_ptr<Session>(const v1::Assignment&)>;

  // `clock`, where there is one, hears of the coordinator's time; it outlives the client.
  FleetClient(const std::string& coordinator, WorkerIdentity identity, Assigned assigned,
              WorkerClock* clock = nullptr);

  // Until Stop. A coordinator that is away is tried again; meanwhile the session's words are kept.
  void Run();
  // Ends Run: says what is still to be said and closes the stream cleanly; after `grace` it is cut
  // off. Run has ended, or is about to, when this returns.
  void Stop(absl::Duration grace);
  // A session has words to send.
  void Wake();
  // The one whose words are sent; null between two assignments.
  std::shared_ptr<Session> session() const;

 private:
  using Stream = grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>;

  // Streams one after another until Stop.
  void StayAttached();
  // One stream's life; true when it got as far as a Welcome.
  bool Serve();
  bool Converse(grpc::ClientContext& context, Stream& stream);
  bool SendHello(Stream& stream);
  // The reader has seen the end of the stream, or sees it soon.
  bool EndsByItself();
  // Sends words and heartbeats until the stream breaks or Stop.
  void WriteLoop(Stream& stream);
  void Handle(const v1::AttachResponse& word);
  void HandleWelcome(const v1::Welcome& welcome);
  bool stopping() const;
  // Sleeps between attempts; returns early on Stop.
  void Pause(absl::Duration time);

  const std::string coordinator_;
  const WorkerIdentity identity_;
  const Assigned assigned_;
  WorkerClock* const clock_;
  const std::shared_ptr<grpc::Channel> channel_;  // gRPC's own type of handle
  const std::unique_ptr<v1::FleetService::Stub> stub_;
  grpc::Status ended_;  // how the last stream ended; of the thread that is in Run

  mutable absl::Mutex mutex_;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);  // shared with the trainer's thread
  bool introduced_session_ ABSL_GUARDED_BY(mutex_) =
      false;  // this stream's Hello named the session
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration heartbeat_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1);
  absl::Time stop_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;                       // Run has returned
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the stream that is open
};

}  // namespace espalier::worker
