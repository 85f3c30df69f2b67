// SimWorker: one worker as the coordinator knows it: its stream, its lease, the words that it keeps
// until they are durable.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "espalier/v1/fleet_service.grpc.pb.h"
#include "services/fleetsim/attach_stream.h"
#include "services/fleetsim/event_loop.h"
#include "services/fleetsim/sim_run.h"
#include "services/fleetsim/stats.h"

namespace espalier::fleetsim {

// Belongs to the event loop's thread. Keeps every word in order until a later report is durable,
// and says all of them again when its stream was broken.
class SimWorker {
 public:
  // Words on a stream that are not written yet; the rest waits among those kept.
  static constexpr size_t kBacklogMax = 64;
  using FindRun = std::function<SimRun*(const std::string& run_id)>;

  SimWorker(uint32_t index, std::string id_prefix, v1::FleetService::Stub* stub, EventLoop* loop,
            FleetStats* stats, FindRun find_run, uint64_t seed);

  void Attach();
  // The network fails: the stream breaks and is opened again; the training goes on.
  void Cut();
  // The process dies and another takes its place.
  void Restart();
  // Leaves in good order; nothing is opened again.
  void Close();

  void SayReport(uint64_t step);
  void SayAck(v1::CommandAck ack);
  void SayEvent(v1::RunEvent event);
  void SayEnd(v1::AssignmentEnd::Outcome outcome, const std::string& error);

  bool attached() const { return welcomed_; }
  bool serving() const { return session_.has_value() && !session_->ended; }
  bool streaming() const { return stream_ != nullptr; }
  // Reports kept that nobody has acknowledged.
  uint64_t unacknowledged() const { return unacked_; }
  uint64_t durable_step() const { return durable_step_; }

 private:
  struct Word {
    uint64_t step = 0;  // of a report, which is drawn again when it is sent; 0 for other words
    absl::Time said;
    std::shared_ptr<const v1::AttachRequest> other;
  };
  struct Session {
    SimRun* run = nullptr;
    uint64_t epoch = 0;
    uint32_t rank = 0;
    uint64_t acked_sequence = 0;
    bool ended = false;
  };

  v1::AttachRequest MakeHello() const;
  void Heard(const v1::AttachResponse& word);
  void Welcomed(const v1::Welcome& welcome);
  void Assigned(const v1::Assignment& assignment);
  void Released(const v1::Release& release);
  void SetDurable(uint64_t step);
  void Ended(const absl::Status& status);
  void Beat(uint64_t generation);
  template <typename Message>
  void Sign(Message* message) const {
    message->set_run_id(session_->run->group().options().run_id);
    message->set_epoch(session_->epoch);
    message->set_rank(session_->rank);
  }
  void SayOther(v1::AttachRequest word);
  void Pump();
  // The part in the run is over for good; what is unacknowledged will be taken again.
  void DropSession(const std::string& reason);
  std::string worker_id() const;

  const uint32_t index_;
  const std::string id_prefix_;
  v1::FleetService::Stub* const stub_;
  EventLoop* const loop_;
  FleetStats* const stats_;
  const FindRun find_run_;
  const uint64_t seed_;

  uint64_t incarnation_ = 1;
  uint64_t attempt_ = 0;
  uint64_t generation_ = 0;  // of the stream whose words count
  std::shared_ptr<AttachStream> stream_;
  bool welcomed_ = false;
  bool introduced_ = false;  // this stream's hello named the session
  bool leaving_ = false;
  absl::Duration heartbeat_ = absl::Seconds(1);
  std::optional<Session> session_;
  std::deque<Word> words_;
  size_t sent_ = 0;  // of words_, from the front
  uint64_t unacked_ = 0;
  uint64_t durable_step_ = 0;
};

}  // namespace espalier::fleetsim
