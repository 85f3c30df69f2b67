// Explicit commitments first (the last box, "####" or answer phrase); without one, ever weaker
// guesses, each named by its rule.
#include "libs/reward/extract.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "libs/reward/expression.h"
#include "libs/reward/plain_number.h"
#include "libs/reward/scan.h"
#include "libs/reward/statements.h"

namespace espalier::reward {
namespace {

constexpr size_t kNone = absl::string_view::npos;
// Longer texts are no answers by themselves.
constexpr size_t kWholeBytesMax = 400;
// Formulas are looked for in the end of a text only.
constexpr size_t kTailBytes = 4000;

constexpr std::array<absl::string_view, 3> kThinkOpen = {"<think>", "<thinking>", "<reasoning>"};
constexpr std::array<absl::string_view, 3> kThinkClose = {"</think>", "</thinking>",
                                                          "</reasoning>"};
constexpr std::array<absl::string_view, 7> kTurnMarks = {
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "</s>", "<|user|>"};

Extraction Make(absl::string_view trace, absl::string_view part, const char* rule) {
  Extraction extraction;
  extraction.text = std::string(part);
  extraction.begin = part.data() - trace.data();
  extraction.end = extraction.begin + static_cast<int64_t>(part.size());
  extraction.rule = rule;
  extraction.found = true;
  return extraction;
}

// "correct" in "I hope the answer is correct" is no answer: one has a digit, a formula, or next to
// no letters.
bool LooksLikeAnswer(absl::string_view text) {
  if (text.size() <= 3) return true;
  for (const char c : text) {
    if (IsDigit(c) || c == '\\' || c == '$' || c == '=') return true;
  }
  return false;
}

// The statement that counts: the last, unless it is an empty phrase of words after something
// definite.
const Statement* Choose(const std::vector<Statement>& statements) {
  for (auto last = statements.rbegin(); last != statements.rend(); ++last) {
    if (absl::string_view(last->rule) != "answer_phrase" || LooksLikeAnswer(last->text))
      return &*last;
  }
  return statements.empty() ? nullptr : &statements.back();
}

struct Range {
  size_t begin = 0, end = 0;
};

// The last number of the text with its sign, separators, fraction bar and percent sign.
Range FindLastNumber(absl::string_view text) {
  size_t end = text.size();
  while (end > 0 && !IsDigit(text[end - 1])) --end;
  if (end == 0) return {};
  size_t begin = end - 1;
  while (begin > 0) {
    const char c = text[begin - 1];
    const bool joins = IsDigit(c) ||
                       ((c == '.' || c == ',') && begin >= 2 && IsDigit(text[begin - 2])) ||
                       (c == '.' && (begin < 2 || !IsWordByte(text[begin - 2]))) ||
                       (c == '/' && begin >= 2 && IsDigit(text[begin - 2]));
    if (!joins) break;
    --begin;
  }
  const bool sign = begin > 0 && text[begin - 1] == '-' &&
                    (begin == 1 || !(IsWordByte(text[begin - 2]) || IsDigit(text[begin - 2]) ||
                                     text[begin - 2] == ')'));
  if (sign) --begin;
  if (end < text.size() && text[end] == '%') ++end;
  return {begin, end};
}

// The last formula of the text; `size` is 0 when there is none near its end.
MathRegion FindLastMath(absl::string_view text) {
  MathRegion last;
  // From the start of a line, since formulas seldom run over one.
  size_t at = text.size() > kTailBytes ? text.size() - kTailBytes : 0;
  if (at > 0) at = std::min(text.find('\n', at), text.size());
  while (at < text.size()) {
    const MathRegion region = MathAt(text, at);
    if (region.size == 0) {
      ++at;
      continue;
    }
    if (!Trim(text.substr(region.inner, region.inner_size)).empty()) last = region;
    at += region.size;
  }
  return last;
}

Extraction Guess(absl::string_view trace, absl::string_view part) {
  const absl::string_view text = Trim(part);
  if (text.empty()) return {};
  if (text.size() <= kWholeBytesMax && ReadsAsExpression(text)) return Make(trace, text, "whole");
  const MathRegion math = FindLastMath(text);
  const Range number = FindLastNumber(text);
  if (math.size > 0 && math.begin + math.size >= number.end &&
      text.size() - (math.begin + math.size) <= 200) {
    return Make(trace, text.substr(math.begin, math.size), "last_formula");
  }
  if (number.end > 0)
    return Make(trace, text.substr(number.begin, number.end - number.begin), "last_number");
  if (text.size() <= kWholeBytesMax) return Make(trace, text, "text");
  return {};
}

}  // namespace

absl::string_view CommittedPart(absl::string_view trace) {
  size_t closed = 0, opened = kNone;
  for (const absl::string_view close : kThinkClose) {
    const size_t at = trace.rfind(close);
    if (at != kNone) closed = std::max(closed, at + close.size());
  }
  for (const absl::string_view open : kThinkOpen) {
    const size_t at = trace.rfind(open);
    if (at != kNone && (opened == kNone || at > opened)) opened = at;
  }
  if (opened != kNone && opened >= closed) return trace.substr(trace.size());
  absl::string_view part = trace.substr(closed);
  size_t end = part.size();
  for (const absl::string_view mark : kTurnMarks) {
    const size_t at = part.find(mark);
    // A mark at the very start opens this turn.
    if (at != kNone && !Trim(part.substr(0, at)).empty()) end = std::min(end, at);
  }
  return part.substr(0, end);
}

bool IsMarked(absl::string_view rule) {
  return rule == "boxed" || rule == "hash" || rule == "answer_phrase" || rule == "answer_tag";
}

bool IsExplicit(absl::string_view rule) { return IsMarked(rule) || rule == "whole"; }

Extraction ExtractAnswer(absl::string_view trace) {
  absl::string_view part = CommittedPart(trace);
  bool tagged = false;
  const size_t tag = part.rfind("<answer>");
  if (tag != kNone) {
    absl::string_view inner = part.substr(tag + 8);
    inner = inner.substr(0, std::min(inner.find("</answer>"), inner.size()));
    tagged = true;
    part = inner;
  }
  const std::vector<Statement> statements = FindStatements(part);
  if (const Statement* statement = Choose(statements)) {
    Extraction extraction = Make(
        trace, part.substr(statement->begin, statement->end - statement->begin), statement->rule);
    extraction.text = statement->text;
    return extraction;
  }
  if (tagged) {
    part = Trim(part);
    return part.empty() ? Extraction{} : Make(trace, part, "answer_tag");
  }
  return Guess(trace, part);
}

}  // namespace espalier::reward
