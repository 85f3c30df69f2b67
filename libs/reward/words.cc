// Every reader works on a bounded text: longer ones are no such answers.
#include "libs/reward/words.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/reward/fold.h"
#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

constexpr size_t kWordsBytesMax = 200;

struct NumberWord {
  absl::string_view word;
  long value;
};

constexpr std::array<NumberWord, 28> kEnglish = {{
    {"zero", 0},     {"one", 1},      {"two", 2},        {"three", 3},     {"four", 4},
    {"five", 5},     {"six", 6},      {"seven", 7},      {"eight", 8},     {"nine", 9},
    {"ten", 10},     {"eleven", 11},  {"twelve", 12},    {"thirteen", 13}, {"fourteen", 14},
    {"fifteen", 15}, {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},
    {"twenty", 20},  {"thirty", 30},  {"forty", 40},     {"fifty", 50},    {"sixty", 60},
    {"seventy", 70}, {"eighty", 80},  {"ninety", 90},
}};

constexpr std::array<NumberWord, 4> kScales = {
    {{"hundred", 100}, {"thousand", 1000}, {"million", 1000000}, {"billion", 1000000000}}};

constexpr std::array<NumberWord, 29> kOrdinals = {{
    {"first", 1},         {"second", 2},      {"third", 3},       {"fourth", 4},
    {"fifth", 5},         {"sixth", 6},       {"seventh", 7},     {"eighth", 8},
    {"ninth", 9},         {"tenth", 10},      {"eleventh", 11},   {"twelfth", 12},
    {"thirteenth", 13},   {"fourteenth", 14}, {"fifteenth", 15},  {"sixteenth", 16},
    {"seventeenth", 17},  {"eighteenth", 18}, {"nineteenth", 19}, {"twentieth", 20},
    {"thirtieth", 30},    {"fortieth", 40},   {"fiftieth", 50},   {"sixtieth", 60},
    {"seventieth", 70},   {"eightieth", 80},  {"ninetieth", 90},  {"hundredth", 100},
    {"thousandth", 1000},
}};

// Small numbers of Spanish, French and German; a word that two of them share has one value.
constexpr std::array<NumberWord, 62> kForeign = {{
    {"cero", 0},      {"uno", 1},       {"dos", 2},       {"tres", 3},       {"cuatro", 4},
    {"cinco", 5},     {"seis", 6},      {"siete", 7},     {"ocho", 8},       {"nueve", 9},
    {"diez", 10},     {"once", 11},     {"doce", 12},     {"trece", 13},     {"catorce", 14},
    {"quince", 15},   {"veinte", 20},   {"treinta", 30},  {"cuarenta", 40},  {"cincuenta", 50},
    {"cien", 100},    {"deux", 2},      {"trois", 3},     {"quatre", 4},     {"cinq", 5},
    {"sept", 7},      {"huit", 8},      {"neuf", 9},      {"dix", 10},       {"onze", 11},
    {"douze", 12},    {"treize", 13},   {"quatorze", 14}, {"quinze", 15},    {"seize", 16},
    {"vingt", 20},    {"trente", 30},   {"quarante", 40}, {"cinquante", 50}, {"soixante", 60},
    {"cent", 100},    {"null", 0},      {"eins", 1},      {"zwei", 2},       {"drei", 3},
    {"vier", 4},      {"fünf", 5},      {"sechs", 6},     {"sieben", 7},     {"acht", 8},
    {"neun", 9},      {"zehn", 10},     {"elf", 11},      {"zwölf", 12},     {"dreizehn", 13},
    {"vierzehn", 14}, {"fünfzehn", 15}, {"zwanzig", 20},  {"dreißig", 30},   {"vierzig", 40},
    {"fünfzig", 50},  {"hundert", 100},
}};

