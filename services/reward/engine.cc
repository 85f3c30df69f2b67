// One job for a small request; a job for each part of a batch, the last of which joins and answers.
#include "services/reward/engine.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "services/reward/batch_parts.h"
#include "services/reward/convert.h"

namespace espalier::reward {
namespace {

absl::Status BusyError() {
  return absl::ResourceExhaustedError(
      "the reward service is busy: too many calls wait; try again, or start another replica");
}

Outcome OutcomeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return Outcome::kAnswered;
    case absl::StatusCode::kResourceExhausted:
      return Outcome::kBusy;
    case absl::StatusCode::kDeadlineExceeded:
      return Outcome::kExpired;
    case absl::StatusCode::kCancelled:
      return Outcome::kCancelled;
    default:
      return Outcome::kInvalid;
  }
}

}  // namespace

absl::Status DrainingError() {
  return absl::UnavailableError(
      "the reward service is draining and takes no more work: try again, at another replica");
}

bool Gate::Enter() {
  std::lock_guard lock(mutex_);
  if (closed_) return false;
  ++open_;
  return true;
}

void Gate::Leave() {
  std::lock_guard lock(mutex_);
  if (--open_ == 0) empty_.notify_all();
}

void Gate::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

bool Gate::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

bool Gate::WaitEmpty(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  return empty_.wait_for(lock, absl::ToChronoMilliseconds(deadline - absl::Now()),
                         [this] { return open_ == 0; });
}

absl::Status CallControl::Check() const {
  if (absl::Now() >= deadline) {
    return absl::DeadlineExceededError("the deadline passed before the call's turn came");
  }
  return cancelled ? absl::CancelledError("the caller cancelled") : absl::OkStatus();
}

// Lives until its last part has run.
struct ScoreEngine::BatchWork {
  explicit BatchWork(const v1::ScoreBatchRequest& request) : parts(request), left(parts.count()) {}
  BatchParts parts;
  std::shared_ptr<const CallControl> control;
  Done<v1::ScoreBatchResponse> done;
  absl::Time submitted;
  std::atomic<bool> begun{false};
  std::atomic<size_t> left;
};

ScoreEngine::ScoreEngine(const EngineOptions& options)
    : slow_log_(options.slow, &stats_), pool_(options.threads) {}

void ScoreEngine::CountEnd(const absl::Status& status) { stats_.Count(OutcomeOf(status)); }

void ScoreEngine::Answer(const v1::ScoreBatchRequest& request,
                         std::shared_ptr<const CallControl> control, ScorePool::Line* line,
                         Done<v1::ScoreBatchResponse> done) {
  auto work = std::make_shared<BatchWork>(request);  // owned by the jobs of its parts
  work->control = std::move(control);
  work->done = std::move(done);
  work->submitted = absl::Now();
  std::vector<ScorePool::Job> jobs(work->parts.count());
  for (size_t part = 0; part < jobs.size(); ++part) {
    jobs[part] = {work->parts.cost(part), [this, work, part] { ScorePart(work.get(), part); }};
  }
  if (pool_.Submit(line, std::move(jobs))) return;
  CountEnd(BusyError());
  work->done(BusyError());
}

void ScoreEngine::ScorePart(BatchWork* work, size_t part) {
  const absl::Time start = absl::Now();
  if (!work->begun.exchange(true)) stats_.Record(Stage::kQueue, start - work->submitted);
  const absl::Status wanted = work->control->Check();
  if (wanted.ok()) {
    const absl::Duration cpu = ThreadTime();
    const auto& scored = work->parts.Score(part);
    const absl::Duration took = ThreadTime() - cpu;
    stats_.Record(Stage::kScore, absl::Now() - start);
    if (scored.ok()) {
      slow_log_.Look(work->parts.request(), work->parts.begin(part), work->parts.end(part), *scored,
                     took);
    }
  } else {
    work->parts.Skip(part, wanted);
  }
  if (--work->left > 0) return;
  absl::StatusOr<v1::ScoreBatchResponse> response = work->parts.Join();
  if (response.ok()) stats_.CountScores(*response);
  CountEnd(response.status());
  work->done(std::move(response));
}

void ScoreEngine::Single(size_t cost, std::shared_ptr<const CallControl> control,
                         ScorePool::Line* line, std::function<absl::Status()> work,
                         std::function<void(absl::Status)> done) {
  const absl::Time submitted = absl::Now();
  auto shared_done = std::make_shared<std::function<void(absl::Status)>>(std::move(done));
  const bool taken = pool_.Submit(line, cost, [this, submitted, control, work, shared_done] {
    const absl::Time start = absl::Now();
    stats_.Record(Stage::kQueue, start - submitted);
    absl::Status status = control->Check();
    if (status.ok()) {
      status = work();
      stats_.Record(Stage::kScore, absl::Now() - start);
    }
    CountEnd(status);
    (*shared_done)(std::move(status));
  });
  if (taken) return;
  CountEnd(BusyError());
  (*shared_done)(BusyError());
}

void ScoreEngine::Answer(const v1::ScoreTraceRequest& request,
                         std::shared_ptr<const CallControl> control, ScorePool::Line* line,
                         Done<v1::ScoreTraceResponse> done) {
  auto response = std::make_shared<v1::ScoreTraceResponse>();  // of the work, read when it is done
  Single(
      request.trace().text().size(), std::move(control), line,
      [this, &request, response]() -> absl::Status {
        const absl::Duration cpu = ThreadTime();
        auto result = reward::ScoreTrace(request);
        const absl::Duration took = ThreadTime() - cpu;
        if (!result.ok()) return result.status();
        *response = *std::move(result);
        stats_.CountVerdict(response->score().verdict());
        slow_log_.Look(request.trace(), response->score(), took);
        return absl::OkStatus();
      },
      [response, done = std::move(done)](absl::Status status) {
        if (!status.ok()) return done(std::move(status));
        done(std::move(*response));
      });
}

void ScoreEngine::Answer(const v1::VerifyAnswerRequest& request,
                         std::shared_ptr<const CallControl> control, ScorePool::Line* line,
                         Done<v1::VerifyAnswerResponse> done) {
  auto response = std::make_shared<v1::VerifyAnswerResponse>();  // as above
  Single(
      request.reference().size() + request.answer().size(), std::move(control), line,
      [this, &request, response]() -> absl::Status {
        auto result = reward::Verify(request);
        if (!result.ok()) return result.status();
        *response = *std::move(result);
        stats_.CountVerdict(response->verdict());
        return absl::OkStatus();
      },
      [response, done = std::move(done)](absl::Status status) {
        if (!status.ok()) return done(std::move(status));
        done(std::move(*response));
      });
}

}  // namespace espalier::reward
