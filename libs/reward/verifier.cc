// Cheap readings decide most answers: equal numbers, equal text, a choice letter. The rest is
// parsed and compared.
#include "libs/reward/verifier.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/reward/equivalence.h"
#include "libs/reward/exact.h"
#include "libs/reward/extract.h"
#include "libs/reward/reading.h"
#include "libs/reward/scan.h"
#include "libs/reward/units.h"
#include "libs/reward/words.h"

namespace espalier::reward {
namespace {

// Longer references are documents; nothing can be equal to one.
constexpr size_t kReferenceBytesMax = 64 * 1024;

// Sentences within sentences that are looked into.
constexpr int kProseDepthMax = 3;

Verification Make(Verdict verdict, const char* rule, std::string reason) {
  Verification verification;
  verification.verdict = verdict;
  verification.rule = rule;
  verification.reason = std::move(reason);
  verification.proved = verdict != Verdict::kAbstain;
  return verification;
}

// The start of a text in quotes, never cut within a code point.
std::string Shown(absl::string_view text) {
  constexpr size_t kShownBytes = 60;
  if (text.size() <= kShownBytes) return absl::StrCat("'", text, "'");
  size_t end = kShownBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat("'", text.substr(0, end), "…'");
}

bool NumbersMatch(const PlainNumber& reference, const PlainNumber& answer) {
  const mpq_class &r = reference.value, &a = answer.value;
  if (r == a && (reference.percent == answer.percent)) return true;
  const mpq_class half = reference.decimal ? HalfPlace(reference.digits) : mpq_class(0);
  const auto equal = [&](const mpq_class& value) {
    return value == r || (half != 0 && RoundsTo(value, r, half));
  };
  if (reference.percent == answer.percent) return equal(a);
  // "28%" is written as 28 or as 0.28; a reference below 1 without the sign is no percentage.
  if (reference.percent) return equal(a) || equal(a * 100);
  return equal(a / 100) || (abs(r) >= 1 && equal(a));
}

Verification FromNumbers(const PlainNumber& reference, const PlainNumber& answer) {
  const bool match = NumbersMatch(reference, answer);
  const bool exact = reference.value == answer.value;
  const char* rule =
      exact ? (reference.value.get_den() == 1 ? "integer_equal" : "rational_equal") : "number";
  Verification verification = match
                                  ? Make(Verdict::kCorrect, rule,
                                         exact ? "The numbers are equal."
                                               : "The numbers agree at the reference's precision.")
                                  : Make(Verdict::kWrong, "number", "The numbers differ.");
  verification.canonical_reference = ToText(reference.value);
  verification.canonical_answer = ToText(answer.value);
  return verification;
}

// All digits, with separators: integers too long to be converted.
bool IsLongInteger(absl::string_view text, std::string* digits) {
  if (text.size() <= kDigitsMax) return false;
  for (const char c : text) {
    if (IsDigit(c)) {
      if (!digits->empty() || c != '0') digits->push_back(c);
    } else if (c != ',' && !IsSpace(c)) {
      return false;
    }
  }
  return true;
}

bool BracketsMatch(absl::string_view text) {
  int round = 0, curly = 0;
  for (const char c : text) {
    round += (c == '(' || c == '[') - (c == ')' || c == ']');
    curly += (c == '{') - (c == '}');
  }
  return round == 0 && curly == 0;
}

bool HasDigit(absl::string_view text) { return std::any_of(text.begin(), text.end(), IsDigit); }

// "14, since 12 + 2 = 14": the answer stands before its reason. Empty when there is no reason.
absl::string_view BeforeReason(absl::string_view text) {
  size_t first = absl::string_view::npos;
  for (const absl::string_view reason :
       {" because", " since ", ", as ", ", so ", ", which", ", where ", "; ", " (since",
        " (because", ", it ", ", that is"}) {
    first = std::min(first, FindWithoutCase(text, reason));
  }
  if (first == absl::string_view::npos) return {};
  absl::string_view head = Trim(text.substr(0, first));
  while (!head.empty() && (head.back() == ',' || head.back() == ';')) head.remove_suffix(1);
  return Trim(head);
}

// The text up to its reason, or all of it.
absl::string_view WithoutReason(absl::string_view text) {
  const absl::string_view head = BeforeReason(text);
  if (!head.empty()) return head;
  return text.substr(0, std::min(text.find(", it "), text.find(". ")));
}

// "the largest n is 34": what is said behind the last "is"; between words of other scripts: the
// only part that holds a digit.
absl::string_view Said(absl::string_view text) {
  const size_t is = text.rfind(" is ");
  // "13, but what matters is 14" has said 13.
  if (is != absl::string_view::npos)
    return HasDigit(text.substr(0, is)) ? absl::string_view() : Trim(text.substr(is + 4));
  absl::string_view only;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    bool digit = false;
    for (; end < text.size() && static_cast<unsigned char>(text[end]) < 0x80; ++end)
      digit = digit || IsDigit(text[end]);
    if (digit && !only.empty()) return {};
    if (digit) only = Trim(text.substr(at, end - at));
    while (end < text.size() && static_cast<unsigned char>(text[end]) >= 0x80) ++end;
    at = end;
  }
  return only;
}

// Words with a number among them, as opposed to mathematics that could not be read: its numbers
// mean nothing alone.
bool LooksLikeProse(absl::string_view text) {
  for (size_t at = 0; at < text.size(); ++at) {
    if (absl::string_view("^\\{}*=<>|_+").find(text[at]) != absl::string_view::npos) return false;
    if (text[at] == '!' && at > 0 && !IsLetter(text[at - 1])) return false;
  }
  return true;
}

std::vector<absl::string_view> Formulas(absl::string_view text) {
  std::vector<absl::string_view> formulas;
  for (size_t at = 0; at < text.size();) {
    const MathRegion region = MathAt(text, at);
    if (region.size > 0) formulas.push_back(Trim(text.substr(region.inner, region.inner_size)));
    at += region.size > 0 ? region.size : 1;
  }
  return formulas;
}

// The only number of a piece of prose; nothing when there are several different ones.
std::optional<PlainNumber> OnlyNumber(absl::string_view text) {
  std::optional<PlainNumber> only;
  for (size_t at = 0; at < text.size();) {
    const bool starts =
        IsDigit(text[at]) || (text[at] == '.' && at + 1 < text.size() && IsDigit(text[at + 1]));
    if (!starts) {
      ++at;
      continue;
    }
    size_t end = at;
    while (end < text.size() &&
           (IsDigit(text[end]) || ((text[end] == '.' || text[end] == ',' || text[end] == '/') &&
                                   end + 1 < text.size() && IsDigit(text[end + 1])))) {
      ++end;
    }
    const bool glued =
        at > 0 && (IsLetter(text[at - 1]) || text[at - 1] == '_' || text[at - 1] == '^');
    const bool minus = at > 0 && text[at - 1] == '-' && (at == 1 || IsSpace(text[at - 2]));
    if (end < text.size() && text[end] == '%') ++end;
    const PlainNumber number = ReadPlainNumber(text.substr(at - minus, end - at + minus));
    at = end;
    if (glued) continue;
    if (!number.ok) return std::nullopt;
    if (only && only->value != number.value) return std::nullopt;
    only = number;
  }
  return only;
}

}  // namespace

