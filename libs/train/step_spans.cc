// A pass is a run of forward marks, then of backward ones; each is cut where the layer changes.
#include "libs/train/step_spans.h"

#include <algorithm>

namespace espalier::train {
namespace {

using model::PhaseMark;

v1::TraceSpan* Append(const char* name, int64_t start, int64_t end, observe::SpanId parent,
                      const observe::TraceClock& clock,
                      const std::function<observe::SpanId()>& next_id, v1::RankTrace* trace) {
  v1::TraceSpan* span = trace->add_spans();
  span->set_span_id(next_id());
  span->set_parent_id(parent);
  span->set_name(name);
  span->set_start_unix_nanos(static_cast<uint64_t>(clock.At(start)));
  span->set_end_unix_nanos(static_cast<uint64_t>(clock.At(std::max(start, end))));
  return span;
}

void Number(v1::TraceSpan* span, const char* key, int64_t value) {
  v1::TraceAttribute* attribute = span->add_attributes();
  attribute->set_key(key);
  attribute->set_number(value);
}

int64_t FirstStart(std::span<const PhaseMark> marks) {
  return std::min_element(
             marks.begin(), marks.end(),
             [](const PhaseMark& a, const PhaseMark& b) { return a.start_nanos < b.start_nanos; })
      ->start_nanos;
}

// The phases of one layer, or of none, in one direction. A mark of an exchange stands before the
// phase that it is part of.
void AppendPhases(std::span<const PhaseMark> marks, observe::SpanId parent,
                  const observe::TraceClock& clock, const std::function<observe::SpanId()>& next_id,
                  v1::RankTrace* trace) {
  size_t parts = 0;
  for (size_t i = 0; i < marks.size(); ++i) {
    const PhaseMark& mark = marks[i];
    if (mark.phase == model::Phase::kExchange) {
      ++parts;
      continue;
    }
    v1::TraceSpan* span =
        Append(NameOf(mark.phase), mark.start_nanos, mark.end_nanos, parent, clock, next_id, trace);
    if (mark.tokens >= 0) Number(span, "tokens", mark.tokens);
    const observe::SpanId phase = span->span_id();
    for (; parts > 0; --parts) {
      const PhaseMark& part = marks[i - parts];
      Append(NameOf(part.phase), part.start_nanos, part.end_nanos, phase, clock, next_id, trace);
    }
  }
}

void AppendDirection(std::span<const PhaseMark> marks, const char* name, int64_t start, int64_t end,
                     observe::SpanId parent, const observe::TraceClock& clock,
                     const std::function<observe::SpanId()>& next_id, v1::RankTrace* trace) {
  const observe::SpanId direction =
      Append(name, start, end, parent, clock, next_id, trace)->span_id();
  for (size_t begin = 0; begin < marks.size();) {
    size_t next = begin;
    while (next < marks.size() && marks[next].layer == marks[begin].layer) ++next;
    const auto group = marks.subspan(begin, next - begin);
    observe::SpanId above = direction;
    if (group[0].layer >= 0) {
      v1::TraceSpan* layer = Append("layer", FirstStart(group), group.back().end_nanos, direction,
                                    clock, next_id, trace);
      Number(layer, "layer", group[0].layer);
      above = layer->span_id();
    }
    AppendPhases(group, above, clock, next_id, trace);
    begin = next;
  }
}

}  // namespace

const char* NameOf(model::Phase phase) {
  static const char* const kNames[] = {"attention", "router", "dispatch", "experts",
                                       "combine",   "head",   "exchange"};
  return kNames[static_cast<size_t>(phase)];
}

void AppendPass(std::span<const PhaseMark> marks, int64_t start, int64_t end,
                observe::SpanId parent, const observe::TraceClock& clock,
                const std::function<observe::SpanId()>& next_id, v1::RankTrace* trace) {
  const auto first_backward =
      std::find_if(marks.begin(), marks.end(), [](const PhaseMark& mark) { return mark.backward; });
  const auto count = static_cast<size_t>(first_backward - marks.begin());
  const auto forward = marks.first(count), backward = marks.subspan(count);
  const int64_t middle = backward.empty() ? end : FirstStart(backward);
  if (!forward.empty())
    AppendDirection(forward, "forward", start, middle, parent, clock, next_id, trace);
  if (!backward.empty())
    AppendDirection(backward, "backward", middle, end, parent, clock, next_id, trace);
}

}  // namespace espalier::train
