// Finish has one owner, FinishWhenIdle, which every reaction ends with. A stream may only end when
// no job and no write holds it; an open read is ended by Finish itself when the service drains.
#include "services/reward/stream_call.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/rpc/server.h"
#include "services/reward/reward_service.h"

namespace espalier::reward {
namespace {

size_t TextBytes(const v1::ScoreBatchRequest& batch) {
  size_t bytes = 0;
  for (const v1::Trace& trace : batch.traces()) bytes += trace.text().size();
  return bytes;
}

}  // namespace

void OpenStreams::Add(std::shared_ptr<StreamCall> stream) {
  std::lock_guard lock(mutex_);
  StreamCall* const key = stream.get();
  streams_.emplace(key, std::move(stream));
}

void OpenStreams::Remove(StreamCall* stream) {
  std::shared_ptr<StreamCall> last;  // goes after the lock
  std::lock_guard lock(mutex_);
  const auto found = streams_.find(stream);
  last = std::move(found->second);
  streams_.erase(found);
}

void OpenStreams::DrainAll() {
  std::vector<std::shared_ptr<StreamCall>> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [key, stream] : streams_) all.push_back(stream);
  }
  for (const auto& stream : all) stream->Drain();
}

StreamCall::StreamCall(ScoreEngine* engine, OpenStreams* open, absl::Time deadline)
    : engine_(engine), open_(open), control_(std::make_shared<CallControl>()) {
  control_->deadline = deadline;
  StartRead(&incoming_);
}

void StreamCall::OnReadDone(bool ok) {
  std::unique_lock lock(mutex_);
  if (!ok || finished_) {
    reading_ = false;
    reads_over_ = true;
    return FinishWhenIdle(&lock);
  }
  auto batch = std::make_shared<Batch>();  // of the job that scores it, then of answers_
  batch->request.Swap(&incoming_);
  batch->read = absl::Now();
  batch->bytes = TextBytes(batch->request.batch());
  const uint64_t id = batch->request.batch_id();
  batch->response.set_batch_id(id);
  batch->own_id = ids_.insert(id).second;
  ++in_flight_;
  bytes_in_flight_ += batch->bytes;
  if (batch->own_id) {
    ++scoring_;
    lock.unlock();  // the engine may answer at once; reading_ keeps the stream open
    Score(std::move(batch));
    lock.lock();
  } else {
    batch->response.set_error(
        absl::StrCat("batch_id: found ", id, ", which an unanswered batch of this stream has too; ",
                     "this one was not scored: give each batch an id of its own"));
    engine_->stats().Count(Outcome::kInvalid);
    batch->scored = batch->read;
    answers_.push_back(std::move(batch));
    WriteNext();
  }
  reading_ = false;
  ReadNext();
  FinishWhenIdle(&lock);
}

void StreamCall::Score(std::shared_ptr<Batch> batch) {
  const v1::ScoreBatchRequest& request = batch->request.batch();
  engine_->Answer(request, control_, &line_,
                  [this, batch](absl::StatusOr<v1::ScoreBatchResponse> scores) {
                    Scored(batch, std::move(scores));
                  });
}

void StreamCall::Scored(std::shared_ptr<Batch> batch,
                        absl::StatusOr<v1::ScoreBatchResponse> scores) {
  batch->scored = absl::Now();
  const absl::Status& status = scores.status();
  if (status.ok()) {
    *batch->response.mutable_batch() = *std::move(scores);
  } else {
    batch->response.set_error(std::string(status.message()));
  }
  std::unique_lock lock(mutex_);
  --scoring_;
  if (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) {
    Break(rpc::ToGrpc(status));
  } else {
    answers_.push_back(std::move(batch));
    WriteNext();
  }
  FinishWhenIdle(&lock);
}

void StreamCall::OnWriteDone(bool ok) {
  std::unique_lock lock(mutex_);
  writing_ = false;
  const std::shared_ptr<Batch> batch = std::move(answers_.front());
  answers_.pop_front();
  --in_flight_;
  bytes_in_flight_ -= batch->bytes;
  if (ok) {
    const absl::Time now = absl::Now();
    engine_->stats().Record(Stage::kWrite, now - batch->scored);
    engine_->stats().Record(Stage::kCall, now - batch->read);
  } else {
    Break(grpc::Status::CANCELLED);
  }
  if (!reading_) ReadNext();
  WriteNext();
  FinishWhenIdle(&lock);
}

void StreamCall::OnCancel() {
  std::unique_lock lock(mutex_);
  const bool late = absl::Now() >= control_->deadline;
  Break(late ? grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the stream's deadline passed")
             : grpc::Status::CANCELLED);
  FinishWhenIdle(&lock);
}

void StreamCall::OnDone() {
  {
    // The last reaction may still be letting go of the lock.
    std::lock_guard lock(mutex_);
  }
  Gate& gate = engine_->gate();
  open_->Remove(this);  // may delete this
  gate.Leave();
}

void StreamCall::Drain() {
  std::unique_lock lock(mutex_);
  draining_ = true;
  FinishWhenIdle(&lock);
}

void StreamCall::ReadNext() {
  reading_ = broken_.ok() && !reads_over_ && !draining_ && in_flight_ < kStreamInFlightMax &&
             (in_flight_ == 0 || bytes_in_flight_ < kStreamBytesMax);
  if (reading_) StartRead(&incoming_);
}

void StreamCall::WriteNext() {
  if (writing_ || !broken_.ok() || answers_.empty()) return;
  writing_ = true;
  // From here on the client may have its answer, and use the id again.
  const Batch& next = *answers_.front();
  if (next.own_id) ids_.erase(next.request.batch_id());
  // With another answer right behind, this one may wait for it and share its packet.
  grpc::WriteOptions options;
  if (answers_.size() > 1) options.set_buffer_hint();
  StartWrite(&next.response, options);
}

void StreamCall::Break(grpc::Status why) {
  if (!broken_.ok()) return;
  broken_ = std::move(why);
  control_->cancelled = true;  // what waits for its turn is not computed
}

void StreamCall::FinishWhenIdle(std::unique_lock<std::mutex>* lock) {
  if (finished_ || scoring_ > 0 || writing_) return;
  const bool answered = answers_.empty() && (draining_ || (reads_over_ && !reading_));
  if (!answered && (broken_.ok() || reading_)) return;
  finished_ = true;
  grpc::Status status = broken_;
  if (broken_.ok() && !reads_over_) status = rpc::ToGrpc(DrainingError());
  lock->unlock();  // OnDone may delete this as soon as Finish was called
  Finish(status);
}

}  // namespace espalier::reward