using Phrase = std::pair<absl::string_view, absl::string_view>;
constexpr std::array<Phrase, 32> kPhrases = {{
    {"no solution", "\\emptyset"},
    {"no solutions", "\\emptyset"},
    {"no real solution", "\\emptyset"},
    {"no real solutions", "\\emptyset"},
    {"there is no solution", "\\emptyset"},
    {"there are no solutions", "\\emptyset"},
    {"there are no real solutions", "\\emptyset"},
    {"there is no real solution", "\\emptyset"},
    {"no real roots", "\\emptyset"},
    {"none", "\\emptyset"},
    {"empty set", "\\emptyset"},
    {"empty", "\\emptyset"},
    {"null set", "\\emptyset"},
    {"no such number", "\\emptyset"},
    {"无解", "\\emptyset"},
    {"sin solución", "\\emptyset"},
    {"keine lösung", "\\emptyset"},
    {"all real numbers", "\\mathbb{R}"},
    {"all reals", "\\mathbb{R}"},
    {"real numbers", "\\mathbb{R}"},
    {"any real number", "\\mathbb{R}"},
    {"every real number", "\\mathbb{R}"},
    {"reals", "\\mathbb{R}"},
    {"infinity", "\\infty"},
    {"diverges to infinity", "\\infty"},
    {"tends to infinity", "\\infty"},
    {"positive infinity", "\\infty"},
    {"negative infinity", "-\\infty"},
    {"minus infinity", "-\\infty"},
    {"dne", "\\text{undefined}"},
    {"does not exist", "\\text{undefined}"},
    {"not defined", "\\text{undefined}"},
}};

constexpr std::array<absl::string_view, 12> kMonths = {
    "january", "february", "march",     "april",   "may",      "june",
    "july",    "august",   "september", "october", "november", "december"};

template <typename List>
std::optional<long> ValueIn(const List& list, absl::string_view word) {
  for (const NumberWord& entry : list) {
    if (entry.word == word) return entry.value;
  }
  return std::nullopt;
}

// Letters, digits and the rest apart, lower case, LaTeX wrappers dropped.
std::vector<std::string> Pieces(absl::string_view text) {
  std::vector<std::string> pieces;
  bool joined = false;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '\\') {
      size_t end = at + 1;
      while (end < text.size() && IsLetter(text[end])) ++end;
      if (end == at + 1) ++end;
      const absl::string_view name = text.substr(at, end - at);
      const bool wrapper = name == "\\text" || name == "\\mathrm" || name == "\\textbf" ||
                           name == "\\textrm" || name == "\\mbox" || name == "\\mathbf" ||
                           name == "\\textit" || name == "\\textnormal";
      const bool space = name.size() == 2;
      if (!wrapper && !space) pieces.emplace_back(name);
      at = end;
      if (space) joined = false;
      continue;
    }
    const char c = text[at];
    if (c == '{' || c == '}' || c == '$' || c == '"' || c == '*') {
      ++at;
      continue;
    }
    if (IsSpace(c) || c == '~') {
      joined = false;
      ++at;
      continue;
    }
    const bool word = IsWordByte(c), digit = IsDigit(c);
    std::string piece(1, Lower(c));
    const bool same =
        joined && !pieces.empty() &&
        ((word && IsWordByte(pieces.back().back())) || (digit && IsDigit(pieces.back().back())));
    if (same) {
      pieces.back() += piece;
    } else {
      pieces.push_back(std::move(piece));
    }
    joined = true;
    ++at;
  }
  return pieces;
}

// Reads a cardinal at `at`: "two hundred and five", "thirty-six". Hyphens are pieces.
std::optional<long> Cardinal(const std::vector<std::string>& words, size_t* at) {
  long total = 0, group = 0;
  bool any = false;
  size_t i = *at, end = *at;
  while (i < words.size()) {
    if (any && (words[i] == "-" || words[i] == "and") && i + 1 < words.size() &&
        (ValueIn(kEnglish, words[i + 1]) || ValueIn(kScales, words[i + 1]))) {
      // "two and three" are two numbers; "two hundred and three" is one.
      if (words[i] == "and" && (group == 0 ? total == 0 : group % 100 != 0)) break;
      ++i;
      continue;
    }
    if (const auto value = ValueIn(kEnglish, words[i])) {
      const bool fits = *value < 10 ? group % 10 == 0 && (group % 100 == 0 || group % 100 >= 20)
                                    : group % 100 == 0;
      if (any && !fits) break;
      group += *value;
    } else if (const auto scale = ValueIn(kScales, words[i])) {
      if (!any && words[i] != "hundred" && words[i] != "thousand") break;
      if (!any) group = 1;
      if (*scale == 100) {
        if (group == 0 || group > 99) break;
        group *= 100;
      } else {
        total += std::max(group, 1L) * *scale;
        group = 0;
      }
    } else {
      break;
    }
    any = true;
    end = ++i;
  }
  if (!any) return std::nullopt;
  *at = end;
  return total + group;
}

