// SimWorker: speaks as services/worker does, without a training behind it.
#include "services/fleetsim/sim_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/observe/log.h"
#include "services/fleetsim/random.h"

namespace espalier::fleetsim {
namespace {

constexpr absl::Duration kRetryFirst = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(2);
constexpr absl::Duration kProcessStart = absl::Milliseconds(500);

}  // namespace

SimWorker::SimWorker(uint32_t index, std::string id_prefix, v1::FleetService::Stub* stub,
                     EventLoop* loop, FleetStats* stats, FindRun find_run, uint64_t seed)
    : index_(index),
      id_prefix_(std::move(id_prefix)),
      stub_(stub),
      loop_(loop),
      stats_(stats),
      find_run_(std::move(find_run)),
      seed_(seed) {}

std::string SimWorker::worker_id() const {
  return absl::StrCat(id_prefix_, "-", index_, "-", incarnation_);
}

v1::AttachRequest SimWorker::MakeHello() const {
  v1::AttachRequest word;
  v1::Hello* hello = word.mutable_hello();
  hello->set_worker_id(worker_id());
  hello->set_link_endpoint(absl::StrCat("sim-host-", index_ / 8, ":", 20000 + index_ % 8));
  hello->set_host(absl::StrCat("sim-host-", index_ / 8));
  hello->set_threads(1);
  hello->set_backend("cpu");
  hello->set_version("fleetsim");
  if (session_.has_value()) {
    Sign(hello);
    hello->set_last_applied_sequence(session_->acked_sequence);
  }
  return word;
}

void SimWorker::Attach() {
  if (leaving_ || stream_ != nullptr) return;
  ++attempt_;
  const uint64_t generation = ++generation_;
  introduced_ = session_.has_value();
  stream_ = AttachStream::Open(
      stub_,
      [this, generation](v1::AttachResponse word) {
        loop_->Post([this, generation, word = std::move(word)] {
          if (generation == generation_) Heard(word);
        });
      },
      [this, generation](absl::Status status) {
        loop_->Post([this, generation, status] {
          if (generation == generation_) Ended(status);
        });
      });
  stream_->Send(MakeHello());
}

void SimWorker::Ended(const absl::Status& status) {
  stream_ = nullptr;
  if (welcomed_ && session_.has_value()) session_->run->Detached(session_->rank);
  welcomed_ = false;
  if (leaving_) return;
  const absl::Duration pause =
      std::min(kRetryFirst * (uint64_t{1} << std::min<uint64_t>(attempt_, 5)), kRetryMax) *
      (0.5 + Uniform(Mix(seed_, index_, generation_)));
  loop_->At(absl::Now() + pause, [this] { Attach(); });
}

void SimWorker::Cut() {
  if (stream_ == nullptr || leaving_) return;
  ++stats_->disconnects;
  stream_->Cut();
}

void SimWorker::Restart() {
  if (leaving_) return;
  ++stats_->restarts;
  ++generation_;  // what the old process still hears is nobody's
  ++incarnation_;
  if (stream_ != nullptr) std::exchange(stream_, nullptr)->Cut();
  welcomed_ = false;
  DropSession("a peer's process died");
  loop_->At(absl::Now() + kProcessStart, [this] { Attach(); });
}

void SimWorker::Close() {
  leaving_ = true;
  if (stream_ != nullptr) stream_->Close();
}

void SimWorker::Heard(const v1::AttachResponse& word) {
  ++stats_->words_heard;
  switch (word.message_case()) {
    case v1::AttachResponse::kWelcome:
      Welcomed(word.welcome());
      break;
    case v1::AttachResponse::kAssignment:
      stats_->assignment_bytes_max =
          std::max<uint64_t>(stats_->assignment_bytes_max, word.ByteSizeLong());
      Assigned(word.assignment());
      break;
    case v1::AttachResponse::kCommand:
      stats_->command_bytes_max =
          std::max<uint64_t>(stats_->command_bytes_max, word.ByteSizeLong());
      if (serving()) session_->run->Receive(session_->epoch, session_->rank, word.command());
      break;
    case v1::AttachResponse::kReportAck:
      SetDurable(word.report_ack().durable_step());
      break;
    case v1::AttachResponse::kRelease:
      Released(word.release());
      break;
    case v1::AttachResponse::kClockReply:  // a simulated worker has no clock to set
      break;
    case v1::AttachResponse::MESSAGE_NOT_SET:
      LOG(WARNING) << "unknown_word worker=" << worker_id();
      break;
  }
  Pump();
}

void SimWorker::Welcomed(const v1::Welcome& welcome) {
  attempt_ = 0;
  welcomed_ = true;
  heartbeat_ = absl::Seconds(welcome.heartbeat_interval().seconds()) +
               absl::Nanoseconds(welcome.heartbeat_interval().nanos());
  if (introduced_ && session_.has_value() && welcome.reattached()) {
    ++stats_->reattached;
    sent_ = 0;
    session_->run->Reattached(session_->rank);
  } else {
    ++stats_->fresh_attaches;
    DropSession("the coordinator has given a rank up");
  }
  loop_->At(absl::Now() + heartbeat_, [this, generation = generation_] { Beat(generation); });
}

void SimWorker::Beat(uint64_t generation) {
  if (generation != generation_ || stream_ == nullptr) return;
  v1::AttachRequest word;
  word.mutable_heartbeat()->set_epoch(session_.has_value() ? session_->epoch : 0);
  stream_->Send(std::move(word));
  Pump();
  loop_->At(absl::Now() + heartbeat_, [this, generation] { Beat(generation); });
}

void SimWorker::Assigned(const v1::Assignment& assignment) {
  ++stats_->assignments;
  DropSession("a rank was assigned anew");
  SimRun* run = find_run_(assignment.run_id());
  Session session;
  session.run = run;
  session.epoch = assignment.epoch();
  session.rank = assignment.rank();
  for (const v1::Command& command : assignment.commands()) {
    if (command.has_applied_step())
      session.acked_sequence = std::max(session.acked_sequence, command.sequence());
  }
  durable_step_ = 0;
  if (run == nullptr) {
    v1::AttachRequest word;
    v1::AssignmentEnd* end = word.mutable_end();
    end->set_run_id(assignment.run_id());
    end->set_epoch(assignment.epoch());
    end->set_rank(assignment.rank());
    end->set_outcome(v1::AssignmentEnd::OUTCOME_FAILED);
    end->set_error("this worker is simulated and trains no run but its simulation's own");
    stream_->Send(std::move(word));
    return;
  }
  session_ = session;
  const absl::Status entered = run->Enter(this, assignment);
  if (!entered.ok()) SayEnd(v1::AssignmentEnd::OUTCOME_FAILED, std::string(entered.message()));
}

void SimWorker::Released(const v1::Release& release) {
  ++stats_->releases;
  if (!session_.has_value() || session_->epoch > release.epoch() ||
      session_->run->group().options().run_id != release.run_id())
    return;
  // One whose part is over only waits for the acks of its last steps.
  if (session_->ended) return;
  session_->run->Leave(session_->epoch, session_->rank, "a peer was released");
  SayEnd(v1::AssignmentEnd::OUTCOME_INTERRUPTED, release.reason());
}

void SimWorker::DropSession(const std::string& reason) {
  if (session_.has_value() && !session_->ended)
    session_->run->Leave(session_->epoch, session_->rank, reason);
  session_.reset();
  stats_->reports_retaken += unacked_;
  unacked_ = 0;
  words_.clear();
  sent_ = 0;
}

void SimWorker::SayReport(uint64_t step) {
  ++stats_->reports_said;
  ++unacked_;
  stats_->kept_max = std::max(stats_->kept_max, unacked_);
  words_.push_back({step, absl::Now(), nullptr});
  Pump();
}

void SimWorker::SayAck(v1::CommandAck ack) {
  Sign(&ack);
  session_->acked_sequence = std::max(session_->acked_sequence, ack.sequence());
  v1::AttachRequest word;
  *word.mutable_ack() = std::move(ack);
  SayOther(std::move(word));
}

void SimWorker::SayEvent(v1::RunEvent event) {
  Sign(&event);
  v1::AttachRequest word;
  *word.mutable_event() = std::move(event);
  SayOther(std::move(word));
}

void SimWorker::SayEnd(v1::AssignmentEnd::Outcome outcome, const std::string& error) {
  v1::AttachRequest word;
  Sign(word.mutable_end());
  word.mutable_end()->set_outcome(outcome);
  word.mutable_end()->set_error(error);
  session_->ended = true;
  SayOther(std::move(word));
}

void SimWorker::SayOther(v1::AttachRequest word) {
  words_.push_back({0, absl::Now(), std::make_shared<const v1::AttachRequest>(std::move(word))});
  Pump();
}

void SimWorker::Pump() {
  if (!welcomed_ || stream_ == nullptr) return;
  while (sent_ < words_.size() && stream_->backlog() < kBacklogMax) {
    const Word& word = words_[sent_++];
    if (word.step == 0) {
      stream_->Send(*word.other);
      continue;
    }
    v1::AttachRequest request;
    *request.mutable_report() =
        session_->run->MakeReport(session_->epoch, session_->rank, word.step);
    ++stats_->reports_sent;
    stats_->report_bytes += request.ByteSizeLong();
    stream_->Send(std::move(request));
  }
}

void SimWorker::SetDurable(uint64_t step) {
  if (!session_.has_value()) return;
  durable_step_ = std::max(durable_step_, step);
  size_t durable = 0;  // words from the front that need not be kept
  for (size_t i = 0; i < sent_; ++i) {
    if (words_[i].step == 0) continue;
    if (words_[i].step > step) break;
    durable = i + 1;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - words_[i].said);
    stats_->ack.Add(seconds);
    if (words_[i].said >= session_->run->calm_since()) stats_->ack_undisturbed.Add(seconds);
    ++stats_->reports_acked;
    --unacked_;
  }
  words_.erase(words_.begin(), words_.begin() + static_cast<int64_t>(durable));
  sent_ -= durable;
}

}  // namespace espalier::fleetsim
