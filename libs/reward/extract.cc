// Explicit commitments first (the last box, "####" or answer phrase); without one, ever weaker
// guesses, each named by its rule.
#include "libs/reward/extract.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/reward/fold.h"
#include "libs/reward/plain_number.h"
#include "libs/reward/reading.h"
#include "libs/reward/scan.h"
#include "libs/reward/statements.h"
#include "libs/reward/units.h"

namespace espalier::reward {
namespace {

constexpr size_t kNone = absl::string_view::npos;
// Longer texts are no answers by themselves.
constexpr size_t kWholeBytesMax = 400;
// A text of this length without a marked answer is looked at as a whole.
constexpr size_t kShortBytesMax = 120;
// Formulas are looked for in the end of a text only.
constexpr size_t kTailBytes = 4000;

constexpr absl::string_view kAnswerOpen = "<answer>", kAnswerClose = "</answer>";

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

// Whether a text takes back what stands before it.
bool Retracts(absl::string_view text) {
  for (const absl::string_view cue :
       {"wait", "actually", "correction", "mistake", "instead", "let me re", "scratch that", "oops",
        "wrong", "error", "revis", "no,", "hold on"}) {
    if (FindWithoutCase(text, cue) != kNone) return true;
  }
  return false;
}

// Whether the sentence of the box at `marker` calls it the answer.
bool CalledTheAnswer(absl::string_view text, size_t marker) {
  constexpr size_t kReach = 160;
  const size_t from = marker > kReach ? marker - kReach : 0;
  const absl::string_view before = text.substr(from, marker - from);
  const size_t stop = before.rfind(". ");
  const absl::string_view sentence = stop == kNone ? before : before.substr(stop + 2);
  return FindWithoutCase(sentence, "answer") != kNone ||
         FindWithoutCase(sentence, "final") != kNone;
}

// The same answer, or one part of a list.
bool Agrees(absl::string_view last, absl::string_view earlier) {
  if (Compact(last) == Compact(earlier)) return true;
  const std::string parts = absl::StrCat(",", Compact(last), ","),
                    part = absl::StrCat(",", Compact(earlier), ",");
  if (parts.find(part) != std::string::npos) return true;
  return VerifyAnswer(last, earlier).verdict == Verdict::kCorrect;
}

// Boxes of several sentences that contradict each other, none of which is called the answer or
// takes the earlier ones back, are one list: it equals no single answer.
std::string WithContradictions(absl::string_view text, const std::vector<Statement>& statements,
                               const Statement& chosen) {
  constexpr size_t kBoxesMax = 8;
  std::string all;
  size_t boxes = 0;
  if (absl::string_view(chosen.rule) != "boxed" || CalledTheAnswer(text, chosen.marker))
    return chosen.text;
  for (const Statement& earlier : statements) {
    if (&earlier == &chosen) break;
    if (absl::string_view(earlier.rule) != "boxed" || earlier.text == chosen.text) continue;
    if (Agrees(chosen.text, earlier.text)) continue;
    if (Retracts(text.substr(earlier.end, chosen.marker - earlier.end))) continue;
    if (++boxes > kBoxesMax) break;
    absl::StrAppend(&all, earlier.text, ", ");
  }
  return absl::StrCat(all, chosen.text);
}

struct Range {
  size_t begin = 0, end = 0;
};

// Behind the unit of the number that ends at `end`, or `end`: "3000 m" but not "3000 more".
size_t WithUnit(absl::string_view text, size_t begin, size_t end) {
  constexpr size_t kUnitBytesMax = 30;
  const absl::string_view reach = text.substr(0, std::min(text.size(), end + kUnitBytesMax));
  size_t best = end;
  int words = 0;
  for (size_t at = end; at < reach.size() && words < 4; ++at) {
    const char c = reach[at];
    if (absl::string_view("\n,;)}$\\").find(c) != kNone) break;
    const bool ends = at + 1 == reach.size() || IsSpace(reach[at + 1]) || reach[at + 1] == '.' ||
                      reach[at + 1] == ',' || reach[at + 1] == '\n';
    if (!ends || IsSpace(c)) continue;
    ++words;
    if (!SplitQuantity(reach.substr(begin, at + 1 - begin)).unit.empty()) best = at + 1;
  }
  return best;
}

// Where the comparison sign before the number at `at` starts ("< 14", "\\ge 14"): a bound is no
// value. `at` without one.
size_t BoundBegin(absl::string_view text, size_t at) {
  size_t end = at;
  while (end > 0 && text[end - 1] == ' ') --end;
  for (const absl::string_view sign : {"<=", ">=", "<", ">", "≤", "≥", "≠", "!=", "\\leq", "\\geq",
                                       "\\le", "\\ge", "\\lt", "\\gt", "\\neq", "\\ne"}) {
    if (end < sign.size() || text.substr(end - sign.size(), sign.size()) != sign) continue;
    // "</b>14" and "-> 14" end a tag and an arrow.
    const size_t begin = end - sign.size();
    const char before = begin > 0 ? text[begin - 1] : ' ';
    if (sign == ">" && (before == '-' || before == '=' || text.rfind('<', begin) != kNone))
      return at;
    return begin;
  }
  return at;
}

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
                       ((c == '/' || c == ':') && begin >= 2 && IsDigit(text[begin - 2]));
    if (!joins) break;
    --begin;
  }
  const bool sign = begin > 0 && text[begin - 1] == '-' &&
                    (begin == 1 || !(IsWordByte(text[begin - 2]) || IsDigit(text[begin - 2]) ||
                                     text[begin - 2] == ')'));
  if (sign) --begin;
  if (end < text.size() && text[end] == '%') return {begin, end + 1};
  end = WithUnit(text, begin, end);
  for (const absl::string_view money : {"$", "€", "£", "¥", "₹"}) {
    const bool before =
        begin >= money.size() && text.substr(begin - money.size(), money.size()) == money;
    if (before && (money != "$" || text.find('$') == text.rfind('$'))) begin -= money.size();
  }
  return {BoundBegin(text, begin), end};
}

