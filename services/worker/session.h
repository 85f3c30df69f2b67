// Session: one rank's part in one epoch of a run: the commands it holds and the words it has for
// the coordinator.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/collective/communicator.h"
#include "libs/train/controller.h"
#include "services/worker/worker_clock.h"
#include "services/worker/worker_metrics.h"

namespace espalier::observe {
class SpanSink;
}

namespace espalier::worker {

// What the trainer says is kept here until the coordinator has made it durable, and is said again
// after a broken stream: the trainer never waits for a service, and nothing it said is lost.
// Thread-safe: the trainer's thread speaks, the fleet client's threads send and receive.
class Session : public train::TrainController {
 public:
  // Words kept for a coordinator that is away. A trainer that would exceed it waits: losing reports
  // would be worse.
  static constexpr size_t kWordsMax = 200'000;
  // Traces kept likewise; those beyond are dropped, for they are only looks at what happens.
  static constexpr size_t kTracesMax = 64;

  // `changed` is called, without locks held, whenever there is something new to send.
  // Reports are counted in `metrics` and spans go to `spans`, where there are such; the clock tells
  // the coordinator's time. All of them outlive the session.
  Session(const v1::Assignment& assignment, std::function<void()> changed,
          WorkerMetrics* metrics = nullptr, observe::SpanSink* spans = nullptr,
          const WorkerClock* clock = nullptr);

  uint64_t HighestContiguousSequence() const override;
  v1::Command GetCommand(uint64_t sequence) const override;
  void Report(v1::StepReport report) override;
  void Ack(v1::CommandAck ack) override;
  void Event(v1::RunEvent event) override;
  bool Cancelled() const override;
  void Trace(v1::RankTrace trace) override;
  train::TraceClockFacts Clock() const override;

  const std::string& run_id() const { return run_id_; }
  uint64_t epoch() const { return epoch_; }
  uint32_t rank() const { return rank_; }

  void AddCommand(const v1::Command& command);
  // The rank's part is over; the last word.
  void End(v1::AssignmentEnd::Outcome outcome, const std::string& error);
  bool ended() const;
  // Leaves the run at once: aborts the links, if they are up.
  void Cancel(const std::string& reason);
  // Links to abort on Cancel; nullptr before they go away.
  void SetLinks(collective::Communicator* links);

  // Next word to send, in order; nothing when all are sent.
  std::optional<v1::AttachRequest> NextToSend();
  bool HasToSend() const;
  // The stream broke: everything that is not known to be durable is to be sent again.
  void SendAgain();
  // Reports up to this step are durable, and with them all that was said before them.
  void SetDurable(uint64_t step);
  // Says who this is when a stream is opened again.
  void Introduce(v1::Hello* hello) const;

 private:
  void Say(v1::AttachRequest word);
  // Fills in run_id, epoch and rank.
  template <typename Message>
  void Sign(Message* message) const {
    message->set_run_id(run_id_);
    message->set_epoch(epoch_);
    message->set_rank(rank_);
  }

  const std::string run_id_;
  const uint64_t epoch_;
  const uint32_t rank_;
  const std::function<void()> changed_;
  WorkerMetrics* const metrics_;
  observe::SpanSink* const spans_;
  const WorkerClock* const clock_;

  mutable absl::Mutex mutex_;
  std::map<uint64_t, v1::Command> commands_ ABSL_GUARDED_BY(mutex_);
  uint64_t contiguous_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_acked_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<v1::AttachRequest> words_ ABSL_GUARDED_BY(mutex_);
  size_t sent_ ABSL_GUARDED_BY(mutex_) = 0;    // of words_, from the front
  size_t traces_ ABSL_GUARDED_BY(mutex_) = 0;  // among words_
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::string cancel_reason_ ABSL_GUARDED_BY(mutex_);
  collective::Communicator* links_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace espalier::worker
