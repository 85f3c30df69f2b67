// By form alone: the word that leads the sentence or its last clause, how many numbers there are,
// and whether they are worked with.
#include "libs/reward/conclusions.h"

#include <algorithm>
#include <array>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

constexpr size_t kNone = absl::string_view::npos;
// Longer sentences are reasoning, not results.
constexpr size_t kSentenceBytesMax = 400;

// Lower case. What leads a conclusion; longer ones before those they begin with.
constexpr std::array<absl::string_view, 47> kLeads = {
    "so",         "thus",       "therefore",    "hence",         "consequently", "in total",
    "altogether", "in all",     "finally",      "in conclusion", "we get",       "we have",
    "we find",    "we obtain",  "we conclude",  "this gives",    "that gives",   "which gives",
    "this means", "that means", "it follows",   "this leaves",   "that leaves",  "this makes",
    "that makes", "the result", "the total is", "the solution",  "por lo tanto", "por tanto",
    "así que",    "entonces",   "donc",         "ainsi",         "also",         "daher",
    "somit",      "folglich",   "portanto",     "quindi",        "所以",         "因此",
    "故",         "поэтому",    "इसलिए",        "إذن",           "したがって"};
constexpr std::array<absl::string_view, 12> kConfirms = {
    "yes", "this confirms", "that confirms", "indeed", "confirmed", "so yes", "sí", "oui", "ja",
    "да",  "是的",          "so indeed"};
// A sentence that holds one of these asserts no result.
constexpr std::array<absl::string_view, 16> kHedges = {
    "suppose", "assume", "if",    "let",     "maybe", "perhaps", "might",         "could",
    "try",     "guess",  "about", "roughly", "would", "whether", "approximately", "or"};
// Behind the result of a calculation these make it an assertion ("8 - 5 = 3 remain").
constexpr std::array<absl::string_view, 8> kPredicates = {
    "left", "remain", "remains", "remaining", "total", "altogether", "are", "is"};

bool IsNumberByte(char c) { return IsDigit(c) || c == '.' || c == ',' || c == '/'; }

bool WordAt(absl::string_view text, size_t at, absl::string_view word) {
  if (!HoldsAt(text, at, word)) return false;
  const size_t behind = at + word.size();
  return behind >= text.size() || !IsLetter(text[behind]) || !IsLetter(word.back());
}

// Size of the lead at the start of `text`, with what separates it from the rest; 0 without one.
template <typename Words>
size_t LeadSize(absl::string_view text, const Words& words) {
  for (const absl::string_view word : words) {
    if (!WordAt(text, 0, word)) continue;
    size_t behind = word.size();
    while (behind < text.size() &&
           (text[behind] == ' ' || text[behind] == ',' || text[behind] == ':'))
      ++behind;
    return behind;
  }
  return 0;
}

bool HoldsWord(absl::string_view text, const absl::string_view word) {
  for (size_t at = FindWithoutCase(text, word); at != kNone;
       at = FindWithoutCase(text, word, at + 1)) {
    if ((at == 0 || !IsWordByte(text[at - 1])) && WordAt(text, at, word)) return true;
  }
  return false;
}

// A number in the text with its sign, separators, fraction bar and percent sign.
struct Number {
  size_t begin = 0, end = 0;
};

class Clause {
 public:
  explicit Clause(absl::string_view text) : text_(text) { FindNumbers(); }

  size_t count() const { return count_; }
  const Number& first() const { return first_; }
  const Number& last() const { return last_; }
  absl::string_view Text(const Number& number) const {
    return text_.substr(number.begin, number.end - number.begin);
  }
  bool works() const { return works_; }

  // Words behind the last number, such as "are left".
  bool AssertsBehindLast() const {
    const absl::string_view behind = text_.substr(last_.end);
    return std::any_of(kPredicates.begin(), kPredicates.end(),
                       [&](absl::string_view word) { return HoldsWord(behind, word); });
  }

