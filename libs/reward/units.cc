// A small table of exact factors; powers, quotients and plurals are derived.
#include "libs/reward/units.h"

#include <algorithm>
#include <array>

namespace espalier::reward {
namespace {

constexpr size_t kUnitBytesMax = 40;

// `dimension` holds a base dimension in capitals for each power above, in small letters for each
// below: L length, M mass, T time, Y months, D dollars, E euros, G pounds, J yen, R rupees, A
// angle, U a unit of no name, V volts, C degrees Celsius, B bytes.
struct Row {
  absl::string_view name;
  const char* dimension;
  const char* factor;
};

constexpr std::array<Row, 123> kRows = {{
    {"nm", "L", "1/1000000000"},
    {"mm", "L", "1/1000"},
    {"millimeter", "L", "1/1000"},
    {"millimetre", "L", "1/1000"},
    {"cm", "L", "1/100"},
    {"centimeter", "L", "1/100"},
    {"centimetre", "L", "1/100"},
    {"dm", "L", "1/10"},
    {"m", "L", "1"},
    {"meter", "L", "1"},
    {"metre", "L", "1"},
    {"km", "L", "1000"},
    {"kilometer", "L", "1000"},
    {"kilometre", "L", "1000"},
    {"inch", "L", "127/5000"},
    {"inches", "L", "127/5000"},
    {"in", "L", "127/5000"},
    {"foot", "L", "381/1250"},
    {"feet", "L", "381/1250"},
    {"ft", "L", "381/1250"},
    {"yard", "L", "1143/1250"},
    {"yd", "L", "1143/1250"},
    {"mile", "L", "201168/125"},
    {"mi", "L", "201168/125"},
    {"mg", "M", "1/1000000"},
    {"milligram", "M", "1/1000000"},
    {"g", "M", "1/1000"},
    {"gram", "M", "1/1000"},
    {"kg", "M", "1"},
    {"kilogram", "M", "1"},
    {"kilo", "M", "1"},
    {"ton", "M", "1000"},
    {"tonne", "M", "1000"},
    {"lb", "M", "45359237/100000000"},
    {"pound", "M", "45359237/100000000"},
    {"oz", "M", "45359237/1600000000"},
    {"ounce", "M", "45359237/1600000000"},
    {"ms", "T", "1/1000"},
    {"millisecond", "T", "1/1000"},
    {"s", "T", "1"},
    {"sec", "T", "1"},
    {"second", "T", "1"},
    {"min", "T", "60"},
    {"minute", "T", "60"},
    {"h", "T", "3600"},
    {"hr", "T", "3600"},
    {"hour", "T", "3600"},
    {"day", "T", "86400"},
    {"week", "T", "604800"},
    {"month", "Y", "1"},
    {"year", "Y", "12"},
    {"yr", "Y", "12"},
    {"decade", "Y", "120"},
    {"century", "Y", "1200"},
    {"centuries", "Y", "1200"},
    {"$", "D", "1"},
    {"dollar", "D", "1"},
    {"usd", "D", "1"},
    {"buck", "D", "1"},
    {"cent", "D", "1/100"},
    {"¢", "D", "1/100"},
    {"pennies", "D", "1/100"},
    {"penny", "D", "1/100"},
    {"euro", "E", "1"},
    {"eur", "E", "1"},
    {"€", "E", "1"},
    {"gbp", "G", "1"},
    {"£", "G", "1"},
    {"yen", "J", "1"},
    {"¥", "J", "1"},
    {"yuan", "K", "1"},
    {"元", "K", "1"},
    {"rupee", "R", "1"},
    {"₹", "R", "1"},
    {"ml", "LLL", "1/1000000"},
    {"milliliter", "LLL", "1/1000000"},
    {"millilitre", "LLL", "1/1000000"},
    {"cc", "LLL", "1/1000000"},
    {"cl", "LLL", "1/100000"},
    {"l", "LLL", "1/1000"},
    {"liter", "LLL", "1/1000"},
    {"litre", "LLL", "1/1000"},
    {"gallon", "LLL", "473176473/125000000000"},
    {"gal", "LLL", "473176473/125000000000"},
    {"quart", "LLL", "473176473/500000000000"},
    {"qt", "LLL", "473176473/500000000000"},
    {"pint", "LLL", "473176473/1000000000000"},
    {"cup", "LLL", "473176473/2000000000000"},
    {"acre", "LL", "316160658/78125"},
    {"hectare", "LL", "10000"},
    {"ha", "LL", "10000"},
    {"mph", "Lt", "1397/3125"},
    {"kph", "Lt", "5/18"},
    {"kmh", "Lt", "5/18"},
    {"kmph", "Lt", "5/18"},
    {"fps", "Lt", "381/1250"},
    {"radian", "A", "1"},
    {"rad", "A", "1"},
    {"unit", "U", "1"},
    {"n", "MLtt", "1"},
    {"newton", "MLtt", "1"},
    {"j", "MLLtt", "1"},
    {"joule", "MLLtt", "1"},
    {"kj", "MLLtt", "1000"},
    {"kilojoule", "MLLtt", "1000"},
    {"w", "MLLttt", "1"},
    {"watt", "MLLttt", "1"},
    {"kw", "MLLttt", "1000"},
    {"kilowatt", "MLLttt", "1000"},
    {"pa", "Mltt", "1"},
    {"pascal", "Mltt", "1"},
    {"kpa", "Mltt", "1000"},
    {"hz", "t", "1"},
    {"hertz", "t", "1"},
    {"khz", "t", "1000"},
    {"v", "V", "1"},
    {"volt", "V", "1"},
    {"byte", "B", "1"},
    {"kb", "B", "1000"},
    {"mb", "B", "1000000"},
    {"gb", "B", "1000000000"},
    {"km/hr", "Lt", "5/18"},
    {"celsius", "C", "1"},
}};

constexpr std::array<absl::string_view, 9> kTextCommands = {
    "text", "mathrm", "textrm", "textnormal", "mbox", "rm", "operatorname", "textbf", "mathbf"};

char Inverse(char dimension) {
  return dimension >= 'a' ? static_cast<char>(dimension - 'a' + 'A')
                          : static_cast<char>(dimension - 'A' + 'a');
}

// Sorted, and without what stands above and below.
std::string Reduced(std::string dimension) {
  for (bool again = true; again;) {
    again = false;
    for (size_t i = 0; i < dimension.size() && !again; ++i) {
      const size_t j = dimension.find(Inverse(dimension[i]));
      if (j == std::string::npos) continue;
      dimension.erase(std::max(i, j), 1).erase(std::min(i, j), 1);
      again = true;
    }
  }
  std::sort(dimension.begin(), dimension.end());
  return dimension;
}

std::optional<Unit> Lookup(absl::string_view name) {
  for (const Row& row : kRows) {
    const bool plural = name.size() == row.name.size() + 1 && name.back() == 's' &&
                        row.name.size() > 2 && name.substr(0, row.name.size()) == row.name;
    if (name == row.name || plural) return Unit{row.dimension, mpq_class(row.factor, 10)};
  }
  return std::nullopt;
}

std::optional<Unit> Power(const std::optional<Unit>& unit, int power) {
  if (!unit) return std::nullopt;
  Unit result{"", 1};
  for (int i = 0; i < power; ++i) {
    result.factor *= unit->factor;
    result.dimension += unit->dimension;
  }
  return result;
}

bool TakePrefix(absl::string_view* text, absl::string_view prefix) {
  if (text->substr(0, prefix.size()) != prefix) return false;
  text->remove_prefix(prefix.size());
  return true;
}
bool TakeSuffix(absl::string_view* text, absl::string_view suffix) {
  if (text->size() < suffix.size() || text->substr(text->size() - suffix.size()) != suffix)
    return false;
  text->remove_suffix(suffix.size());
  return true;
}

// "square feet", "cm^2", "seconds squared".
std::optional<Unit> Factor(absl::string_view words) {
  while (!words.empty() && words.front() == ' ') words.remove_prefix(1);
  while (!words.empty() && words.back() == ' ') words.remove_suffix(1);
  int power = 1;
  if (TakePrefix(&words, "square ") || TakePrefix(&words, "sq ") || TakePrefix(&words, "sq. ") ||
      TakeSuffix(&words, " squared") || TakeSuffix(&words, "^2")) {
    power = 2;
  } else if (TakePrefix(&words, "cubic ") || TakePrefix(&words, "cu ") ||
             TakeSuffix(&words, " cubed") || TakeSuffix(&words, "^3")) {
    power = 3;
  }
  return Power(Lookup(words), power);
}

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// LaTeX around words removed; empty when it is no mere wrapping. `wrapped` says whether some
// command marked the words as text.
std::string Cleaned(absl::string_view text, bool* wrapped) {
  std::string words;
  const auto space = [&] {
    if (!words.empty() && words.back() != ' ') words += ' ';
  };
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '\\') {
      size_t end = at + 1;
      while (end < text.size() && IsLetter(text[end])) ++end;
      const absl::string_view name = text.substr(at + 1, end - at - 1);
      if (name.empty()) {
        if (end < text.size() &&
            absl::string_view(",;:! $").find(text[end]) == absl::string_view::npos)
          return "";
        if (end < text.size() && text[end] == '$') words += '$';
        at = end + 1;
        space();
        continue;
      }
      if (std::find(kTextCommands.begin(), kTextCommands.end(), name) != kTextCommands.end()) {
        *wrapped = true;
      } else if (name != "quad") {
        return "";
      }
      at = end;
      space();
      continue;
    }
    if (c == ' ' || c == '~' || c == '\n') {
      space();
    } else if (IsLetter(c) || c == '/' || c == '^' || (IsDigit(c) && !words.empty()) ||
               static_cast<unsigned char>(c) >= 0x80) {
      words += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (c == '.' && at + 1 < text.size() && IsDigit(text[at + 1])) {
      return "";
    } else if (c != '{' && c != '}' && c != '$' && c != '.') {
      return "";
    }
    ++at;
  }
  while (!words.empty() && words.back() == ' ') words.pop_back();
  return words;
}

// "3000 meters" is no value of its own; "2\\pi" is.
bool EndsInWord(absl::string_view value) {
  size_t begin = value.size();
  while (begin > 0 && IsLetter(value[begin - 1])) --begin;
  return value.size() - begin > 1 && (begin == 0 || value[begin - 1] != '\\');
}

// Money before the number; `size` is how long its sign is.
const char* MoneyBefore(absl::string_view text, size_t* size) {
  struct Sign {
    absl::string_view sign;
    const char* unit;
  };
  constexpr std::array<Sign, 14> kSigns = {{{"US\\$", "dollar"},
                                            {"US$", "dollar"},
                                            {"\\$", "dollar"},
                                            {"$", "dollar"},
                                            {"USD", "dollar"},
                                            {"€", "euro"},
                                            {"\\euro", "euro"},
                                            {"EUR", "euro"},
                                            {"£", "gbp"},
                                            {"\\pounds", "gbp"},
                                            {"GBP", "gbp"},
                                            {"¥", "yen"},
                                            {"₹", "rupee"},
                                            {"Rs.", "rupee"}}};
  for (const Sign& sign : kSigns) {
    if (text.substr(0, sign.sign.size()) != sign.sign) continue;
    *size = sign.sign.size();
    // "$125$ miles" is a formula.
    if (sign.sign == "$" && text.find('$', 1) != absl::string_view::npos) return nullptr;
    while (*size < text.size() && text[*size] == ' ') ++*size;
    return *size < text.size() &&
                   (IsDigit(text[*size]) || text[*size] == '.' || text[*size] == '\\')
               ? sign.unit
               : nullptr;
  }
  return nullptr;
}

}  // namespace

