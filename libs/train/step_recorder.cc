// Two steps are kept: the one under way, and the last, which the next exchange may find slow.
#include "libs/train/step_recorder.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "libs/train/step_spans.h"

namespace espalier::train {
namespace {

using observe::SpanId;

std::string StageLabel(v1::StageKind stage) {
  return absl::AsciiStrToLower(v1::StageKind_Name(stage).substr(sizeof("STAGE_KIND_") - 1));
}

void Set(v1::TraceSpan* span, const observe::Attribute& from) {
  v1::TraceAttribute* to = span->add_attributes();
  to->set_key(from.first);
  if (const auto* number = std::get_if<int64_t>(&from.second)) to->set_number(*number);
  if (const auto* real = std::get_if<double>(&from.second)) to->set_real(*real);
  if (const auto* text = std::get_if<std::string>(&from.second)) to->set_text(*text);
}

}  // namespace

// Spans of the calls of one step.
class StepRecorder::Calls final : public observe::SpanSink {
 public:
  static constexpr size_t kCallsMax = 4096;
  void Add(std::vector<observe::Span> spans) override {
    std::lock_guard lock(mutex_);
    for (observe::Span& span : spans) {
      if (spans_.size() < kCallsMax) spans_.push_back(std::move(span));
    }
  }
  std::vector<observe::Span> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(spans_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<observe::Span> spans_;  // guarded by mutex_
};

StepRecorder::StepRecorder() = default;
StepRecorder::~StepRecorder() = default;

void StepRecorder::Start(const v1::Assignment& assignment, uint32_t rank,
                         TrainController* controller) {
  sampler_ = observe::StepSampler(assignment.trace_every());
  controller_ = controller;
  run_ = assignment.run_id();
  epoch_ = assignment.epoch();
  rank_ = rank;
}

void StepRecorder::BeginStep(uint64_t step, v1::StageKind stage) {
  if (!on()) return;
  in_step_ = true;
  has_command_ = false;
  open_ = -1;
  if (stage != stage_) sampler_.Forget();
  stage_ = stage;
  step_.facts = controller_->Clock();
  clock_ = step_.clock = observe::TraceClock::Make(step_.facts.correction_nanos);
  step_.number = step;
  step_.stage = stage;
  step_.start = observe::TraceClock::SteadyNanos();
  step_.slow = step_.told = false;
  step_.entries.clear();
  entries_left_out_ = 0;
  timeline_.Clear();
  timeline_.Want(sampler_.Regular(step));
  trace_ = observe::TraceOfStep(run_, step);
  root_ = observe::RankRoot(run_, epoch_, step, rank_);
  calls_ = std::make_shared<Calls>();
}

void StepRecorder::StepDone() {
  if (!in_step_) return;
  // All ranks end a step together, so that one of them can judge for all.
  const bool slow = sampler_.Slow(observe::TraceClock::SteadyNanos() - step_.start);
  step_.slow = slow && rank_ == 0;
}

void StepRecorder::EndStep() {
  if (!in_step_) return;
  in_step_ = false;
  step_.end = observe::TraceClock::SteadyNanos();
  step_.marks = timeline_.marks();
  step_.left_out = timeline_.left_out() + entries_left_out_;
  step_.calls = calls_->Take();
  std::swap(step_, before_);
  if (has_command_) {
    Tell(before_, v1::TRACE_REASON_COMMAND);
  } else if (sampler_.Regular(before_.number)) {
    Tell(before_, v1::TRACE_REASON_EVERY);
  } else {
    return;
  }
  before_.told = true;
}

int64_t StepRecorder::SlowVote() const { return before_.slow ? -1 : 0; }

void StepRecorder::Hear(int64_t least) {
  if (!on() || before_.told) return;
  before_.told = true;
  before_.slow = false;
  if (least < 0) Tell(before_, v1::TRACE_REASON_SLOW);
}

int StepRecorder::Open(const char* name) {
  if (!in_step_) return -1;
  if (step_.entries.size() >= kEntriesMax) {
    ++entries_left_out_;
    return -1;
  }
  Entry entry;
  entry.name = name;
  entry.parent = open_;
  entry.start = entry.end = observe::TraceClock::SteadyNanos();
  step_.entries.push_back(std::move(entry));
  return open_ = static_cast<int>(step_.entries.size()) - 1;
}

void StepRecorder::Close(int index) {
  step_.entries[index].end = observe::TraceClock::SteadyNanos();
  open_ = step_.entries[index].parent;
}

void StepRecorder::Tell(const Step& step, v1::TraceReason reason) {
  v1::RankTrace trace;
  trace.set_step(step.number);
  trace.set_reason(reason);
  trace.set_clock_correction_nanos(step.facts.correction_nanos);
  trace.set_clock_error_nanos(step.facts.error_nanos);
  trace.set_spans_left_out(step.left_out);
  const SpanId root = observe::RankRoot(run_, epoch_, step.number, rank_);
  uint64_t next = step.entries.size();
  const auto next_id = [&] { return observe::ChildOf(root, next++); };
  v1::TraceSpan* whole = trace.add_spans();
  whole->set_span_id(root);
  whole->set_parent_id(observe::StepRoot(run_, epoch_, step.number));
  whole->set_name("rank");
  whole->set_start_unix_nanos(static_cast<uint64_t>(step.clock.At(step.start)));
  whole->set_end_unix_nanos(static_cast<uint64_t>(step.clock.At(step.end)));
  Set(whole, {"rank", static_cast<int64_t>(rank_)});
  Set(whole, {"step", static_cast<int64_t>(step.number)});
  Set(whole, {"stage", StageLabel(step.stage)});
  for (size_t i = 0; i < step.entries.size(); ++i) {
    const Entry& entry = step.entries[i];
    v1::TraceSpan* span = trace.add_spans();
    span->set_span_id(observe::ChildOf(root, i));
    span->set_parent_id(entry.parent < 0 ? root : observe::ChildOf(root, entry.parent));
    span->set_name(entry.name);
    span->set_start_unix_nanos(static_cast<uint64_t>(step.clock.At(entry.start)));
    span->set_end_unix_nanos(static_cast<uint64_t>(step.clock.At(entry.end)));
    for (const observe::Attribute& attribute : entry.attributes) Set(span, attribute);
    for (const observe::SpanContext& link : entry.links) {
      span->add_links()->set_trace_id(link.trace.bytes.data(), link.trace.bytes.size());
      span->mutable_links()->rbegin()->set_span_id(link.span);
    }
    if (entry.marks_end > entry.marks_begin) {
      const auto marks =
          std::span(step.marks).subspan(entry.marks_begin, entry.marks_end - entry.marks_begin);
      AppendPass(marks, entry.start, entry.end, span->span_id(), step.clock, next_id, &trace);
    }
  }
  for (const observe::Span& call : step.calls) {
    v1::TraceSpan* span = trace.add_spans();
    span->set_span_id(call.span);
    span->set_parent_id(call.parent);
    span->set_name(call.name);
    span->set_start_unix_nanos(static_cast<uint64_t>(call.start_nanos));
    span->set_end_unix_nanos(static_cast<uint64_t>(call.end_nanos));
    span->set_client(true);
    span->set_error(call.error);
    for (const observe::Attribute& attribute : call.attributes) Set(span, attribute);
  }
  controller_->Trace(std::move(trace));
}

StepRecorder::Phase::Phase(StepRecorder& recorder, const char* name)
    : recorder_(recorder), index_(recorder.Open(name)) {}

void StepRecorder::Phase::End() {
  if (index_ >= 0) recorder_.Close(index_);
  index_ = -1;
}

void StepRecorder::Phase::Set(const char* key, observe::AttributeValue value) {
  if (index_ >= 0) recorder_.step_.entries[index_].attributes.emplace_back(key, std::move(value));
}

void StepRecorder::Phase::Link(const observe::SpanContext& span) {
  if (index_ >= 0) recorder_.step_.entries[index_].links.push_back(span);
}

observe::CurrentTrace StepRecorder::Phase::current() const {
  if (index_ < 0) return {};
  // A step that turns out slow, or gets a command, is told without the spans of its callees.
  return {{recorder_.trace_, recorder_.IdOf(index_),
           recorder_.sampler_.Regular(recorder_.step_.number)},
          recorder_.clock_,
          recorder_.calls_};
}

StepRecorder::Pass::Pass(StepRecorder& recorder, const char* name)
    : Phase(recorder, name), marks_begin_(recorder.timeline_.marks().size()) {}

void StepRecorder::Pass::End() {
  if (index_ >= 0) {
    Entry& entry = recorder_.step_.entries[index_];
    entry.marks_begin = marks_begin_;
    entry.marks_end = recorder_.timeline_.marks().size();
  }
  Phase::End();
}

}  // namespace espalier::train
