// Span: one timed piece of work of a trace, and SpanSink, where finished ones go.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "libs/observe/trace_context.h"

namespace espalier::observe {

using AttributeValue = std::variant<int64_t, double, std::string>;
using Attribute = std::pair<std::string, AttributeValue>;

enum class SpanKind { kInternal, kServer, kClient };

// Never holds a secret: names, counts and times alone.
struct Span {
  TraceId trace;
  SpanId span = 0;
  SpanId parent = 0;  // 0: a root
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  int64_t start_nanos = 0, end_nanos = 0;  // since 1970, on the coordinator's clock
  std::vector<Attribute> attributes;
  std::vector<SpanContext> links;
  std::string error;  // non-empty: the work failed, and why
};

// Thread-safe.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  // Returns at once, whatever becomes of the spans.
  virtual void Add(std::vector<Span> spans) = 0;
};

}  // namespace espalier::observe