// "half", "thirds", "quarter", "fifths": the denominator, or 0.
long Denominator(absl::string_view word) {
  if (word == "half" || word == "halves") return 2;
  if (word == "quarter" || word == "quarters") return 4;
  if (word.size() > 2 && word.back() == 's') word.remove_suffix(1);
  const auto value = ValueIn(kOrdinals, word);
  return value && *value > 2 ? *value : 0;
}

std::string Rest(const std::vector<std::string>& words, size_t at) {
  std::string rest;
  for (; at < words.size(); ++at) absl::StrAppend(&rest, " ", words[at]);
  return rest;
}

// One Chinese numeral below 10,000, such as "二百零五"; nothing for other words.
std::optional<long> ChineseNumber(absl::string_view text) {
  constexpr std::array<absl::string_view, 11> kDigits = {"零", "一", "二", "三", "四", "五",
                                                         "六", "七", "八", "九", "两"};
  constexpr std::array<std::pair<absl::string_view, long>, 3> kUnits = {
      {{"十", 10}, {"百", 100}, {"千", 1000}}};
  long total = 0, digit = -1;
  if (text.empty() || text.size() > 27) return std::nullopt;
  for (size_t at = 0; at < text.size(); at += 3) {
    const absl::string_view sign = text.substr(at, 3);
    const auto found = std::find(kDigits.begin(), kDigits.end(), sign);
    if (found != kDigits.end()) {
      if (digit > 0) return std::nullopt;
      digit = found - kDigits.begin();
      if (digit == 10) digit = 2;
      continue;
    }
    const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                   [&](const auto& entry) { return entry.first == sign; });
    if (unit == kUnits.end()) return std::nullopt;
    total += (digit < 0 ? 1 : digit) * unit->second;
    digit = -1;
  }
  return total + std::max(digit, 0L);
}

// "3rd", "21st" -> the digits, or nothing.
bool IsOrdinalSuffix(absl::string_view word) {
  return word == "st" || word == "nd" || word == "rd" || word == "th";
}

// What stands for the numeral at the start of `words`, and `at` behind it; empty when there is
// none.
std::string Numeral(const std::vector<std::string>& words, size_t* at) {
  size_t i = *at;
  if (words[i] == "a" || words[i] == "an") {
    // "a half", "a dozen", "a hundred"
    if (i + 1 >= words.size()) return "";
    const std::string& next = words[i + 1];
    if (Denominator(next) != 0) return *at = i + 2, absl::StrCat("1/", Denominator(next));
    if (next == "dozen") return *at = i + 2, "12";
    if (next != "hundred" && next != "thousand") return "";
    ++i;
  }
  if (words[i] == "half") return *at = i + 1, "1/2";
  if (words[i] == "dozen") return *at = i + 1, "12";
  const auto value = Cardinal(words, &i);
  if (value) {
    size_t behind = i;
    if (behind < words.size() && words[behind] == "dozen")
      return *at = behind + 1, absl::StrCat(*value * 12);
    if (behind < words.size() && words[behind] == "-") ++behind;
    // "two thirds", "one and a half"
    if (behind < words.size() && Denominator(words[behind]) != 0)
      return *at = behind + 1, absl::StrCat(*value, "/", Denominator(words[behind]));
    if (i + 2 < words.size() && words[i] == "and" &&
        (words[i + 1] == "a" || words[i + 1] == "one") && Denominator(words[i + 2]) != 0) {
      const long under = Denominator(words[i + 2]);
      return *at = i + 3, absl::StrCat(*value * under + 1, "/", under);
    }
    // "twenty-first"
    if (behind < words.size() && behind == i + 1) {
      const auto ordinal = ValueIn(kOrdinals, words[behind]);
      if (ordinal && *ordinal < 10) return *at = behind + 1, absl::StrCat(*value + *ordinal);
    }
    return *at = i, absl::StrCat(*value);
  }
  if (const auto ordinal = ValueIn(kOrdinals, words[*at])) return ++*at, absl::StrCat(*ordinal);
  if (words.size() == 1) {
    if (const auto foreign = ValueIn(kForeign, words[0])) return *at = 1, absl::StrCat(*foreign);
    if (const auto chinese = ChineseNumber(words[0])) return *at = 1, absl::StrCat(*chinese);
  }
  return "";
}

