#include "services/worker/fleet_client.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "google/protobuf/util/time_util.h"
#include "libs/observe/log.h"
#include "libs/rpc/diagnosis.h"
#include "libs/rpc/server.h"

namespace espalier::worker {
namespace {

constexpr absl::Duration kRetryFirst = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(2);
// Shorter than the grace of Stop, which must not be spent here.
constexpr absl::Duration kConnectPatience = absl::Seconds(2);
// A cancel would hide why the coordinator ended the stream; it is waited for this long.
constexpr absl::Duration kLastWords = absl::Milliseconds(500);
constexpr absl::Duration kSayAwayEvery = absl::Seconds(5);

}  // namespace

FleetClient::FleetClient(const std::string& coordinator, WorkerIdentity identity, Assigned assigned,
                         WorkerClock* clock)
    : coordinator_(coordinator),
      identity_(std::move(identity)),
      assigned_(std::move(assigned)),
      clock_(clock),
      channel_(rpc::MakeChannel(coordinator)),
      stub_(v1::FleetService::NewStub(channel_)) {}

void FleetClient::Run() {
  StayAttached();
  absl::MutexLock lock(&mutex_);
  over_ = true;
}

void FleetClient::StayAttached() {
  absl::Duration pause = kRetryFirst;
  absl::Time said = absl::InfinitePast();
  while (!stopping()) {
    if (Serve()) {
      pause = kRetryFirst;
      said = absl::InfinitePast();
    }
    if (stopping()) return;
    if (absl::Now() - said >= kSayAwayEvery) {
      said = absl::Now();
      LOG(WARNING) << "coordinator_away address=" << coordinator_ << " cause=\""
                   << rpc::WhyFailed(coordinator_, ended_)
                   << "\" effect=\"trying again; a running training goes on\"";
    }
    Pause(pause);
    pause = std::min(pause * 2, kRetryMax);
  }
}

bool FleetClient::Serve() {
  if (!rpc::AwaitConnected(*channel_, kConnectPatience)) {
    ended_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "not connected");
    return false;
  }
  grpc::ClientContext context;
  std::unique_ptr<Stream> stream = stub_->Attach(&context);
  {
    absl::MutexLock lock(&mutex_);
    welcomed_ = broken_ = false;
    context_ = &context;
  }
  const bool welcomed = Converse(context, *stream);
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
  return welcomed;
}

bool FleetClient::Converse(grpc::ClientContext& context, Stream& stream) {
  if (!SendHello(stream)) {
    ended_ = stream.Finish();
    return false;
  }
  std::thread reader([&] {
    v1::AttachResponse word;
    while (stream.Read(&word)) Handle(word);
    absl::MutexLock lock(&mutex_);
    broken_ = true;
  });
  WriteLoop(stream);
  // A clean end tells the coordinator that this worker leaves; a broken stream gets no more words.
  if (stopping()) {
    stream.WritesDone();
  } else if (!EndsByItself()) {
    context.TryCancel();
  }
  reader.join();
  ended_ = stream.Finish();
  absl::MutexLock lock(&mutex_);
  if (welcomed_ && !stopping_) {
    LOG(WARNING) << "stream_broken coordinator=" << coordinator_ << " cause=\""
                 << ended_.error_message() << "\"";
  }
  return welcomed_;
}

bool FleetClient::EndsByItself() {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&broken_), kLastWords);
}

bool FleetClient::SendHello(Stream& stream) {
  v1::AttachRequest word;
  v1::Hello* hello = word.mutable_hello();
  hello->set_worker_id(identity_.worker_id);
  hello->set_link_endpoint(identity_.link_endpoint);
  hello->set_host(identity_.host);
  hello->set_backend(identity_.backend);
  hello->set_version(identity_.version);
  hello->set_threads(identity_.threads);
  {
    absl::MutexLock lock(&mutex_);
    // A session whose last word is said and kept by nobody is over; one that is not goes on.
    introduced_session_ = session_ != nullptr && !session_->Cancelled();
    if (introduced_session_) session_->Introduce(hello);
  }
  hello->set_sent_unix_nanos(static_cast<uint64_t>(absl::GetCurrentTimeNanos()));
  return stream.Write(word);
}