Verifier::Verifier(absl::string_view reference, const VerifyOptions& options) : options_(options) {
  absl::string_view text = Trim(reference);
  Extraction extraction;
  // A whole solution as reference: its committed answer counts.
  if (text.size() > 3) {
    extraction = ExtractAnswer(text);
    const bool marked =
        extraction.found && (extraction.rule == "boxed" || extraction.rule == "hash" ||
                             extraction.rule == "answer_phrase" || extraction.rule == "answer_tag");
    if (marked) text = extraction.text;
    // A box that was never closed still says what is meant.
    const size_t box = text.find("\\boxed{");
    if (!marked && box != absl::string_view::npos) text = Trim(text.substr(box + 7));
  }
  if (text.empty()) {
    problem_ = "The reference is empty.";
    return;
  }
  if (text.size() > kReferenceBytesMax && !IsDigit(text[0])) {
    problem_ = absl::StrCat("The reference has ", text.size(), " bytes; at most ",
                            kReferenceBytesMax, " are read.");
    return;
  }
  reference_ = std::make_unique<Reading>(Read(text));
  if (reference_->number.ok) {
    FindExact();
    return;
  }
  reference_->compact = Compact(reference_->text);
  std::string digits;
  if (IsLongInteger(reference_->text, &digits)) return;
  Budget budget;
  Parse(reference_.get(), &budget);
  const Expression& expression = reference_->expression;
  // Other references that do not parse may still be met word by word.
  if (ReadClock(reference_->text) || ReadDate(reference_->text)) return;
  if (expression.out_of_budget || budget.spent() || (!expression.ok() && !BracketsMatch(text))) {
    problem_ =
        absl::StrCat("The reference ", Shown(text), " cannot be read: ", expression.problem, ".");
  }
  FindExact();
}