 private:
  void FindNumbers() {
    size_t at = 0;
    while (at < text_.size()) {
      if (!IsDigit(text_[at])) {
        works_ = works_ || IsOperator(at);
        ++at;
        continue;
      }
      Number number{at, at};
      while (number.end < text_.size() && IsNumberByte(text_[number.end])) ++number.end;
      while (!IsDigit(text_[number.end - 1])) --number.end;
      at = number.end;
      if (number.begin > 0 && text_[number.begin - 1] == '.') --number.begin;
      const bool sign = number.begin > 0 && text_[number.begin - 1] == '-' &&
                        (number.begin == 1 ||
                         !(IsDigit(text_[number.begin - 2]) ||
                           IsWordByte(text_[number.begin - 2]) || text_[number.begin - 2] == ')'));
      if (sign) --number.begin;
      if (number.end < text_.size() && text_[number.end] == '%') at = ++number.end;
      if (HoldsAt(text_, number.end, "\\%")) at = number.end += 2;
      // "x2" and "step_3" are names.
      const bool name =
          number.begin > 0 && (IsLetter(text_[number.begin - 1]) || text_[number.begin - 1] == '_');
      if (name) continue;
      if (count_++ == 0) first_ = number;
      last_ = number;
    }
  }

  // An operation between two values, so that what follows "=" is a step of the working.
  bool IsOperator(size_t at) const {
    const char c = text_[at];
    const bool times = text_.substr(at, 2) == "×" || text_.substr(at, 2) == "÷" ||
                       text_.substr(at, 2) == "·" || HoldsAt(text_, at, "\\times") ||
                       HoldsAt(text_, at, "\\cdot") || HoldsAt(text_, at, "\\div");
    if (!times && c != '+' && c != '*' && c != '-' && c != '/') return false;
    size_t before = at, behind = at + (times ? (text_[at] == '\\' ? 4 : 2) : 1);
    while (times && behind < text_.size() && IsLetter(text_[behind])) ++behind;
    while (before > 0 && text_[before - 1] == ' ') --before;
    while (behind < text_.size() && (text_[behind] == ' ' || text_[behind] == '$')) ++behind;
    if (before == 0 || behind >= text_.size()) return false;
    const char left = text_[before - 1], right = text_[behind];
    const bool spaced = before < at || c == '+' || times;
    return (IsDigit(left) || left == ')' || left == '}' || left == '%' ||
            (spaced && IsLetter(left))) &&
           (IsDigit(right) || right == '(' || right == '\\');
  }

  absl::string_view text_;
  size_t count_ = 0;
  Number first_, last_;
  bool works_ = false;
};

// The end of the sentence's last clause starts here: behind its last ", ", "; " or ": ".
size_t LastClause(absl::string_view text) {
  size_t at = text.size();
  while (at > 1) {
    --at;
    if (text[at] == ' ' && (text[at - 1] == ',' || text[at - 1] == ';' || text[at - 1] == ':'))
      return at + 1;
    // "，" and "："
    if (at >= 3 && text[at - 3] == '\xEF' &&
        (text.substr(at - 3, 3) == "，" || text.substr(at - 3, 3) == "："))
      return at;
  }
  return 0;
}

// "x = 5" or "$x = 5$" at the end: an unknown is named.
absl::string_view NamedUnknown(absl::string_view text) {
  while (!text.empty() &&
         (text.back() == '$' || text.back() == ')' || text.back() == '\\' || text.back() == '*'))
    text.remove_suffix(1);
  const size_t equals = text.rfind('=');
  if (equals == kNone || equals == 0) return {};
  size_t name = equals;
  while (name > 0 && text[name - 1] == ' ') --name;
  if (name == 0 || !IsLetter(text[name - 1])) return {};
  if (name > 1 && (IsLetter(text[name - 2]) || IsDigit(text[name - 2]))) return {};
  return Trim(text.substr(equals + 1));
}

absl::string_view LastFormula(absl::string_view text) {
  absl::string_view last;
  for (size_t at = 0; at < text.size();) {
    const MathRegion region = text[at] == '$' || text[at] == '\\' ? MathAt(text, at) : MathRegion{};
    if (region.size > 0) last = text.substr(region.inner, region.inner_size);
    at += std::max<size_t>(1, region.size);
  }
  return last;
}

void AddValue(absl::string_view value, ConclusionReading* reading) {
  value = Trim(value);
  if (value.empty() || reading->value_count == reading->values.size()) return;
  for (size_t i = 0; i < reading->value_count; ++i) {
    if (reading->values[i] == value) return;
  }
  reading->values[reading->value_count++] = value;
}

absl::string_view BehindLast(absl::string_view text, absl::string_view word) {
  const size_t at = text.rfind(word);
  return at == kNone ? absl::string_view() : text.substr(at + word.size());
}

