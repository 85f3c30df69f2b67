// Who a span is and where it hangs: ids, W3C traceparent, and the span that this thread works for.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace espalier::observe {

// Sixteen bytes; all zero is no trace. Hex() is 32 lower-case digits.
struct TraceId {
  std::array<uint8_t, 16> bytes{};
  bool valid() const { return *this != TraceId{}; }
  std::string Hex() const;
  friend bool operator==(const TraceId&, const TraceId&) = default;
};

// 0 is no span. Big-endian on the wire: its hex digits are those of the number.
using SpanId = uint64_t;

struct SpanContext {
  TraceId trace;
  SpanId span = 0;
  bool sampled = false;
  bool valid() const { return trace.valid() && span != 0; }
};

// The trace of one step of a run: the first 16 bytes of SHA-256("espalier step RUN STEP"), so that
// every process knows it without being told.
TraceId TraceOfStep(std::string_view run, uint64_t step);
// Likewise of a decision: "espalier decision RUN DECISION".
TraceId TraceOfDecision(std::string_view run, std::string_view decision);
// Root of a step's trace, and what each rank hangs beneath it. An epoch that repeats a step adds
// spans of its own to the trace.
SpanId StepRoot(std::string_view run, uint64_t epoch, uint64_t step);
SpanId RankRoot(std::string_view run, uint64_t epoch, uint64_t step, uint32_t rank);
// A decision's root, and the span of one of its commands, to which each rank's step links.
SpanId DecisionRoot(std::string_view run, std::string_view decision);
SpanId CommandSpan(std::string_view run, uint64_t sequence);
// The `index`-th span beneath `parent`; never 0.
SpanId ChildOf(SpanId parent, uint64_t index);
// For spans that nobody else need know. Thread-safe.
SpanId RandomSpanId();

// "00-<32 hex>-<16 hex>-<2 hex>".
std::string FormatTraceparent(const SpanContext& context);
// Absent for what the W3C recommendation calls invalid: other lengths, upper case, zero ids,
// version ff. Later versions are read as far as they are known.
std::optional<SpanContext> ParseTraceparent(std::string_view text);

// Nanoseconds since 1970 that never jump within one clock: the steady clock plus a constant, which
// carries the correction to the coordinator's clock.
struct TraceClock {
  int64_t base = 0;
  static int64_t SteadyNanos();
  static TraceClock Make(int64_t correction_nanos);
  int64_t Now() const { return SteadyNanos() + base; }
  int64_t At(int64_t steady_nanos) const { return steady_nanos + base; }
};

class SpanSink;

// What this thread works for. Outgoing calls carry it, and their spans go to `sink`.
struct CurrentTrace {
  SpanContext context;
  TraceClock clock;
  std::shared_ptr<SpanSink> sink;  // shared with calls that outlive the scope; may be null
};

// Null outside any scope.
const CurrentTrace* GetCurrentTrace();

// Makes `current` this thread's own for a while.
class TraceScope {
 public:
  explicit TraceScope(CurrentTrace current);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  const CurrentTrace current_;
  const CurrentTrace* const before_;
};

}  // namespace espalier::observe