std::optional<Unit> FindUnit(absl::string_view text) {
  if (text.empty() || text.size() > kUnitBytesMax) return std::nullopt;
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  absl::string_view words = lower;
  // "per" and "/" divide.
  Unit result{"", 1};
  bool below = false, any = false;
  while (!words.empty()) {
    const size_t slash = words.find('/'), per = words.find(" per ");
    const size_t end = std::min({slash, per, words.size()});
    const auto factor = Factor(words.substr(0, end));
    if (!factor) return std::nullopt;
    for (const char c : factor->dimension) result.dimension += below ? Inverse(c) : c;
    if (below) {
      result.factor /= factor->factor;
    } else {
      result.factor *= factor->factor;
    }
    any = below = true;
    if (end == words.size()) break;
    words.remove_prefix(end + (end == slash ? 1 : 5));
    if (words.empty()) return std::nullopt;
  }
  if (!any) return std::nullopt;
  result.dimension = Reduced(result.dimension);
  return result;
}

bool IsUnitLetter(absl::string_view name) {
  return name.size() == 1 &&
         absl::string_view("msghLlNJWV").find(name[0]) != absl::string_view::npos;
}

bool SameUnitName(absl::string_view a, absl::string_view b) {
  const auto pounds = [](absl::string_view name) { return name == "pound" || name == "pounds"; };
  const auto money = [](absl::string_view name) { return name == "gbp" || name == "£"; };
  return (pounds(a) && money(b)) || (pounds(b) && money(a));
}