void Verifier::FindExact() {
  Reading& reference = *reference_;
  if (!reference.unit.empty() || !readable()) return;
  if (reference.number.ok) {
    reference.is_exact = !reference.number.decimal && !reference.number.percent;
    reference.exact = reference.number.value;
    return;
  }
  const Expression& expression = reference.expression;
  if (!expression.ok() || !expression.unit.empty()) return;
  // A decimal is known to its places only, and a percent or degree sign may be left out.
  for (const Node& node : expression.nodes) {
    if (node.decimal || node.kind == Kind::kPercent || node.kind == Kind::kDegree) return;
  }
  Budget budget;
  reference.is_exact =
      EvaluateExact(expression, expression.root, &budget, &reference.exact) == Outcome::kValue;
}

bool Verifier::exact() const { return reference_ != nullptr && reference_->is_exact; }

bool Verifier::SurelyWrong(absl::string_view answer) const {
  if (!exact()) return false;
  answer = answer.substr(answer.rfind('=') + 1);  // npos + 1 is 0
  while (!answer.empty() && (IsSpace(answer.front()) || answer.front() == '$'))
    answer.remove_prefix(1);
  while (!answer.empty() && (IsSpace(answer.back()) || answer.back() == '$'))
    answer.remove_suffix(1);
  const PlainNumber number = ReadPlainNumber(answer);
  return number.ok && !number.percent && !number.decimal && number.value != reference_->exact &&
         number.value != reference_->exact * 100;
}

Verifier::~Verifier() = default;

Verification Verifier::Verify(absl::string_view answer_text) const {
  if (!readable()) return Make(Verdict::kAbstain, "reference_unreadable", problem_);
  Reading answer = Read(answer_text);
  if (answer.text.empty()) return Make(Verdict::kWrong, "no_answer", "The answer is empty.");
  const Reading& reference = *reference_;
  const bool money_differs =
      !reference.unit.empty() && !answer.unit.empty() && reference.unit != answer.unit;
  if (!options_.strict_units && reference.number.ok && answer.number.ok && !money_differs) {
    Verification verification = FromNumbers(reference.number, answer.number);
    if (verification.verdict == Verdict::kCorrect || !reference.number.decimal) return verification;
  }
  if (reference.number.ok && reference.number.decimal) {
    // "2,74" is 2.74 where the reference is a decimal.
    const Quantity quantity = SplitQuantity(answer.text);
    const PlainNumber comma = ReadPlainNumber(quantity.value, /*comma_decimal=*/true);
    const bool money =
        reference.unit.empty() || quantity.unit.empty() || quantity.unit == reference.unit;
    if (comma.ok && comma.decimal && money && NumbersMatch(reference.number, comma))
      return FromNumbers(reference.number, comma);
  }
  std::string digits_r, digits_a;
  if (IsLongInteger(reference.text, &digits_r) && IsLongInteger(answer.text, &digits_a)) {
    const bool equal = digits_r == digits_a;
    return Make(equal ? Verdict::kCorrect : Verdict::kWrong, equal ? "integer_equal" : "number",
                equal ? "The numbers are equal." : "The numbers differ.");
  }
  if (const char letter = ReferenceLetter(reference.text)) {
    if (Verification choice = VerifyChoice(letter, answer); !choice.rule.empty()) return choice;
  }
  return VerifyParsed(answer.text, 0);
}

