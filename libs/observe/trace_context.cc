// Ids by SHA-256, so that any language can derive them; traceparent by hand, for it is 55 bytes.
#include "libs/observe/trace_context.h"

#include <openssl/sha.h>

#include <chrono>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace espalier::observe {
namespace {

thread_local const CurrentTrace* current_trace = nullptr;

using Digest = std::array<uint8_t, SHA256_DIGEST_LENGTH>;

template <typename... Parts>
Digest Hash(const char* kind, const Parts&... parts) {
  std::string text = absl::StrCat("espalier ", kind);
  (absl::StrAppend(&text, " ", parts), ...);
  Digest digest;
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), digest.data());
  return digest;
}

absl::string_view Of(std::string_view text) { return {text.data(), text.size()}; }

TraceId TraceFrom(const Digest& digest) {
  TraceId id;
  std::copy_n(digest.begin(), id.bytes.size(), id.bytes.begin());
  return id;
}

SpanId SpanFrom(const Digest& digest) {
  SpanId id = 0;
  for (int i = 0; i < 8; ++i) id = id << 8 | digest[i];
  return id == 0 ? 1 : id;
}

// Lower-case digits of a number; false for anything else.
bool ReadHex(std::string_view text, uint8_t* bytes) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i / 2] = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

}  // namespace

std::string TraceId::Hex() const {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

TraceId TraceOfStep(std::string_view run, uint64_t step) {
  return TraceFrom(Hash("step", Of(run), step));
}
TraceId TraceOfDecision(std::string_view run, std::string_view decision) {
  return TraceFrom(Hash("decision", Of(run), Of(decision)));
}
SpanId StepRoot(std::string_view run, uint64_t epoch, uint64_t step) {
  return SpanFrom(Hash("step-root", Of(run), epoch, step));
}
SpanId RankRoot(std::string_view run, uint64_t epoch, uint64_t step, uint32_t rank) {
  return SpanFrom(Hash("rank-root", Of(run), epoch, step, rank));
}
SpanId DecisionRoot(std::string_view run, std::string_view decision) {
  return SpanFrom(Hash("decision-root", Of(run), Of(decision)));
}
SpanId CommandSpan(std::string_view run, uint64_t sequence) {
  return SpanFrom(Hash("command", Of(run), sequence));
}

SpanId ChildOf(SpanId parent, uint64_t index) {
  // SplitMix64's finalizer: different indices beneath one parent never meet.
  uint64_t z = parent + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return z == 0 ? 1 : z;
}

SpanId RandomSpanId() {
  thread_local std::mt19937_64 random(std::random_device{}());
  const SpanId id = random();
  return id == 0 ? 1 : id;
}

std::string FormatTraceparent(const SpanContext& context) {
  return absl::StrFormat("00-%s-%016x-%02x", context.trace.Hex(), context.span,
                         context.sampled ? 1 : 0);
}

std::optional<SpanContext> ParseTraceparent(std::string_view text) {
  constexpr size_t kSize = 55;
  if (text.size() < kSize || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  uint8_t version = 0, flags = 0;
  std::array<uint8_t, 8> span{};
  SpanContext context;
  if (!ReadHex(text.substr(0, 2), &version) ||
      !ReadHex(text.substr(3, 32), context.trace.bytes.data()) ||
      !ReadHex(text.substr(36, 16), span.data()) || !ReadHex(text.substr(53, 2), &flags)) {
    return std::nullopt;
  }
  if (version == 0xff || (version == 0 && text.size() != kSize)) return std::nullopt;
  if (text.size() > kSize && text[kSize] != '-') return std::nullopt;
  for (const uint8_t byte : span) context.span = context.span << 8 | byte;
  context.sampled = (flags & 1) != 0;
  if (!context.valid()) return std::nullopt;
  return context;
}

int64_t TraceClock::SteadyNanos() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

TraceClock TraceClock::Make(int64_t correction_nanos) {
  const int64_t wall =
      std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  return {wall - SteadyNanos() + correction_nanos};
}

const CurrentTrace* GetCurrentTrace() { return current_trace; }

TraceScope::TraceScope(CurrentTrace current)
    : current_(std::move(current)), before_(current_trace) {
  current_trace = &current_;
}
TraceScope::~TraceScope() { current_trace = before_; }

}  // namespace espalier::observe