bool MayHoldMoney(absl::string_view text) {
  const auto sign = [](char c) {
    return c == '$' || static_cast<unsigned char>(c) >= 0x80 || c == '\\' || c == 'U' || c == 'R' ||
           c == 'E' || c == 'G';
  };
  const size_t first = !text.empty() && text[0] == '-' ? 1 : 0;
  return text.size() > first + 1 && (sign(text[first]) || sign(text.back()));
}

Quantity SplitQuantity(absl::string_view text) {
  const Quantity whole{std::string(text), ""};
  const bool negative = text.size() > 1 && text[0] == '-';
  size_t size = 0;
  if (const char* money = MoneyBefore(text.substr(negative), &size)) {
    const Quantity rest = SplitQuantity(text.substr(negative + size));
    return {(negative ? "-" : "") + rest.value, money};
  }
  if (!text.empty() && text.back() == '$') {
    absl::string_view value = text.substr(0, text.size() - 1);
    if (!value.empty() && value.back() == '\\') value.remove_suffix(1);
    while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
    if (!value.empty() && IsDigit(value.back()) && value.find('$') == absl::string_view::npos)
      return {std::string(value), "dollar"};
    return whole;
  }
  const size_t from = text.size() > kUnitBytesMax ? text.size() - kUnitBytesMax : 1;
  for (size_t at = from; at < text.size(); ++at) {
    const char c = text[at], before = text[at - 1];
    const bool wide = static_cast<unsigned char>(c) >= 0x80;
    const bool apart = c == ' ' || c == '\\' || c == '$' || c == '~';
    const bool behind_number = IsDigit(before) || before == '}' || before == '.';
    if (!apart && !((IsLetter(c) || wide) && behind_number)) continue;
    if (wide && static_cast<unsigned char>(before) >= 0x80) continue;
    bool wrapped = false;
    const std::string words = Cleaned(text.substr(at), &wrapped);
    if (words.empty()) continue;
    // A letter alone is a symbol, unless it was written as text; "3m^2" is algebra.
    const bool letter = words.size() == 1 || (words.size() > 1 && words[1] == '^');
    if (!wrapped && letter && !wide && (words.size() == 1 || c != ' ')) continue;
    if (!FindUnit(words)) continue;
    absl::string_view value = text.substr(0, at);
    while (!value.empty() && (value.back() == ' ' || value.back() == '~')) value.remove_suffix(1);
    if (value.size() > 1 && value.substr(value.size() - 2) == "\\,") value.remove_suffix(2);
    if (value.empty() || EndsInWord(value)) continue;
    return {std::string(value), words};
  }
  return whole;
}

