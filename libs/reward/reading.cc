// Linear scans; the expression is only parsed on demand, since most answers are plain numbers.
#include "libs/reward/reading.h"

#include <array>

#include "libs/reward/fold.h"
#include "libs/reward/scan.h"
#include "libs/reward/units.h"
#include "libs/reward/words.h"

namespace espalier::reward {
namespace {

constexpr std::array<absl::string_view, 8> kWrappers = {"\\text{",   "\\textbf{",    "\\textrm{",
                                                        "\\mathrm{", "\\mathbf{",    "\\mbox{",
                                                        "\\boxed{",  "\\textnormal{"};

// "\text{C}" -> "C", "$C$" -> "C", "**C**" -> "C".
absl::string_view Unwrap(absl::string_view text) {
  for (bool again = true; again;) {
    again = false;
    text = Trim(text);
    // "0.333..." goes on.
    const bool dots = text.size() > 2 && text.substr(text.size() - 2) == "..";
    if (!text.empty() && ((text.back() == '.' && !dots) || text.back() == '*') && text.size() > 1)
      text.remove_suffix(1), again = true;
    if (text.size() > 1 && text.front() == '"' && text.back() == '"')
      text = text.substr(1, text.size() - 2), again = true;
    if (text.size() > 1 && text.front() == '*') text.remove_prefix(1), again = true;
    const MathRegion math = text.empty() ? MathRegion{} : MathAt(text, 0);
    if (math.size == text.size() && math.size > 0)
      text = text.substr(math.inner, math.inner_size), again = true;
    for (const absl::string_view wrapper : kWrappers) {
      if (text.substr(0, wrapper.size()) != wrapper || text.back() != '}') continue;
      if (MatchBrace(text, wrapper.size() - 1) != text.size() - 1) continue;
      text = text.substr(wrapper.size(), text.size() - wrapper.size() - 1);
      again = true;
    }
  }
  return text;
}

bool StandsAlone(absl::string_view text, size_t at) {
  const bool before =
      at > 0 && (IsWordByte(text[at - 1]) || IsDigit(text[at - 1]) || text[at - 1] == '\\' ||
                 text[at - 1] == '\'' || text[at - 1] == '_' || text[at - 1] == '^');
  const bool behind =
      at + 1 < text.size() && (IsWordByte(text[at + 1]) || IsDigit(text[at + 1]) ||
                               text[at + 1] == '\'' || text[at + 1] == '_' || text[at + 1] == '^');
  return !before && !behind;
}

// Operators and no word: "E*2", "\\frac{C}{2}".
bool IsFormula(absl::string_view text) {
  bool operators = false;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\\') {
      size_t end = at + 1;
      while (end < text.size() && IsLetter(text[end])) ++end;
      const absl::string_view name = text.substr(at + 1, end - at - 1);
      operators = operators || name == "frac" || name == "cdot" || name == "times";
      at = end - 1;
      continue;
    }
    const bool bold =
        text[at] == '*' && (text.substr(at, 2) == "**" || (at > 0 && text[at - 1] == '*'));
    operators = operators ||
                (!bold && absl::string_view("+*^=_<>").find(text[at]) != absl::string_view::npos);
    operators = operators || (text[at] == '-' && at + 1 < text.size() && text[at + 1] == ' ');
    if (at > 0 && IsWordByte(text[at]) && IsWordByte(text[at - 1])) return false;
  }
  return operators;
}

// The letter behind "or", "and", "," or "/" at `at`: another option.
bool OffersAnother(absl::string_view text, size_t at) {
  const auto skip = [&] {
    while (at < text.size() && (IsSpace(text[at]) || absl::string_view(")}$*.(").find(text[at]) !=
                                                         absl::string_view::npos))
      ++at;
  };
  skip();
  bool link = false;
  for (const absl::string_view word : {"or ", "and ", ",", "/", "&"}) {
    if (!link && HoldsAt(text, at, word)) link = true, at += word.size();
  }
  if (!link) return false;
  skip();
  if (HoldsAt(text, at, "or ")) at += 3;
  skip();
  return at < text.size() && IsUpper(text[at]) && StandsAlone(text, at);
}

}  // namespace

