// By form alone: the word that leads the sentence or its last clause, how many numbers there are,
// and whether they are worked with.
#include "libs/reward/conclusions.h"

#include <algorithm>
#include <array>

#include "libs/reward/scan.h"
#include "libs/reward/word_index.h"

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
constexpr std::array<absl::string_view, 20> kHedges = {
    "says",  "asks",    "given",   "told",    "suppose",       "assume", "if",
    "let",   "maybe",   "perhaps", "might",   "could",         "try",    "guess",
    "about", "roughly", "would",   "whether", "approximately", "or"};
// A sentence with one of these sums up.
constexpr std::array<absl::string_view, 3> kSums = {"together", "altogether", "in total"};
// Behind the result of a calculation these make it an assertion ("8 - 5 = 3 remain").
constexpr std::array<absl::string_view, 8> kPredicates = {
    "left", "remain", "remains", "remaining", "total", "altogether", "are", "is"};

bool IsNumberByte(char c) { return IsDigit(c) || c == '.' || c == ',' || c == '/'; }

// Whether `word`, which stands at `at`, ends there.
bool Ends(absl::string_view text, size_t at, absl::string_view word) {
  const size_t behind = at + word.size();
  return behind >= text.size() || !IsLetter(text[behind]) || !IsLetter(word.back());
}

bool WordAt(absl::string_view text, size_t at, absl::string_view word) {
  return HoldsAt(text, at, word) && Ends(text, at, word);
}

// The lists above by first byte.
struct Lists {
  WordIndex leads{kLeads}, confirms{kConfirms}, hedges{kHedges}, sums{kSums};
  WordIndex predicates{kPredicates};
};
const Lists& Words() {
  static const auto* const kLists = new Lists;
  return *kLists;
}

// Size of the lead at the start of `text`, with what separates it from the rest; 0 without one.
size_t LeadSize(absl::string_view text, const WordIndex& words) {
  if (text.empty()) return 0;
  size_t behind =
      words.FindAt(text, 0, [&](absl::string_view word) { return Ends(text, 0, word); }).size();
  if (behind == 0) return 0;
  while (behind < text.size() &&
         (text[behind] == ' ' || text[behind] == ',' || text[behind] == ':'))
    ++behind;
  return behind;
}

// Whether one of `words` stands in the text, as a word. One pass.
bool HoldsAny(absl::string_view text, const WordIndex& words) {
  bool inside = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const bool starts = IsWordByte(text[at]) && !inside;
    inside = IsWordByte(text[at]);
    if (!starts || !words.AnyStartsWith(text[at])) continue;
    const auto ends = [&](absl::string_view word) { return Ends(text, at, word); };
    if (!words.FindAt(text, at, ends).empty()) return true;
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
  bool AssertsBehindLast() const { return HoldsAny(text_.substr(last_.end), Words().predicates); }

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
    // Most bytes are none of these.
    if (c != '+' && c != '*' && c != '-' && c != '/' && c != '\\' &&
        static_cast<unsigned char>(c) < 0xC0)
      return false;
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

bool HasLetter(absl::string_view text) { return std::any_of(text.begin(), text.end(), IsWordByte); }

// The value of an equation whose left side is a name: "x = 5", "$x = 5$", "gcd(12, 18) = 6",
// "Speed = 120 / 2 = 60". Empty for others.
absl::string_view NamedValue(absl::string_view text) {
  while (!text.empty() && (text.back() == '$' || text.back() == '\\' || text.back() == '*')) {
    text.remove_suffix(1);
  }
  const size_t first = text.find('='), last = text.rfind('=');
  if (first == kNone || first == 0) return {};
  absl::string_view name = Trim(text.substr(0, first));
  // "Dividing both sides by 3 gives x = 2": the name is the last word before the sign.
  const size_t word = name.rfind(' ');
  if (word != kNone && name.back() != ')' && !HasLetter(name.substr(word))) return {};
  if (!HasLetter(name) || IsDigit(name.back())) return {};
  if (word == kNone && IsDigit(name.front())) return {};  // "2x = 10"
  if (word != kNone && name.back() != ')' && IsDigit(name[word + 1])) return {};
  if (Clause(name).works()) return {};
  return Trim(text.substr(last + 1));
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

// The likeliest first; the content as a whole only where it may be more than one number.
void AddValues(absl::string_view content, absl::string_view named, bool formula,
               ConclusionReading* reading) {
  const Clause numbers(content);
  AddValue(named, reading);
  if (formula) AddValue(LastFormula(content), reading);
  if (numbers.count() > 0) AddValue(numbers.Text(numbers.last()), reading);
  for (const absl::string_view verb : {" is ", " are ", " have ", " need "}) {
    const absl::string_view predicate = BehindLast(content, verb);
    if (predicate.empty() || numbers.count() < 2) continue;
    if (const Clause said(predicate); said.count() > 0) AddValue(said.Text(said.first()), reading);
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

// The clause that may conclude, and the words that lead it.
struct Leading {
  absl::string_view clause;
  size_t confirm = 0, lead = 0;  // sizes
  bool leads_sentence = false;

  absl::string_view content() const { return clause.substr(std::max(confirm, lead)); }
};
Leading FindLeading(absl::string_view said) {
  Leading leading{said, LeadSize(said, Words().confirms), LeadSize(said, Words().leads), true};
  if (leading.confirm > 0 || leading.lead > 0) return leading;
  leading.leads_sentence = false;
  const size_t last = LastClause(said);
  const absl::string_view tail = said.substr(last);
  const size_t lead = LeadSize(tail, Words().leads);
  const bool joined = WordAt(tail, 0, "and") && Clause(tail).count() == 1;
  if (last == 0 || (lead == 0 && !joined)) return leading;
  return {tail, 0, lead, false};
}

// "25 cents make one more": a number that leads a sentence is its subject, not its result.
bool IsPremise(absl::string_view content, const Clause& numbers) {
  return !content.empty() && (IsDigit(content[0]) || content[0] == '$') &&
         !numbers.AssertsBehindLast();
}

Conclusion KindOf(const Leading& leading, const Clause& numbers, absl::string_view named) {
  if (leading.confirm > 0) return Conclusion::kConfirm;
  if (!named.empty()) return Conclusion::kStrong;
  const absl::string_view content = leading.content();
  if (numbers.works()) {
    // A calculation is working, unless it asserts what it yields or ends what a conclusion leads.
    return leading.leads_sentence || numbers.AssertsBehindLast() ? Conclusion::kWeak
                                                                 : Conclusion::kNone;
  }
  if (leading.lead > 0 || HoldsAny(content, Words().sums)) return Conclusion::kStrong;
  return numbers.count() == 1 && !IsPremise(content, numbers) ? Conclusion::kWeak
                                                              : Conclusion::kNone;
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
  const Leading leading = FindLeading(said);
  if (HoldsAny(leading.clause, Words().hedges)) return reading;
  const absl::string_view content = leading.content();
  const Clause numbers(content);
  const absl::string_view named = NamedValue(content);
  reading.kind = KindOf(leading, numbers, named);
  reading.leads = leading.lead > 0;
  reading.names = !named.empty() && !numbers.works();
  if (reading.kind != Conclusion::kNone) AddValues(content, named, formula, &reading);
  return reading;
}

}  // namespace espalier::reward