std::optional<CompoundQuantity> ReadCompound(absl::string_view text) {
  if (text.size() > 120 || text.empty()) return std::nullopt;
  bool wrapped = false;
  // "1" before the text, so that its leading digits are kept.
  std::string joined = "x " + std::string(text);
  for (size_t comma = joined.find(", "); comma != std::string::npos; comma = joined.find(", "))
    joined.erase(comma, 1);
  const std::string marked = Cleaned(joined, &wrapped);
  if (marked.size() < 3) return std::nullopt;
  const absl::string_view clean = absl::string_view(marked).substr(2);
  CompoundQuantity total;
  std::optional<Unit> first;
  mpq_class last_factor;
  int parts = 0;
  for (size_t at = 0; at < clean.size();) {
    while (at < clean.size() && clean[at] == ' ') ++at;
    if (parts > 0 && clean.substr(at, 4) == "and ") at += 4;
    size_t end = at;
    while (end < clean.size() && IsDigit(clean[end])) ++end;
    if (end == at || end - at > 9) return std::nullopt;
    const mpq_class value(std::string(clean.substr(at, end - at)), 10);
    size_t stop = end;
    while (stop < clean.size() && !IsDigit(clean[stop])) ++stop;
    absl::string_view name = clean.substr(end, stop - end);
    while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
    while (!name.empty() && name.back() == ' ') name.remove_suffix(1);
    TakeSuffix(&name, " and");
    const auto unit = FindUnit(name);
    if (!unit || unit->dimension.empty()) return std::nullopt;
    if (!first) {
      first = unit;
      total.unit = std::string(name);
    } else if (unit->dimension != first->dimension || unit->factor >= last_factor) {
      return std::nullopt;
    }
    last_factor = unit->factor;
    total.value += value * unit->factor / first->factor;
    ++parts;
    at = stop;
  }
  if (parts < 2) return std::nullopt;
  return total;
}

}  // namespace espalier::reward