// Whether the words right before `at` deny the number there or give it as a bound or an option.
bool IsDenied(absl::string_view text, size_t at) {
  constexpr size_t kReach = 24;
  const absl::string_view before =
      Trim(text.substr(at > kReach ? at - kReach : 0, std::min(at, kReach)));
  for (const absl::string_view word : {"not", "no", "or", "least", "most", "than", "up to"}) {
    if (before.size() < word.size()) continue;
    const size_t begin = before.size() - word.size();
    if (HoldsAt(before, begin, word) && (begin == 0 || IsSpace(before[begin - 1]))) return true;
  }
  return FindWithoutCase(before, "between ") != kNone;
}

// Where the list "12, 13, 14" that ends with the number at `at` starts, or `at` when fewer than
// three numbers stand in a row.
size_t ListBegin(absl::string_view text, size_t at) {
  size_t begin = at;
  int numbers = 1;
  for (size_t i = at; i > 0;) {
    size_t comma = i;
    while (comma > 0 && IsSpace(text[comma - 1])) --comma;
    if (comma == i || comma == 0 || text[comma - 1] != ',') break;
    size_t digit = comma - 1;
    while (digit > 0 && (IsDigit(text[digit - 1]) || text[digit - 1] == '.')) --digit;
    if (digit == comma - 1) break;
    if (digit > 0 && text[digit - 1] == '-') --digit;
    ++numbers;
    begin = i = digit;
  }
  return numbers > 2 ? begin : at;
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
  // What an arrow leads to is the answer, not the line with the arrow.
  if (text.size() <= kWholeBytesMax && text.find("->") == kNone && ReadsAsAnswer(text)) {
    return Make(trace, text, "whole");
  }
  const MathRegion math = FindLastMath(text);
  const Range number = FindLastNumber(text);
  if (math.size > 0 && math.begin + math.size >= number.end &&
      text.size() - (math.begin + math.size) <= 200) {
    return Make(trace, text.substr(math.begin, math.size), "last_formula");
  }
  // A short text is all answer: what it denies, bounds or explains is for the verifier to see.
  const bool whole_counts =
      text.size() <= kShortBytesMax && number.end > 0 &&
      (IsDenied(text, number.begin) || FindWithoutCase(text, " because ") != kNone ||
       FindWithoutCase(text, " since ") != kNone);
  if (number.end > 0 && !whole_counts) {
    const size_t begin = ListBegin(text, number.begin);
    return Make(trace, text.substr(begin, number.end - begin), "last_number");
  }
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

namespace {

// The content of the answer section that starts at `tag`.
absl::string_view SectionAt(absl::string_view text, size_t tag) {
  const absl::string_view inner = text.substr(tag + kAnswerOpen.size());
  return inner.substr(0, std::min(inner.find(kAnswerClose), inner.size()));
}

// Whether an earlier answer section says something else than the last one at `tag`.
bool SectionsDiffer(absl::string_view text, size_t tag) {
  const size_t first = text.find(kAnswerOpen);
  if (first == tag || Retracts(text.substr(first, tag - first))) return false;
  const absl::string_view earlier = SectionAt(text, first), last = SectionAt(text, tag);
  return !Trim(earlier).empty() && !Trim(last).empty() && !Agrees(last, earlier);
}

Extraction ExtractFolded(absl::string_view trace) {
  absl::string_view part = CommittedPart(trace);
  const size_t tag = part.rfind(kAnswerOpen);
  const bool tagged = tag != kNone;
  if (tagged && SectionsDiffer(part, tag)) {
    const absl::string_view last = SectionAt(part, tag);
    Extraction extraction = Make(trace, last, "answer_tag");
    extraction.text = absl::StrCat(SectionAt(part, part.find(kAnswerOpen)), ", ", last);
    return extraction;
  }
  if (tagged) part = SectionAt(part, tag);
  const std::vector<Statement> statements = FindStatements(part);
  if (const Statement* statement = Choose(statements)) {
    Extraction extraction = Make(
        trace, part.substr(statement->begin, statement->end - statement->begin), statement->rule);
    extraction.text = WithContradictions(part, statements, *statement);
    return extraction;
  }
  if (tagged) {
    part = Trim(part);
    return part.empty() ? Extraction{} : Make(trace, part, "answer_tag");
  }
  return Guess(trace, part);
}

}  // namespace

Extraction ExtractAnswer(absl::string_view trace) {
  std::string folded;
  std::vector<size_t> origin;
  if (!FoldDigits(trace, &folded, &origin)) return ExtractFolded(trace);
  Extraction extraction = ExtractFolded(folded);
  if (!extraction.found) return extraction;
  const bool joined =
      extraction.text != folded.substr(extraction.begin, extraction.end - extraction.begin);
  extraction.begin = static_cast<int64_t>(origin[extraction.begin]);
  extraction.end = static_cast<int64_t>(origin[extraction.end]);
  if (!joined)
    extraction.text =
        std::string(trace.substr(extraction.begin, extraction.end - extraction.begin));
  return extraction;
}

}  // namespace espalier::reward