// The rule is empty when the letters do not decide.
Verification Verifier::VerifyChoice(char letter, const Reading& answer) const {
  const char chosen = ChosenLetter(answer.text);
  // "(B) 12" is met by its content too.
  const absl::string_view content = WithoutLabel(reference_->text);
  if (chosen == 0 && !content.empty() && !Hedges(answer.text))
    return Verifier(content, options_).Verify(answer.text);
  const absl::string_view said = WithoutLabel(answer.text);
  if (chosen == letter && !content.empty() && !said.empty()) {
    // "(B) 13" contradicts the reference's own text of B.
    const Reading a = Read(content), b = Read(said);
    if (a.number.ok && b.number.ok && a.number.value != b.number.value)
      return Make(Verdict::kWrong, "choice_contradicts", "The letter agrees, its content differs.");
  }
  Verification verification =
      chosen == letter && !Hedges(WithoutReason(answer.text))
          ? Make(Verdict::kCorrect, "choice", "The letters agree.")
      : chosen == letter ? Make(Verdict::kWrong, "hedged", "The answer offers several letters.")
      : chosen != 0      ? Make(Verdict::kWrong, "choice", "The letters differ.")
                         : Make(Verdict::kWrong, "choice", "The answer chooses no single letter.");
  // "E" may be a symbol or a word as well as a letter.
  if (verification.verdict == Verdict::kWrong && EqualText(answer.text))
    return Make(Verdict::kCorrect, "text_equal", "Answer and reference are written alike.");
  verification.canonical_reference = std::string(1, letter);
  if (chosen != 0) verification.canonical_answer = std::string(1, chosen);
  return verification;
}

bool Verifier::EqualText(absl::string_view answer) const {
  const std::string compact =
      reference_->compact.empty() ? Compact(reference_->text) : reference_->compact;
  if (!compact.empty() && Compact(answer) == compact) return true;
  const char first = reference_->text[0];
  if (compact.empty() || (!IsWordByte(first) && first != '\\' && first != '"')) return false;
  const std::string words = PlainWords(reference_->text);
  return !words.empty() && PlainWords(answer) == words;
}

// Times of day and dates; the rule is empty when they are neither.
Verification Verifier::VerifyCalendar(absl::string_view answer) const {
  const auto decide = [](bool equal, const char* rule) {
    return Make(equal ? Verdict::kCorrect : Verdict::kWrong, rule,
                equal ? "They name the same time." : "They name different times.");
  };
  const auto clock = ReadClock(reference_->text), said = ReadClock(answer);
  if (clock && said && (clock->marked || said->marked)) {
    return decide(SameTime(*clock, *said), "time_of_day");
  }
  const auto date = ReadDate(reference_->text), day = ReadDate(answer);
  if (date && day) {
    const bool year = date->year == day->year || date->year == 0 || day->year == 0;
    return decide(year && date->month == day->month && date->day == day->day, "date");
  }
  return {};
}