bool HasDigit(absl::string_view text) { return std::any_of(text.begin(), text.end(), IsDigit); }

bool IsHedged(absl::string_view text) {
  return std::any_of(kHedges.begin(), kHedges.end(),
                     [&](absl::string_view word) { return HoldsWord(text, word); });
}

// The likeliest first; the content as a whole only where it may be more than one number.
void AddValues(absl::string_view content, absl::string_view named, bool formula,
               ConclusionReading* reading) {
  const Clause numbers(content);
  AddValue(named, reading);
  if (formula) AddValue(LastFormula(content), reading);
  if (numbers.count() > 0) AddValue(numbers.Text(numbers.last()), reading);
  const absl::string_view predicate = BehindLast(content, " is ");
  if (const Clause said(predicate); said.count() > 0 && numbers.count() > 1) {
    AddValue(said.Text(said.first()), reading);
  }
  if (formula || content.find_first_of("=({[") != kNone) AddValue(content, reading);
}

// Takes the final mark and emphasis off.
absl::string_view Bare(absl::string_view text) {
  for (const absl::string_view mark : {"。", "！", "।"}) {
    if (text.size() >= mark.size() && text.substr(text.size() - mark.size()) == mark)
      text.remove_suffix(mark.size());
  }
  while (!text.empty() &&
         (text.back() == '.' || text.back() == '!' || text.back() == '*' || IsSpace(text.back())))
    text.remove_suffix(1);
  while (!text.empty() && (text.front() == '*' || text.front() == '_')) text.remove_prefix(1);
  return text;
}

}  // namespace

ConclusionReading ReadConclusion(absl::string_view text, const Sentence& sentence) {
  ConclusionReading reading;
  const absl::string_view whole = text.substr(sentence.begin, sentence.end - sentence.begin);
  reading.has_digits = HasDigit(whole);
  const bool formula = whole.find('$') != kNone || whole.find('\\') != kNone;
  if ((!reading.has_digits && !formula) || whole.size() > kSentenceBytesMax) return reading;
  if (whole.back() == '?' || whole.substr(whole.size() - std::min<size_t>(3, whole.size())) == "？")
    return reading;
  absl::string_view said = Bare(whole);
  if (sentence.in_answer_tag) {
    reading.kind = Conclusion::kConfirm;
    AddValue(said, &reading);
    return reading;
  }
  if (const Cue cue = FindCue(text, sentence); cue.size > 0) {
    // What a hesitation says is behind its cue: "Just to be sure: the sum is 10."
    const size_t behind = cue.begin + cue.size - sentence.begin;
    if (behind < said.size()) said = said.substr(behind);
  }
  absl::string_view clause = said;
  size_t confirm = LeadSize(said, kConfirms), lead = LeadSize(said, kLeads);
  if (confirm == 0 && lead == 0) {
    const size_t last = LastClause(said);
    const absl::string_view tail = said.substr(last);
    const size_t tail_lead = LeadSize(tail, kLeads);
    const bool joined = WordAt(tail, 0, "and");
    if (last > 0 && (tail_lead > 0 || (joined && Clause(tail).count() == 1))) {
      clause = tail;
      lead = tail_lead;
    }
  }
  if (IsHedged(clause)) return reading;
  const absl::string_view content = clause.substr(std::max(confirm, lead));
  const Clause numbers(content);
  const absl::string_view named = NamedUnknown(content);
  if (confirm > 0) {
    reading.kind = Conclusion::kConfirm;
  } else if (lead > 0 || !named.empty() || HoldsWord(content, "together") ||
             HoldsWord(content, "altogether") || HoldsWord(content, "in total")) {
    reading.kind = Conclusion::kStrong;
  } else if (numbers.works() ? numbers.AssertsBehindLast() : numbers.count() == 1) {
    reading.kind = Conclusion::kWeak;
  } else {
    return reading;
  }
  // A calculation is working, unless it ends the sentence that a conclusion leads.
  const bool leads_sentence = (lead > 0 || confirm > 0) && clause.data() == said.data();
  if (numbers.works() && !leads_sentence && !numbers.AssertsBehindLast()) {
    reading.kind = Conclusion::kNone;
    return reading;
  }
  AddValues(content, named, formula, &reading);
  return reading;
}

}  // namespace espalier::reward
