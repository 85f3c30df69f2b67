#include "services/worker/rank_spans.h"

#include <algorithm>

namespace espalier::worker {
namespace {

observe::Attribute AttributeOf(const v1::TraceAttribute& attribute) {
  switch (attribute.value_case()) {
    case v1::TraceAttribute::kNumber:
      return {attribute.key(), attribute.number()};
    case v1::TraceAttribute::kReal:
      return {attribute.key(), attribute.real()};
    default:
      return {attribute.key(), attribute.text()};
  }
}

observe::SpanContext LinkOf(const v1::TraceLink& link) {
  observe::SpanContext context;
  std::copy_n(link.trace_id().begin(), std::min(link.trace_id().size(), context.trace.bytes.size()),
              context.trace.bytes.begin());
  context.span = link.span_id();
  context.sampled = true;
  return context;
}

}  // namespace

std::vector<observe::Span> SpansOf(const v1::RankTrace& trace) {
  const observe::TraceId id = observe::TraceOfStep(trace.run_id(), trace.step());
  std::vector<observe::Span> spans;
  spans.reserve(static_cast<size_t>(trace.spans_size()));
  for (const v1::TraceSpan& from : trace.spans()) {
    observe::Span& span = spans.emplace_back();
    span.trace = id;
    span.span = from.span_id();
    span.parent = from.parent_id();
    span.name = from.name();
    span.kind = from.client() ? observe::SpanKind::kClient : observe::SpanKind::kInternal;
    span.start_nanos = static_cast<int64_t>(from.start_unix_nanos());
    span.end_nanos = static_cast<int64_t>(from.end_unix_nanos());
    for (const v1::TraceAttribute& attribute : from.attributes())
      span.attributes.push_back(AttributeOf(attribute));
    for (const v1::TraceLink& link : from.links()) span.links.push_back(LinkOf(link));
    span.error = from.error();
  }
  if (!spans.empty()) spans.front().attributes.emplace_back("run", trace.run_id());
  return spans;
}

}  // namespace espalier::worker