void FleetClient::WriteLoop(Stream& stream) {
  absl::Time heartbeat_at = absl::Now();
  while (true) {
    std::optional<v1::AttachRequest> word;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return broken_ || stopping_ || woken_;
      };
      if (!woken_ && !stopping_) mutex_.AwaitWithDeadline(absl::Condition(&ready), heartbeat_at);
      if (broken_) return;
      woken_ = false;
      if (!welcomed_) {
        // Nothing may be said before the coordinator has said whether the session stands.
        auto welcome = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          return broken_ || welcomed_ || stopping_;
        };
        mutex_.AwaitWithTimeout(absl::Condition(&welcome), absl::Seconds(10));
        if (!welcomed_) return;
        woken_ = true;
      }
      // Before other words when it is due: the clock is learnt from it, and nobody busy is silent.
      if (absl::Now() >= heartbeat_at) {
        word.emplace();
        word->mutable_heartbeat()->set_epoch(session_ == nullptr ? 0 : session_->epoch());
        heartbeat_at = absl::Now() + heartbeat_;
      } else if (session_ != nullptr) {
        word = session_->NextToSend();
      }
      if (word.has_value()) woken_ = true;
      if (!word.has_value() && stopping_) return;
      if (stopping_ && absl::Now() >= stop_at_) return;
    }
    if (word.has_value() && word->has_heartbeat()) {
      word->mutable_heartbeat()->set_sent_unix_nanos(
          static_cast<uint64_t>(absl::GetCurrentTimeNanos()));
    }
    if (word.has_value() && !stream.Write(*word)) return;
  }
}

void FleetClient::Handle(const v1::AttachResponse& word) {
  const std::shared_ptr<Session> current = session();
  switch (word.message_case()) {
    case v1::AttachResponse::kWelcome:
      HandleWelcome(word.welcome());
      break;
    case v1::AttachResponse::kAssignment: {
      std::shared_ptr<Session> next = assigned_(word.assignment());
      absl::MutexLock lock(&mutex_);
      session_ = std::move(next);
      woken_ = true;
      break;
    }
    case v1::AttachResponse::kClockReply:
      if (clock_ != nullptr) clock_->Hear(word.clock_reply());
      break;
    case v1::AttachResponse::kCommand:
      if (current != nullptr) current->AddCommand(word.command());
      break;
    case v1::AttachResponse::kReportAck:
      if (current != nullptr) current->SetDurable(word.report_ack().durable_step());
      break;
    case v1::AttachResponse::kRelease:
      if (current != nullptr && current->run_id() == word.release().run_id() &&
          current->epoch() <= word.release().epoch()) {
        current->Cancel(word.release().reason());
      }
      break;
    default:
      LOG(WARNING) << "unknown_word from=coordinator";
  }
}

void FleetClient::HandleWelcome(const v1::Welcome& welcome) {
  if (clock_ != nullptr && welcome.has_clock_reply()) clock_->Hear(welcome.clock_reply());
  std::shared_ptr<Session> lost;
  {
    absl::MutexLock lock(&mutex_);
    welcomed_ = true;
    woken_ = true;
    const auto interval = absl::Milliseconds(
        google::protobuf::util::TimeUtil::DurationToMilliseconds(welcome.heartbeat_interval()));
    if (interval > absl::ZeroDuration()) heartbeat_ = interval;
    if (introduced_session_ && welcome.reattached()) {
      session_->SendAgain();
    } else if (session_ != nullptr) {
      lost = std::move(session_);
      session_ = nullptr;
    }
  }
  LOG(INFO) << "attached coordinator=" << coordinator_ << " worker=" << identity_.worker_id
            << " reattached=" << welcome.reattached();
  if (lost != nullptr) lost->Cancel("the coordinator has given this rank up");
}

void FleetClient::Stop(absl::Duration grace) {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  stop_at_ = absl::Now() + grace;
  // A coordinator that hangs without closing must not keep this worker from leaving.
  mutex_.AwaitWithDeadline(absl::Condition(&over_), stop_at_);
  if (!over_ && context_ != nullptr) context_->TryCancel();
}

void FleetClient::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

std::shared_ptr<Session> FleetClient::session() const {
  absl::MutexLock lock(&mutex_);
  return session_;
}

bool FleetClient::stopping() const {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

void FleetClient::Pause(absl::Duration time) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stopping_), time);
}

}  // namespace espalier::worker
