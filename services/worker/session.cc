#include "services/worker/session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/observe/log.h"
#include "services/worker/rank_spans.h"

namespace espalier::worker {

Session::Session(const v1::Assignment& assignment, std::function<void()> changed,
                 WorkerMetrics* metrics, observe::SpanSink* spans, const WorkerClock* clock)
    : run_id_(assignment.run_id()),
      epoch_(assignment.epoch()),
      rank_(assignment.rank()),
      changed_(std::move(changed)),
      metrics_(metrics),
      spans_(spans),
      clock_(clock) {
  for (const v1::Command& command : assignment.commands()) {
    AddCommand(command);
    if (command.has_applied_step()) {
      absl::MutexLock lock(&mutex_);
      last_acked_ = std::max(last_acked_, command.sequence());
    }
  }
}

uint64_t Session::HighestContiguousSequence() const {
  absl::MutexLock lock(&mutex_);
  return contiguous_;
}

v1::Command Session::GetCommand(uint64_t sequence) const {
  absl::MutexLock lock(&mutex_);
  const auto it = commands_.find(sequence);
  CHECK(it != commands_.end()) << "command " << sequence << " was never received";
  return it->second;
}

void Session::AddCommand(const v1::Command& command) {
  absl::MutexLock lock(&mutex_);
  commands_.emplace(command.sequence(), command);
  while (commands_.count(contiguous_ + 1) != 0) ++contiguous_;
}

void Session::Report(v1::StepReport report) {
  Sign(&report);
  if (metrics_ != nullptr) metrics_->Report(run_id_, &report);
  v1::AttachRequest word;
  *word.mutable_report() = std::move(report);
  Say(std::move(word));
}

void Session::Ack(v1::CommandAck ack) {
  Sign(&ack);
  {
    absl::MutexLock lock(&mutex_);
    last_acked_ = std::max(last_acked_, ack.sequence());
  }
  v1::AttachRequest word;
  *word.mutable_ack() = std::move(ack);
  Say(std::move(word));
}

void Session::Event(v1::RunEvent event) {
  Sign(&event);
  LOG(INFO) << "run_event run=" << run_id_ << " rank=" << rank_ << " step=" << event.step()
            << " name=" << event.name() << " text=\"" << event.text() << "\"";
  v1::AttachRequest word;
  *word.mutable_event() = std::move(event);
  Say(std::move(word));
}

void Session::End(v1::AssignmentEnd::Outcome outcome, const std::string& error) {
  v1::AttachRequest word;
  Sign(word.mutable_end());
  word.mutable_end()->set_outcome(outcome);
  word.mutable_end()->set_error(error);
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    words_.push_back(std::move(word));
  }
  changed_();
}

void Session::Trace(v1::RankTrace trace) {
  Sign(&trace);
  if (spans_ != nullptr) spans_->Add(SpansOf(trace));
  {
    absl::MutexLock lock(&mutex_);
    if (traces_ >= kTracesMax || words_.size() >= kWordsMax) {
      LOG_EVERY_N(WARNING, 100) << "trace_not_sent run=" << run_id_ << " step=" << trace.step()
                                << " cause=\"the coordinator has not taken the last " << kTracesMax
                                << "\"";
      return;
    }
    ++traces_;
    v1::AttachRequest word;
    *word.mutable_trace() = std::move(trace);
    words_.push_back(std::move(word));
  }
  changed_();
}

train::TraceClockFacts Session::Clock() const {
  return clock_ == nullptr ? train::TraceClockFacts{} : clock_->facts();
}

bool Session::ended() const {
  absl::MutexLock lock(&mutex_);
  return ended_;
}

bool Session::Cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

void Session::Cancel(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return;
  cancelled_ = true;
  cancel_reason_ = reason;
  LOG(INFO) << "run_left run=" << run_id_ << " epoch=" << epoch_ << " reason=\"" << reason << "\"";
  if (links_ != nullptr) links_->Abort(absl::AbortedError(reason));
}

void Session::SetLinks(collective::Communicator* links) {
  absl::MutexLock lock(&mutex_);
  links_ = links;
  if (cancelled_ && links_ != nullptr) links_->Abort(absl::AbortedError(cancel_reason_));
}

void Session::Say(v1::AttachRequest word) {
  {
    absl::MutexLock lock(&mutex_);
    if (words_.size() >= kWordsMax && !cancelled_) {
      LOG(WARNING) << "coordinator_away_too_long run=" << run_id_ << " words=" << words_.size()
                   << " effect=\"training waits\"";
      auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return words_.size() < kWordsMax || cancelled_;
      };
      mutex_.Await(absl::Condition(&room));
    }
    words_.push_back(std::move(word));
  }
  changed_();
}

std::optional<v1::AttachRequest> Session::NextToSend() {
  absl::MutexLock lock(&mutex_);
  if (sent_ == words_.size()) return std::nullopt;
  return words_[sent_++];
}

bool Session::HasToSend() const {
  absl::MutexLock lock(&mutex_);
  return sent_ < words_.size();
}

void Session::SendAgain() {
  absl::MutexLock lock(&mutex_);
  sent_ = 0;
}

void Session::SetDurable(uint64_t step) {
  absl::MutexLock lock(&mutex_);
  size_t durable = 0;  // words from the front that need not be kept
  for (size_t i = 0; i < sent_; ++i) {
    if (!words_[i].has_report()) continue;
    if (words_[i].report().last_step() > step) break;
    durable = i + 1;
  }
  const auto end = words_.begin() + static_cast<int64_t>(durable);
  traces_ -= static_cast<size_t>(std::count_if(
      words_.begin(), end, [](const v1::AttachRequest& word) { return word.has_trace(); }));
  words_.erase(words_.begin(), end);
  sent_ -= durable;
}

void Session::Introduce(v1::Hello* hello) const {
  absl::MutexLock lock(&mutex_);
  hello->set_run_id(run_id_);
  hello->set_epoch(epoch_);
  hello->set_rank(rank_);
  hello->set_last_applied_sequence(last_acked_);
}

}  // namespace espalier::worker