bool AllWords(const std::vector<std::string>& words, size_t at) {
  return std::all_of(words.begin() + static_cast<std::ptrdiff_t>(at), words.end(),
                     [](const std::string& word) { return IsWordByte(word[0]); });
}

bool IsArticle(absl::string_view word) { return word == "the" || word == "a" || word == "an"; }

}  // namespace

std::string PlainWords(absl::string_view text) {
  if (text.empty() || text.size() > kWordsBytesMax) return "";
  std::vector<std::string> words;
  bool long_word = false;
  for (std::string& piece : Pieces(text)) {
    const char c = piece[0];
    if (IsWordByte(c)) {
      long_word = long_word || piece.size() > 1;
      if (!IsArticle(piece)) words.push_back(std::move(piece));
    } else if (c != '.' && c != '\'' && c != '-' && c != '!' && c != '`') {
      return "";
    }
  }
  if (!long_word) return "";
  if (words.size() > 2 && words[0] == "it" && words[1] == "is")
    words.erase(words.begin(), words.begin() + 2);
  if (words.size() > 1 && (words[0] == "on" || words[0] == "in" || words[0] == "at"))
    words.erase(words.begin());
  return absl::StrJoin(words, " ");
}

std::string RewriteWords(absl::string_view text) {
  if (text.empty() || text.size() > kWordsBytesMax) return "";
  std::vector<std::string> words = Pieces(text);
  while (!words.empty() && words.back() == ".") words.pop_back();
  if (words.empty() || words.size() > 16) return "";
  if (IsDigit(words[0][0])) {
    // "21st", "3^{rd}", "25 thousand", "2 thirds"
    if (words.size() == 3 && words[1] == "to" && IsDigit(words[2][0]))
      return absl::StrCat(words[0], ":", words[2]);
    const size_t next = words.size() > 1 && words[1] == "^" ? 2 : 1;
    if (words.size() == next + 1 && IsOrdinalSuffix(words[next])) return words[0];
    if (words.size() < 2 || !AllWords(words, 1) || words[0].size() > 9) return "";
    const long value = std::strtol(words[0].c_str(), nullptr, 10);
    if (const auto scale = ValueIn(kScales, words[1]))
      return absl::StrCat(value * *scale, Rest(words, 2));
    if (words[1] == "dozen") return absl::StrCat(value * 12, Rest(words, 2));
    if (words[1] == "trillion") return absl::StrCat(value, "000000000000", Rest(words, 2));
    const long under = Denominator(words[1]);
    if (under != 0 && words.size() == 2 && words[1] != "second" && words[1] != "seconds")
      return absl::StrCat(value, "/", under);
    return "";
  }
  if (!IsWordByte(words[0][0])) return "";
  const bool article = words[0] == "the";
  const std::string plain = absl::StrJoin(words.begin() + article, words.end(), " ");
  for (const auto& [phrase, meaning] : kPhrases) {
    if (plain == phrase) return std::string(meaning);
    // "all real numbers except 1"
    if (meaning != "\\mathbb{R}" || plain.size() < phrase.size() ||
        absl::string_view(plain).substr(0, phrase.size()) != phrase)
      continue;
    for (const absl::string_view except : {" except for ", " except ", " other than "}) {
      const absl::string_view rest = absl::string_view(plain).substr(phrase.size());
      if (rest.substr(0, except.size()) == except)
        return absl::StrCat(meaning, "\\setminus\\{", rest.substr(except.size()), "\\}");
    }
  }
  size_t at = article ? 1 : 0;
  if (at >= words.size()) return "";
  const bool negative = words[at] == "negative" || words[at] == "minus";
  if (negative && ++at >= words.size()) return "";
  std::string numeral = Numeral(words, &at);
  if (numeral.empty() || !AllWords(words, at) || words.size() - at > 4) return "";
  // "one of them", "second hand": what follows must be able to be a unit.
  for (size_t i = at; i < words.size(); ++i) {
    if (words[i] == "of" || words[i] == "or" || words[i] == "and" || words[i] == "not") return "";
  }
  return absl::StrCat(negative ? "-" : "", numeral, Rest(words, at));
}