Verification Verifier::VerifyParsed(absl::string_view answer_text, int depth) const {
  if (EqualText(answer_text))
    return Make(Verdict::kCorrect, "text_equal", "Answer and reference are written alike.");
  if (Verification calendar = VerifyCalendar(answer_text); !calendar.rule.empty()) return calendar;
  Budget budget;
  Reading answer = Read(answer_text);
  Parse(&answer, &budget);
  if (!answer.expression.ok() && !WithoutLabel(answer.text).empty() && depth < kProseDepthMax)
    return VerifyParsed(WithoutLabel(answer.text), depth + 1);
  if (answer.expression.out_of_budget || budget.spent()) {
    return Make(Verdict::kAbstain, "budget",
                absl::StrCat("The answer cannot be read: ", answer.expression.problem, "."));
  }
  if (!answer.expression.ok()) return VerifyProse(answer.text, depth);
  Reading again;
  const Expression* reference = &reference_->expression;
  if (!reference_->parsed) {
    again = Read(reference_->text);
    Parse(&again, &budget);
    reference = &again.expression;
  }
  if (!reference->ok()) {
    return Make(Verdict::kAbstain, "reference_unreadable",
                absl::StrCat("The reference ", Shown(reference_->text),
                             " is neither equal text nor readable: ", reference->problem, "."));
  }
  const Decision decision = Compare(*reference, answer.expression, options_.strict_units, &budget);
  Verification verification;
  switch (decision.match) {
    case Match::kEqual:
      verification = Make(Verdict::kCorrect, decision.rule, "Proved equal.");
      break;
    case Match::kProbable:
      verification = Make(Verdict::kCorrect, decision.rule,
                          "Probably equal: the same at every point that was tried.");
      break;
    case Match::kDifferent:
      verification = Make(Verdict::kWrong, decision.rule, "They differ.");
      break;
    case Match::kUnknown:
      verification = Make(Verdict::kAbstain, decision.rule,
                          "Neither equality nor difference was found within the budget.");
      break;
  }
  if (decision.match == Match::kProbable || decision.tested) verification.proved = false;
  Budget text_budget{500};
  verification.canonical_reference = ToText(*reference, reference->root, &text_budget);
  verification.canonical_answer = ToText(answer.expression, answer.expression.root, &text_budget);
  return verification;
}

// The answer is a sentence: what it says may still be one formula or one number in it.
Verification Verifier::VerifyProse(absl::string_view text, int depth) const {
  if (Hedges(text))
    return Make(Verdict::kWrong, "hedged", "The answer takes itself back or offers several.");
  if (depth < kProseDepthMax) {
    const absl::string_view head = BeforeReason(text);
    if (!head.empty()) return VerifyParsed(head, depth + 1);
    const absl::string_view said = Said(text);
    if (!said.empty() && said.size() < text.size()) return VerifyParsed(said, depth + 1);
    const std::vector<absl::string_view> formulas = Formulas(text);
    // Numbers beside the formula, or before the "=", would be other answers.
    if (formulas.size() == 1 && !formulas[0].empty()) {
      const size_t begin = static_cast<size_t>(formulas[0].data() - text.data());
      if (HasDigit(text.substr(0, begin)) || HasDigit(text.substr(begin + formulas[0].size()))) {
        return Make(Verdict::kWrong, "several", "The answer holds a formula and other numbers.");
      }
      return VerifyParsed(formulas[0], depth + 1);
    }
    const size_t equals = text.rfind('=');
    // A limit or an integral is one term, whatever numbers are in it.
    const bool one_term = HoldsAt(text, 0, "\\lim") || HoldsAt(text, 0, "\\int");
    const bool bare = formulas.empty() && equals != absl::string_view::npos;
    if (bare && (one_term || !HasDigit(text.substr(0, equals)))) {
      const absl::string_view value = Trim(text.substr(equals + 1));
      if (!value.empty()) return VerifyParsed(value, depth + 1);
    }
    if (!formulas.empty())
      return Make(Verdict::kWrong, "several", "The answer holds several formulas.");
  }
  if (Bounds(text))
    return Make(Verdict::kWrong, "bound", "The answer bounds a value instead of naming one.");
  const std::optional<PlainNumber> number = LooksLikeProse(text) ? OnlyNumber(text) : std::nullopt;
  if (number && reference_->number.ok) return FromNumbers(reference_->number, *number);
  return Make(Verdict::kWrong, "unreadable_answer",
              absl::StrCat("The answer ", Shown(text), " is no readable mathematics."));
}

Verification VerifyAnswer(absl::string_view reference, absl::string_view answer,
                          const VerifyOptions& options) {
  return Verifier(reference, options).Verify(answer);
}

}  // namespace espalier::reward
