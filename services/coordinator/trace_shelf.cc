#include "services/coordinator/trace_shelf.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libs/observe/trace_context.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {
namespace {

using observe::Span;

constexpr int kSpansMax = 100'000;

Span Child(const Span& parent, observe::SpanId id, const char* name, int64_t start, int64_t end) {
  Span span;
  span.trace = parent.trace;
  span.span = id;
  span.parent = parent.span;
  span.name = name;
  // What another clock says is held within what this one saw.
  span.start_nanos = std::clamp(start, parent.start_nanos, parent.end_nanos);
  span.end_nanos = std::clamp(end, span.start_nanos, parent.end_nanos);
  return span;
}

std::string Word(const std::string& name, const char* prefix) {
  return absl::AsciiStrToLower(name.substr(std::string(prefix).size()));
}

}  // namespace

Span StepRootSpan::ToSpan(const std::string& run, uint32_t rank_count) const {
  Span span;
  span.trace = observe::TraceOfStep(run, step);
  span.span = observe::StepRoot(run, epoch, step);
  span.name = "step";
  span.start_nanos = start_nanos;
  span.end_nanos = end_nanos;
  span.attributes = {{"run", run},
                     {"step", static_cast<int64_t>(step)},
                     {"epoch", static_cast<int64_t>(epoch)},
                     {"ranks", static_cast<int64_t>(rank_count)},
                     {"reason", Word(v1::TraceReason_Name(reason), "TRACE_REASON_")}};
  if (ranks.size() < rank_count)
    span.error = absl::StrCat("the spans of ", rank_count - ranks.size(), " ranks did not come");
  return span;
}

std::vector<uint64_t> TraceShelf::Keep(uint64_t step, uint64_t bytes) {
  bytes_[step] += bytes;
  total_bytes_ += bytes;
  std::vector<uint64_t> gone;
  // The newest stays, whatever it weighs.
  while (bytes_.size() > 1 && (bytes_.size() > kStepsMax || total_bytes_ > kBytesMax)) {
    gone.push_back(bytes_.begin()->first);
    total_bytes_ -= bytes_.begin()->second;
    bytes_.erase(bytes_.begin());
  }
  return gone;
}

std::vector<StepRootSpan> TraceShelf::Join(const v1::RankTrace& trace, uint32_t rank_count) {
  const auto start = static_cast<int64_t>(trace.spans(0).start_unix_nanos());
  const auto end = static_cast<int64_t>(trace.spans(0).end_unix_nanos());
  StepRootSpan& root = open_[trace.step()];
  if (root.epoch != trace.epoch()) {
    root = {.epoch = trace.epoch(), .step = trace.step(), .start_nanos = start, .end_nanos = end};
  }
  root.reason = trace.reason();
  root.start_nanos = std::min(root.start_nanos, start);
  root.end_nanos = std::max(root.end_nanos, end);
  root.ranks.insert(trace.rank());
  std::vector<StepRootSpan> done;
  if (root.ranks.size() >= rank_count) {
    done.push_back(root);
    open_.erase(trace.step());
  }
  while (open_.size() > kOpenMax) {
    done.push_back(open_.begin()->second);
    open_.erase(open_.begin());
  }
  return done;
}

std::vector<StepRootSpan> TraceShelf::TakeOpen() {
  std::vector<StepRootSpan> roots;
  for (auto& [step, root] : open_) roots.push_back(std::move(root));
  open_.clear();
  return roots;
}

absl::Status CheckTrace(const v1::RankTrace& trace, uint32_t rank_count) {
  if (trace.rank() >= rank_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("trace.rank: ", trace.rank(), "; the run has ", rank_count));
  }
  if (trace.step() == 0) return absl::InvalidArgumentError("trace.step: 0; steps count from 1");
  if (trace.spans_size() == 0 || trace.spans_size() > kSpansMax) {
    return absl::InvalidArgumentError(absl::StrCat("trace.spans: ", trace.spans_size(),
                                                   " of them; allowed are 1 to ", kSpansMax));
  }
  for (const v1::TraceSpan& span : trace.spans()) {
    if (span.span_id() == 0 || span.end_unix_nanos() < span.start_unix_nanos()) {
      return absl::InvalidArgumentError(absl::StrCat("trace.spans: \"", span.name(), "\" of step ",
                                                     trace.step(),
                                                     " has no id, or ends before it starts"));
    }
  }
  return absl::OkStatus();
}

std::vector<Span> DecisionSpans(const v1::Decision& decision, const DecisionTimes& times,
                                int64_t now_nanos) {
  const std::string &run = decision.run_id(), &id = decision.decision_id();
  const int64_t created = absl::ToUnixNanos(FromProto(decision.create_time()));
  const int64_t made = times.made_nanos > 0 ? times.made_nanos : created;
  Span root;
  root.trace = observe::TraceOfDecision(run, id);
  root.span = observe::DecisionRoot(run, id);
  root.name = "decision";
  root.start_nanos = times.asked_nanos > 0 ? std::min(times.asked_nanos, made) : made;
  root.end_nanos = std::max(now_nanos, made);
  root.error = decision.error();
  root.attributes = {{"run", run},
                     {"decision", id},
                     {"origin", decision.origin()},
                     {"state", Word(v1::DecisionState_Name(decision.state()), "DECISION_STATE_")},
                     {"experts_pruned", static_cast<int64_t>(decision.plan().experts_pruned())},
                     {"experts_moved", static_cast<int64_t>(decision.plan().experts_moved())},
                     {"step_seconds_predicted", decision.plan().step_seconds_predicted()}};
  if (decision.has_step_seconds_realised())
    root.attributes.emplace_back("step_seconds_realised", decision.step_seconds_realised());
  std::vector<Span> spans = {
      root, Child(root, observe::ChildOf(root.span, 0), "propose", root.start_nanos, made)};
  int64_t applied = made;
  for (const auto& [sequence, from] : times.commands) {
    const int64_t end = from.applied_nanos > 0 ? from.applied_nanos : root.end_nanos;
    applied = std::max(applied, end);
    Span command =
        Child(root, observe::CommandSpan(run, sequence), "command", from.stored_nanos, end);
    command.attributes = {{"sequence", static_cast<int64_t>(sequence)}, {"action", from.action}};
    if (from.applied_nanos > 0)
      command.attributes.emplace_back("step", static_cast<int64_t>(from.applied_step));
    spans.push_back(command);
    for (const DecisionTimes::Apply& one : from.applies) {
      Span apply = Child(command, observe::ChildOf(command.span, one.rank), "apply",
                         one.start_nanos, one.end_nanos);
      apply.attributes = {{"rank", static_cast<int64_t>(one.rank)}};
      apply.links = {{observe::TraceOfStep(run, from.applied_step),
                      observe::RankRoot(run, from.epoch, from.applied_step, one.rank), true}};
      spans.push_back(apply);
    }
  }
  if (decision.has_step_seconds_realised())
    spans.push_back(Child(root, observe::ChildOf(root.span, 1), "verify", applied, root.end_nanos));
  return spans;
}

}  // namespace espalier::coordinator
