// What a caller sent is escaped and cut before it is written: a log line stays one line.
#include "services/reward/slow_log.h"

#include <time.h>

#include <algorithm>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "libs/observe/log.h"
#include "services/reward/convert.h"

namespace espalier::reward {
namespace {

constexpr size_t kExcerptBytes = 80;

std::string Excerpt(const std::string& text) {
  size_t size = std::min(text.size(), kExcerptBytes);
  while (size < text.size() && size > 0 && (text[size] & 0xC0) == 0x80) --size;
  return absl::Utf8SafeCEscape(absl::string_view(text).substr(0, size));
}

}  // namespace

absl::Duration ThreadTime() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

void SlowLog::Look(const v1::ScoreBatchRequest& request, int begin, int end,
                   const v1::ScoreBatchResponse& scored, absl::Duration cpu) {
  if (cpu < threshold_ || scored.scores_size() != end - begin) return;
  if (end - begin == 1) return Write(request.traces(begin), scored.scores(0), cpu);
  if (!MayRepeat()) return;
  for (int i = begin; i < end; ++i) {
    v1::ScoreBatchRequest alone;
    alone.set_reference(request.reference());
    alone.set_prompt(request.prompt());
    *alone.mutable_reward() = request.reward();
    *alone.add_traces() = request.traces(i);
    const absl::Duration start = ThreadTime();
    const auto again = ScoreBatch(alone);
    const absl::Duration took = ThreadTime() - start;
    if (again.ok() && took >= threshold_) Write(request.traces(i), scored.scores(i - begin), took);
  }
}

void SlowLog::Write(const v1::Trace& trace, const v1::Score& score, absl::Duration cpu) {
  stats_->CountSlow();
  if (!MayWrite()) return;
  LOG(WARNING) << "slow_sample id=\"" << Excerpt(trace.trace_id())
               << "\" bytes=" << trace.text().size()
               << " verdict=" << v1::Verdict_Name(score.verdict()) << " rule=" << score.rule()
               << " ms=" << absl::ToDoubleMilliseconds(cpu) << " text=\"" << Excerpt(trace.text())
               << "\"";
}

bool SlowLog::MayWrite() {
  std::lock_guard lock(mutex_);
  const absl::Time now = absl::Now();
  if (now - second_ >= absl::Seconds(1)) {
    if (held_back_ > 0) LOG(WARNING) << "slow_samples_held_back count=" << held_back_;
    second_ = now;
    lines_ = held_back_ = 0;
  }
  if (lines_ < kLinesMax) {
    ++lines_;
    return true;
  }
  ++held_back_;
  return false;
}

bool SlowLog::MayRepeat() {
  std::lock_guard lock(mutex_);
  const absl::Time now = absl::Now();
  if (now < repeat_after_) return false;
  repeat_after_ = now + absl::Seconds(1);
  return true;
}

}  // namespace espalier::reward