std::optional<ClockTime> ReadClock(absl::string_view text) {
  if (text.empty() || text.size() > 60) return std::nullopt;
  std::vector<std::string> words = Pieces(text);
  // "p.m." and "pm" are one word.
  std::string flat;
  for (const std::string& word : words) {
    if (word != ".") flat += word;
  }
  ClockTime time;
  if (flat == "noon" || flat == "midnight") {
    time.minutes = flat == "noon" ? 720 : 0;
    time.marked = time.certain = true;
    return time;
  }
  size_t at = 0;
  const auto number = [&](size_t digits_max) {
    int value = -1;
    for (size_t n = 0; n < digits_max && at < flat.size() && IsDigit(flat[at]); ++n)
      value = std::max(value, 0) * 10 + (flat[at++] - '0');
    return value;
  };
  const int hour = number(2);
  if (hour < 0 || hour > 24) return std::nullopt;
  int minute = 0;
  const bool colon = at < flat.size() && flat[at] == ':';
  if (colon) {
    ++at;
    const size_t first = at;
    minute = number(2);
    if (at - first != 2 || minute > 59) return std::nullopt;
  }
  const std::string half = flat.substr(at);
  if (half.empty()) {
    if (!colon || hour == 24) return std::nullopt;
    time.minutes = hour * 60 + minute;
    time.certain = hour == 0 || hour > 12;
    return time;
  }
  const bool am = half == "am" || half == "midnight", pm = half == "pm" || half == "noon";
  if ((!am && !pm) || hour == 0 || hour > 12) return std::nullopt;
  time.minutes = (hour % 12 + (pm ? 12 : 0)) * 60 + minute;
  time.marked = time.certain = true;
  return time;
}

bool SameTime(const ClockTime& a, const ClockTime& b) {
  if (a.certain && b.certain) return a.minutes == b.minutes;
  return a.minutes % 720 == b.minutes % 720;
}

std::optional<Date> ReadDate(absl::string_view text) {
  if (text.empty() || text.size() > 60) return std::nullopt;
  Date date;
  for (const std::string& word : Pieces(text)) {
    if (IsDigit(word[0])) {
      const int value = word.size() > 4 ? 0 : std::atoi(word.c_str());
      if (word.size() <= 2 && date.day == 0 && value >= 1 && value <= 31) {
        date.day = value;
      } else if (word.size() == 4 && date.year == 0) {
        date.year = value;
      } else {
        return std::nullopt;
      }
      continue;
    }
    if (word == "," || word == "." || word == "of" || IsArticle(word) || IsOrdinalSuffix(word))
      continue;
    int month = 0;
    for (size_t i = 0; i < kMonths.size(); ++i) {
      if (word == kMonths[i] || (word.size() == 3 && kMonths[i].substr(0, 3) == word))
        month = static_cast<int>(i) + 1;
    }
    if (month == 0 || date.month != 0) return std::nullopt;
    date.month = month;
  }
  if (date.month == 0 || date.day == 0) return std::nullopt;
  return date;
}

}  // namespace espalier::reward