std::string Compact(absl::string_view text) {
  text = Unwrap(text);
  std::string compact;
  compact.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (IsSpace(text[at]) || text[at] == '$' || text[at] == '~') {
      ++at;
      continue;
    }
    if (text[at] == '\\') {
      size_t skip = 0;
      for (const absl::string_view spacing :
           {"\\left", "\\right", "\\,", "\\!", "\\;", "\\:", "\\ "}) {
        if (text.substr(at, spacing.size()) != spacing) continue;
        // "\leftarrow" is another word.
        const size_t behind = at + spacing.size();
        if (spacing.size() > 2 && behind < text.size() && IsLetter(text[behind])) continue;
        skip = spacing.size();
      }
      if (skip > 0) {
        at += skip;
        continue;
      }
      if (text.substr(at, 6) == "\\dfrac" || text.substr(at, 6) == "\\tfrac") {
        compact += "\\frac";
        at += 6;
        continue;
      }
    }
    compact.push_back(text[at++]);
  }
  while (!compact.empty() && (compact.back() == '.' || compact.back() == '\\')) compact.pop_back();
  return compact;
}

Reading Read(absl::string_view text) {
  Reading reading;
  text = Trim(text);
  reading.text = HasWide(text) ? Fold(text) : std::string(text);
  reading.number = ReadPlainNumber(reading.text);
  if (reading.number.ok) return reading;
  const absl::string_view core = Unwrap(reading.text);
  if (core.size() != reading.text.size()) reading.number = ReadPlainNumber(core);
  if (reading.number.ok || !MayHoldMoney(core)) return reading;
  Quantity quantity = SplitQuantity(core);
  if (quantity.unit.empty()) return reading;
  reading.number = ReadPlainNumber(quantity.value);
  if (reading.number.ok) reading.unit = std::move(quantity.unit);
  return reading;
}

void Parse(Reading* reading, Budget* budget) {
  if (reading->parsed) return;
  reading->parsed = true;
  std::string text(Unwrap(reading->text));
  if (std::string rewritten = RewriteWords(text); !rewritten.empty()) text = std::move(rewritten);
  if (const auto compound = ReadCompound(text)) {
    Node node{Kind::kNumber};
    node.value = compound->value;
    reading->expression.root = reading->expression.Add(std::move(node));
    reading->expression.unit = compound->unit;
    return;
  }
  const Quantity quantity = SplitQuantity(text);
  if (!quantity.unit.empty()) {
    const std::string value = RewriteWords(quantity.value);
    reading->expression = ParseExpression(value.empty() ? quantity.value : value, budget);
    if (reading->expression.ok() || reading->expression.out_of_budget) {
      if (reading->expression.unit.empty()) reading->expression.unit = quantity.unit;
      return;
    }
  }
  reading->expression = ParseExpression(text, budget);
  if (reading->expression.ok() || reading->expression.out_of_budget) return;
  // "\\text{Area} = 5", "the number of ways = 5"
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || PlainWords(text.substr(0, equals)).empty()) return;
  const std::string value(Trim(absl::string_view(text).substr(equals + 1)));
  Expression said = ParseExpression(value, budget);
  if (said.ok() || said.out_of_budget) reading->expression = std::move(said);
}

bool ReadsAsAnswer(absl::string_view text) {
  // Unknown words behind a number, as in "15 students", are a short answer's unit.
  constexpr size_t kWithUnitBytesMax = 60;
  Reading reading = Read(text);
  // A letter alone, or a number: most answers.
  if (reading.number.ok) return true;
  if (ReadClock(reading.text) || ReadDate(reading.text)) return true;
  Budget budget;
  Parse(&reading, &budget);
  const Expression& expression = reading.expression;
  if (expression.out_of_budget) return true;  // for the verifier to refuse
  if (!expression.ok()) return text.size() <= kWithUnitBytesMax && !WithoutLabel(text).empty();
  if (expression.top().kind == Kind::kText) return false;
  if (expression.unit.empty()) return true;
  // "I do not know" is a symbol and words.
  return text.size() <= kWithUnitBytesMax &&
         (!IsWordByte(reading.text[0]) || !RewriteWords(reading.text).empty());
}

