// Linear scans; the expression is only parsed on demand, since most answers are plain numbers.
#include "libs/reward/reading.h"

#include <array>

#include "libs/reward/scan.h"

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
    if (!text.empty() && (text.back() == '.' || text.back() == '*') && text.size() > 1)
      text.remove_suffix(1), again = true;
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
  reading.text = std::string(Trim(text));
  reading.number = ReadPlainNumber(text);
  if (reading.number.ok) return reading;
  absl::string_view core = Unwrap(text);
  if (!core.empty() && core.front() == '$') core.remove_prefix(1);
  if (!core.empty() && core.back() == '$') core.remove_suffix(1);
  if (core.size() > 1 && core.substr(0, 2) == "\\$") core.remove_prefix(2);
  if (core.size() != text.size()) reading.number = ReadPlainNumber(core);
  return reading;
}

void Parse(Reading* reading, Budget* budget) {
  if (reading->parsed) return;
  reading->parsed = true;
  reading->expression = ParseExpression(Unwrap(reading->text), budget);
}

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
  const absl::string_view core = Unwrap(text);
  if (core.size() == 1 && IsLetter(core[0]))
    return IsUpper(core[0]) ? core[0] : static_cast<char>(core[0] - 'a' + 'A');
  for (size_t at = 0; at < text.size(); ++at) {
    if (!IsUpper(text[at]) || !StandsAlone(text, at)) continue;
    // "I think" chooses nothing, nor does an article at the start of a sentence.
    if (text[at] == 'I' && at + 1 < text.size() && text[at + 1] == ' ') continue;
    if (text[at] == 'A' && at + 2 < text.size() && text[at + 1] == ' ' && text[at + 2] >= 'a' &&
        text[at + 2] <= 'z')
      continue;
    return OffersAnother(text, at + 1) ? 0 : text[at];
  }
  return 0;
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
