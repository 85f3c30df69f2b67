// Every function reads each byte a bounded number of times, so that hostile text costs no more than
// text.
#include "libs/reward/scan.h"

#include <algorithm>

namespace espalier::reward {
namespace {

// A formula longer than this is taken for a stray delimiter.
constexpr size_t kMathBytesMax = 600;

constexpr absl::string_view kIdeographicStop = "\xE3\x80\x82", kDanda = "\xE0\xA5\xA4";

bool EndsSentence(absl::string_view text, size_t dot) {
  if (dot + 1 >= text.size()) return true;
  const char next = text[dot + 1];
  if (IsSpace(next)) return true;
  const char previous = dot == 0 ? ' ' : text[dot - 1];
  if (IsDigit(previous)) return !IsDigit(next) && !IsWordByte(next) ? next != ',' : IsUpper(next);
  return next == '<' || next == '*' || next == '"' || next == '$' || next == '\\' || next == ')';
}

}  // namespace

bool HoldsAt(absl::string_view text, size_t at, absl::string_view lowercase) {
  if (at > text.size() || text.size() - at < lowercase.size()) return false;
  for (size_t i = 0; i < lowercase.size(); ++i) {
    if (Lower(text[at + i]) != lowercase[i]) return false;
  }
  return true;
}

size_t FindWithoutCase(absl::string_view text, absl::string_view lowercase, size_t from) {
  for (size_t at = from; at + lowercase.size() <= text.size(); ++at) {
    if (HoldsAt(text, at, lowercase)) return at;
  }
  return absl::string_view::npos;
}

absl::string_view Trim(absl::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

size_t SkipSpace(absl::string_view text, size_t at) {
  while (at < text.size() && IsSpace(text[at])) ++at;
  return at;
}

size_t MatchBrace(absl::string_view text, size_t open) {
  int depth = 0;
  for (size_t at = open; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;
    } else if (text[at] == '{') {
      ++depth;
    } else if (text[at] == '}' && --depth == 0) {
      return at;
    }
  }
  return absl::string_view::npos;
}

MathRegion MathAt(absl::string_view text, size_t at) {
  absl::string_view open, close;
  if (text[at] == '$') {
    open = close = at + 1 < text.size() && text[at + 1] == '$' ? "$$" : "$";
  } else if (text[at] == '\\' && at + 1 < text.size() && text[at + 1] == '(') {
    open = "\\(", close = "\\)";
  } else if (text[at] == '\\' && at + 1 < text.size() && text[at + 1] == '[') {
    open = "\\[", close = "\\]";
  } else {
    return {};
  }
  const absl::string_view reach = text.substr(0, std::min(text.size(), at + kMathBytesMax));
  size_t end = at + open.size();
  while (true) {
    end = reach.find(close, end);
    if (end == absl::string_view::npos) return {};
    // "\$" is money inside a formula, not its end.
    if (close[0] != '$' || reach[end - 1] != '\\') break;
    ++end;
  }
  MathRegion region;
  region.begin = at;
  region.size = end + close.size() - at;
  region.inner = at + open.size();
  region.inner_size = end - region.inner;
  return region;
}

SentenceEnd FindSentenceEnd(absl::string_view text, size_t at) {
  while (at < text.size()) {
    const char c = text[at];
    if (c == '\n') return {at, at + 1};
    if (c == '$' || c == '\\') {
      const MathRegion region = MathAt(text, at);
      // "costs $5. Then $6" is money: a formula does not run over the end of a sentence's line.
      const bool skip = region.size > 0 && (c == '\\' || text.substr(at, region.size).find(". ") ==
                                                             absl::string_view::npos);
      at += skip ? region.size : 1 + (c == '\\' && at + 1 < text.size());
      continue;
    }
    if (c == '.' && EndsSentence(text, at)) return {at, at + 1};
    if (c == '?') return {at, at + 1};
    if (c == '!' && at > 0 && IsLetter(text[at - 1]) &&
        (at + 1 == text.size() || IsSpace(text[at + 1]))) {
      return {at, at + 1};
    }
    if (c == '<' && at + 1 < text.size() && (text[at + 1] == '|' || text[at + 1] == '/'))
      return {at, at};
    if (text.substr(at, 3) == kIdeographicStop || text.substr(at, 3) == kDanda) return {at, at + 3};
    ++at;
  }
  return {text.size(), text.size()};
}

}  // namespace espalier::reward