namespace {

// "(B) 12", "B. 12", "\\textbf{(B)} 12": the letter, and what follows it. No letter, no label.
struct Label {
  char letter = 0;
  absl::string_view content;
};
Label ReadLabel(absl::string_view text) {
  text = Trim(text);
  for (const absl::string_view wrapper : kWrappers) {
    if (text.substr(0, wrapper.size()) != wrapper) continue;
    const size_t close = MatchBrace(text, wrapper.size() - 1);
    if (close == absl::string_view::npos) return {};
    const absl::string_view inner = Trim(text.substr(wrapper.size(), close - wrapper.size()));
    if (inner.size() != 3 || inner[0] != '(' || inner[2] != ')' || !IsUpper(inner[1])) return {};
    absl::string_view content = text.substr(close + 1);
    while (!content.empty() &&
           (IsSpace(content[0]) || content[0] == '~' ||
            (content[0] == '\\' && content.size() > 1 && !IsLetter(content[1])))) {
      content.remove_prefix(content[0] == '\\' ? 2 : 1);
    }
    return content.empty() ? Label{} : Label{inner[1], content};
  }
  const bool bracket = !text.empty() && text[0] == '(';
  const size_t letter = bracket ? 1 : 0;
  if (text.size() < letter + 3 || text[letter] < 'A' || text[letter] > 'H') return {};
  const char behind = text[letter + 1];
  if (bracket ? behind != ')' : behind != ')' && behind != '.' && behind != ':') return {};
  if (!IsSpace(text[letter + 2])) return {};
  return {text[letter], Trim(text.substr(letter + 2))};
}

}  // namespace

absl::string_view WithoutLabel(absl::string_view text) { return ReadLabel(text).content; }

char ReferenceLetter(absl::string_view text) {
  text = Unwrap(text);
  if (text.size() > 1 && text[0] == '(') {
    text.remove_prefix(1);
    if (text.size() < 2 || text[1] != ')') return 0;
  }
  if (text.empty() || !IsUpper(text[0])) return 0;
  if (text.size() == 1) return text[0];
  if (text[1] == ')' || text[1] == '.' || text[1] == ':')
    return text.size() == 2 || IsSpace(text[2]) ? text[0] : 0;
  // "C Cecile": a letter and words.
  return text[1] == ' ' && text.size() > 3 && IsLetter(text[2]) && IsLetter(text[3]) ? text[0] : 0;
}

char ChosenLetter(absl::string_view text) {
  absl::string_view core = Unwrap(text);
  if (core.size() == 3 && core[0] == '(' && core[2] == ')') core = core.substr(1, 1);
  if (core.size() == 1 && IsLetter(core[0]))
    return IsUpper(core[0]) ? core[0] : static_cast<char>(core[0] - 'a' + 'A');
  // "E*2" and "(C) + 1" are mathematics; "(C) 2 + 1" is an option and its content.
  if (IsFormula(text)) {
    const Label label = ReadLabel(core);
    const bool operand =
        !label.content.empty() &&
        absl::string_view("+*^=-_/<>").find(label.content[0]) != absl::string_view::npos;
    return operand ? '\0' : label.letter;
  }
  for (size_t at = 0; at < text.size(); ++at) {
    if (!IsUpper(text[at]) || !StandsAlone(text, at)) continue;
    // "I think" chooses nothing, nor does an article at the start of a sentence.
    if (text[at] == 'I' && at + 1 < text.size() && text[at + 1] == ' ') continue;
    bool linked = false;
    for (const absl::string_view link :
         {" or ", " and ", " is ", " as ", " because", " since", " not ", " non ", " nicht "})
      linked = linked || HoldsAt(text, at + 1, link);
    if (text[at] == 'A' && !linked && at + 2 < text.size() && text[at + 1] == ' ' &&
        text[at + 2] >= 'a' && text[at + 2] <= 'z')
      continue;
    return OffersAnother(text, at + 1) ? 0 : text[at];
  }
  return 0;
}

bool Bounds(absl::string_view text) {
  for (const absl::string_view word : {"at least", "at most", "less than", "more than",
                                       "fewer than", "greater than", "between", "up to"}) {
    if (FindWithoutCase(text, word) != absl::string_view::npos) return true;
  }
  return false;
}

bool Hedges(absl::string_view text) {
  for (const absl::string_view word :
       {"maybe", "perhaps", "might", "could", "may be", "can be", "either", "probably", "possibly",
        " or ", "not ", "neither", "unsure", "guess", "one of"}) {
    if (FindWithoutCase(text, word) != absl::string_view::npos) return true;
  }
  return false;
}

}  // namespace espalier::reward
